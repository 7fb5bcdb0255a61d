"""vit-serve's application under a real Ray Serve: two replicas, of which one is killed."""

import importlib.util
import subprocess
import sys

import pytest

from support import ROOT

SCRIPT = """
import os, signal, sys, time, urllib.error, urllib.request
from collections import Counter
from pathlib import Path

import ray
from ray import serve
from vit_engine.server.ray_serve import Replica

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
replica = Replica.options(num_replicas=2, ray_actor_options={"num_cpus": 0.5})
serve.run(replica.bind(["demo"], "cpu"), name="vit")
star = Path(sys.argv[2]).read_bytes()
url = f"http://127.0.0.1:{sys.argv[1]}/"

def ask(path="", body=None):
    with urllib.request.urlopen(url + path, data=body, timeout=30) as answer:
        return answer.read()

def replicas():
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:vit"):
                    found.append(int(folder.name))
            except OSError:
                pass
    return found

assert b'"label":"star"' in ask(body=star)
assert b'"status":"ready"' in ask("health")
assert b"vit_requests_total" in ask("metrics")
mine = {int(pid) for pid in replicas()}
assert len(mine) == 2, mine
killed = min(mine)
statuses = Counter()
for number in range(200):
    if number == 50:
        os.kill(killed, signal.SIGKILL)
    try:
        statuses["ok"] += b'"label":"star"' in ask(body=star)
    except urllib.error.HTTPError as e:
        statuses[e.code] += 1
    time.sleep(0.02)
# What the killed one was at may be lost; what came after is answered.
assert statuses["ok"] >= 190, statuses
end = time.monotonic() + 60
while len(set(replicas()) - {killed}) < 2:
    assert time.monotonic() < end, replicas()
    time.sleep(0.5)
assert b'"label":"star"' in ask(body=star)
serve.shutdown()
ray.shutdown()
print("done")
"""


@pytest.mark.slow
@pytest.mark.alone
def test_two_replicas_of_which_one_is_killed(unused_port: int) -> None:
    if importlib.util.find_spec("opentelemetry") is None or not importlib.util.find_spec("fastapi"):
        pytest.skip("the ray-serve extra is not installed")
    line = [sys.executable, "-c", SCRIPT, str(unused_port), str(ROOT / "examples/star-01.png")]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stdout.endswith("done\n")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
