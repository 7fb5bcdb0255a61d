"""What deploy/ says: proxies that pass a dying replica's requests to the other, sound YAML."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support import ROOT, wait_until
from support.running_server import STAR, Server, running
from vit_engine.commands.serve import command_line
from vit_engine.server.core.metrics import Metrics

DEPLOY = ROOT / "deploy"


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def proxy(program: str, folder: Path, one: Server, other: Server) -> Iterator[Server]:
    """Run a proxy with its file in deploy/, in which the ports alone are changed."""
    name = Path(program).name
    port = unused_port()
    source = {"nginx": "nginx.conf", "caddy": "Caddyfile"}[name]
    text = (DEPLOY / source).read_text()
    changes = {"8080": port, "127.0.0.1:8001": one.address[1], "127.0.0.1:8002": other.address[1]}
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, f"127.0.0.1:{new}" if ":" in old else str(new))
    if name == "nginx":  # its temporary files, as who is not root would have to
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        text = text.replace("http {", f"http {{ access_log off; {paths}")
    else:
        text = "{\n\tadmin off\n}\n" + text
    (folder / source).write_text(text)
    (folder / "logs").mkdir()
    user = " user root;" if os.geteuid() == 0 else ""  # who may look into the test's folder
    nginx = ["-p", folder, "-c", folder / source, "-g", f"daemon off; pid p; error_log e;{user}"]
    options = nginx if name == "nginx" else ["run", "--config", folder / source]
    line = [program, *map(str, options)]
    with (
        (folder / "out").open("w") as out,
        subprocess.Popen(line, stdout=out, stderr=out) as process,
    ):
        try:
            server = Server(f"http://127.0.0.1:{port}", process)

            def answers() -> bool:
                assert process.poll() is None, (folder / "out").read_text()
                with contextlib.suppress(OSError):
                    return server.is_ready()
                return False

            wait_until(answers)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


@pytest.mark.parametrize("name", ["nginx", "caddy"])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_replica_that_ends_behind_a_proxy(name: str, end: int, tmp_path: Path) -> None:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    statuses: list[int] = []
    stop = threading.Event()
    with (
        running("demo", "--drain", "3") as one,
        running("demo") as other,
        proxy(program, tmp_path, one, other) as front,
    ):

        def load() -> None:
            while not stop.is_set():
                statuses.append(front.ask("/", STAR).status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) > 30)
        one.process.send_signal(end)
        one.process.wait(30)
        ended = len(statuses)
        wait_until(lambda: len(statuses) > ended + 30)
        stop.set()
        for thread in threads:
            thread.join()
        assert one.process.returncode == (0 if end == signal.SIGTERM else -signal.SIGKILL)
        failed = [status for status in statuses if status != 200]
        # A drained replica costs nothing; a killed one, with Caddy, what it was at.
        assert len(failed) <= (4 if end == signal.SIGKILL else 0), failed
        assert front.ask("/", bytes(17 * 2**20)).status == 413


def test_manifests_name_what_is_there() -> None:
    (deployment, service) = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = {k: v["httpGet"]["path"] for k, v in container.items() if k.endswith("Probe")}
    assert probes == {
        "startupProbe": "/v2/health/ready",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    known = {f"VIT_SERVE_{action.dest.upper()}" for action in command_line()._actions}
    named = {variable["name"] for variable in container["env"]}
    for file in ("Containerfile.cpu", "Containerfile.gpu", "vit-serve.service"):
        named |= set(re.findall(r"VIT_SERVE_[A-Z_]+", (DEPLOY / file).read_text()))
    assert named <= known and len(named) >= 4
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    (application,) = yaml.safe_load((DEPLOY / "ray-serve.yaml").read_text())["applications"]
    module, _, name = application["import_path"].partition(":")
    path = ROOT / "runtime" / Path(*module.split(".")).with_suffix(".py")
    assert f"def {name}(" in path.read_text()
    assert f'name="{application["deployments"][0]["name"]}"' in path.read_text()


def test_what_scales_asks_for_metrics_that_there_are() -> None:
    scaled = yaml.safe_load((DEPLOY / "autoscaling.yaml").read_text())["spec"]
    (deployment, _) = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    queries = " ".join(trigger["metadata"]["query"] for trigger in scaled["triggers"])
    asked = set(re.findall(r"vit_\w+?(?=_sum|_count|\{)", queries))
    assert asked == {"vit_queue_images", "vit_stage_seconds"}
    assert asked <= {family.name for family in Metrics().registry.collect()}


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "vit-serve.service").read_text()
    assert "KillMode=mixed" in text and "kill -HUP $MAINPID" in text
    unit = tmp_path / "vit-serve.service"
    unit.write_text(text.replace("/opt/vit-engine/bin/vit-serve", sys.executable))
    checked = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_kustomization() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    line = ["kubectl", "kustomize", DEPLOY]
    built = subprocess.run(line, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    found = {document["kind"]: document for document in yaml.safe_load_all(built.stdout)}
    pod = found["Deployment"]["spec"]["template"]
    assert pod["spec"]["containers"][0]["image"] == "registry.example/vit-serve:1"
    assert found["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
