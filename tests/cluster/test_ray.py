"""A real Ray: the rows of one machine from several, whatever dies on the way."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if find_spec("ray") is None:  # not imported here: it would read its settings
    pytest.skip("the ray extra is not installed", allow_module_level=True)

import pyarrow.dataset as ds

from support.embedding_model import SIZE, write_embedding_model
from vit_engine.classifier import Classifier
from vit_engine.cluster import run
from vit_engine.cluster.connection import Workers
from vit_engine.embedder import Embedder
from vit_engine.errors import MachineError, ProviderError, UsageError, VitError
from vit_engine.options import EngineOptions
from vit_engine.rows.formats import arrow_path
from vit_engine.sources.find import samples_from_sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,  # each Ray is a dozen processes
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's processes and sockets
]

ON_CPU = Workers(EngineOptions("cpu", threads=1))
STORE = 100 * 2**20  # bytes of a node's object store
BLOCK = 16

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def authenticated() -> Iterator[None]:
    """Every Ray asks for a token; it reads its settings once, so they are the same in all tests."""
    with environment(
        RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)
    ):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 images of random colours, and some that are none."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(800):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((90, 70), Image.Resampling.NEAREST)
        image.save(folder / f"{i:04}.{'png' if i % 3 else 'jpg'}")
    whole = (folder / "0000.jpg").read_bytes()
    (folder / "0100-cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "0200-empty.jpg").touch()
    (folder / "0300-text.png").write_text("no image")
    (folder / "0400-damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    os.mkfifo(folder / "0500-fifo.jpg")
    os.mkdir(folder / "0600-folder.jpg")  # noqa: PTH102
    (folder / "0700-gone.jpg").symlink_to("nowhere")
    (folder / os.fsdecode(b"0750-\xff.png")).write_bytes((folder / "0001.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def expected(images: Path) -> Rows:
    """The rows of one machine."""
    with Classifier.load("demo", provider="cpu") as vit:
        samples = samples_from_sources([str(images)])
        predictions = [p for labelled in vit.stream(samples) for p in labelled.predictions]
    rows = [p.to_dict() for p in predictions]
    assert {"truncated", "empty", "format", "missing", "not_regular"} <= {
        row["error_code"] for row in rows
    }
    return [{**row, **arrow_path(row["path"])} for row in rows]


def rows_of(out: Path) -> Rows:
    table = ds.dataset(out / "rows", format="parquet").to_table().sort_by("row_id")
    rows: Rows = table.to_pylist()
    assert [row.pop("row_id") for row in rows] == list(range(len(rows)))
    return rows


def assert_same(found: Rows, expected: Rows, *, crashed: int = 0) -> None:
    """Equal but for the rounding of scores, and for as many images as decoders were killed."""
    assert len(found) == len(expected)
    different = 0
    for row, other in zip(found, expected, strict=True):
        if row["error_code"] == "crash":
            different += 1
            continue
        assert {k: v for k, v in row.items() if k not in ("score", "topk")} == {
            k: v for k, v in other.items() if k not in ("score", "topk")
        }
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert [s["label"] for s in row["topk"]] == [s["label"] for s in other["topk"]]
    assert different <= crashed


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray of three nodes on this machine; the first is the driver's and does no work."""
    import ray
    from ray.cluster_utils import Cluster

    args = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=args)
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=4, object_store_memory=STORE)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def meanwhile(out: Path, act: Callable[[], None], *, after: int) -> Iterator[None]:
    """Act once `after` files of rows are written; fail if that never came."""
    done: list[BaseException | None] = []

    def wait() -> None:
        try:
            deadline = time.monotonic() + 120
            while len(list((out / "rows").glob("*.parquet"))) < after:
                assert time.monotonic() < deadline, "no rows were written"
                time.sleep(0.02)
            act()
            done.append(None)
        except BaseException as e:  # noqa: BLE001  asserted below
            done.append(e)

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()
    assert done == [None]


def processes(title: str) -> list[int]:
    """The ids of our own descendants with a title or argument that contains `title`."""
    parents, found = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text()
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
            if title in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                found.append(int(folder.name))

    def is_ours(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == os.getpid():
                return True
        return False

    return [pid for pid in found if is_ours(pid)]


def label(images: Path, out: Path, **options: Any) -> run.Tally:
    given = {"model": "demo", "workers": ON_CPU, "block": BLOCK} | options
    return run.label([str(images)], str(out), **given)


def test_vectors_of_one_machine(images: Path, tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "clip.onnx")
    with Embedder.load(tmp_path / "clip.onnx", provider="cpu") as embedder:
        batches = list(embedder.stream(samples_from_sources([str(images)])))
    expected = [row for batch in batches for row in batch.predictions]
    label(images, tmp_path / "out", model=tmp_path / "clip.onnx", vectors="float16")
    found = rows_of(tmp_path / "out")
    assert [row["error_code"] for row in found] == [row.error_code for row in expected]
    assert [row["space"] for row in found] == [row.space for row in expected]
    for row, other in zip(found, expected, strict=True):
        if other.vector is not None:
            np.testing.assert_allclose(row["embedding"], other.vector, atol=1e-3)
    schema = ds.dataset(tmp_path / "out/rows", format="parquet").schema
    assert str(schema.field("embedding").type) == f"fixed_size_list<element: halffloat>[{SIZE}]"


def test_killed_classifier_and_decoders(
    images: Path, expected: Rows, cluster: Any, tmp_path: Path
) -> None:
    killed: list[str] = []

    def act() -> None:
        for title, number in (
            ("MapBatches(Labeller)", signal.SIGKILL),
            ("vit_engine.images.decoder_process", signal.SIGSEGV),
        ):
            pids = processes(title)
            assert pids, f"no process of {title} to kill"
            os.kill(pids[0], number)
            killed.append(title)

    with meanwhile(tmp_path / "out", act, after=3):
        tally = label(images, tmp_path / "out", address=cluster.address)
    assert len(killed) == 2
    assert tally.rows == len(expected)
    found = rows_of(tmp_path / "out")
    print("crash rows:", sum(row["error_code"] == "crash" for row in found))
    assert_same(found, expected, crashed=1)


def test_killed_node(images: Path, expected: Rows, cluster: Any, tmp_path: Path) -> None:
    """The node of a classifier, with the decode tasks that are there: no row is another."""
    killed: list[str] = []

    def act() -> None:
        workers = {n: workers_of(n) for n in cluster.list_all_nodes() if not n.head}
        node = next(n for n in workers if any("Labeller" in title for title in workers[n]))
        killed.extend(workers[node])
        print("killed a node with", killed)
        cluster.remove_node(node, allow_graceful=False)

    with meanwhile(tmp_path / "out", act, after=3):
        tally = label(
            images,
            tmp_path / "out",
            address=cluster.address,
            workers=Workers(EngineOptions("cpu", threads=1), 1),
        )
    assert killed
    failed = sum(row["error_code"] is not None for row in expected)
    assert tally == run.Tally(len(expected), failed, 0)
    assert_same(rows_of(tmp_path / "out"), expected)


def workers_of(node: Any) -> list[str]:
    """The titles of a node's processes, its raylet's children."""
    raylet = node.all_processes["raylet"][0].process.pid
    titles = []
    for pid in processes("ray::"):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == raylet:
                titles.append(Path(f"/proc/{pid}/cmdline").read_text().strip("\0 "))
    return titles


def test_broken_off_runs_resume(images: Path, expected: Rows, tmp_path: Path) -> None:
    """A Ray of this machine, from the command line; killed, terminated, resumed, and once more."""
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    for copy in range(5):
        for image in sorted(images.glob("0*[0-9].*")):
            os.link(image, folder / f"{copy}-{image.name}")
    names = ("--ray", "-m", "demo", "--provider", "cpu", "--threads", "1", "-o", str(out))
    line = [str(Path(sys.executable).with_name("vit-infer")), str(folder), *names]

    def broken_off(number: int, *more: str, after: int) -> int:
        child = subprocess.Popen([*line, *more], stderr=subprocess.PIPE, start_new_session=True)
        with meanwhile(out, lambda: child.send_signal(number), after=after):
            child.communicate(timeout=240)
        return child.returncode

    assert broken_off(signal.SIGKILL, after=2) == -signal.SIGKILL
    kept = len(list((out / "rows").glob("*.parquet")))
    refused = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "continue it with --resume" in refused.stderr
    assert broken_off(signal.SIGTERM, "--resume", after=kept + 2) == 128 + signal.SIGTERM
    for words in ("4000 images, 0 failed, ", "4000 of them before this run, so there was"):
        ended = subprocess.run(
            [*line, "--resume"], capture_output=True, text=True, timeout=240, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == ""
        assert words in ended.stderr
    found = rows_of(out)
    assert [Path(row["path"]).name for row in found] == sorted(p.name for p in folder.iterdir())
    plain = {Path(row["path"]).name: row for row in expected}
    for row in found:
        assert row["label"] == plain[Path(row["path"]).name.partition("-")[2]]["label"]


def test_object_store(images: Path, expected: Rows, tmp_path: Path) -> None:
    """Images, manifest, rows and checkpoints in a store that speaks S3; a Ray of this machine."""
    server = pytest.importorskip("moto.server", reason="moto stands for S3")
    import fsspec
    import ray

    store = server.ThreadedMotoServer("127.0.0.1", 0)
    store.start()
    host, port = store.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    try:
        with environment(
            AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_DEFAULT_REGION="us-east-1", **keys
        ):
            s3 = fsspec.filesystem("s3")
            s3.mkdir("bucket")
            bad = (images / "0100-cut.jpg", images / "0200-empty.jpg")
            some = [*sorted(images.glob("00[0-9]*.*")), *bad]
            for path in some:
                s3.pipe_file(f"bucket/images/{path.name}", path.read_bytes())
            given = {"model": "demo", "workers": ON_CPU, "block": BLOCK}
            ours = run.label(["s3://bucket/images"], "s3://bucket/out", **given)
            again = run.label(["s3://bucket/images"], "s3://bucket/out", resume=True, **given)
            s3.get("bucket/out/rows", str(tmp_path / "rows"), recursive=True)
            s3.clear_instance_cache()
    finally:
        ray.shutdown()
        store.stop()
    assert (ours.rows, ours.failed) == (len(some), 2)
    assert again.resumed == len(some)
    names = {path.name for path in some}
    plain = [row for row in expected if Path(row["path"]).name in names]
    found = [{**row, "path": str(images / Path(row["path"]).name)} for row in rows_of(tmp_path)]
    assert_same(found, plain)


def test_refusals(images: Path, tmp_path: Path) -> None:
    import ray

    out = tmp_path / "out"
    with pytest.raises(MachineError, match=r"cannot connect to Ray at 127\.0\.0\.1:9: .*refused"):
        label(images, tmp_path / "other", address="127.0.0.1:9")
    ray.init(num_cpus=2, object_store_memory=STORE, include_dashboard=False)
    try:
        with pytest.raises(MachineError, match="the cluster has 2 CPUs"):
            label(images, out)
        with pytest.raises(MachineError, match="no node of the cluster has 8 CPUs"):
            label(images, out, workers=Workers(EngineOptions("cpu", threads=8)), resume=True)
        with pytest.raises(UsageError, match="already holds a run"):
            label(images, out)
        with pytest.raises(UsageError, match="begun with top_k 5, this is 3"):
            label(images, out, top_k=3, resume=True)
    finally:
        ray.shutdown()


def test_errors_of_a_node_are_told_as_ours(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProviderError, match="provider cuda cannot run here") as told:
        label(images, tmp_path / "out", workers=Workers(EngineOptions("cuda", threads=1), gpus=0))
    assert "\n" not in str(told.value)
    assert "DataContext" not in str(told.value)
    assert "Traceback" not in capfd.readouterr().err


def test_an_unforeseen_error_of_a_node_is_told_by_its_own_words(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, given: object) -> None:
            pass

        def __call__(self, table: object) -> object:
            raise KeyError("no such column")

    monkeypatch.setattr(run, "Labeller", Broken)
    with pytest.raises(VitError, match=r"the Ray job failed: KeyError: 'no such column'; the rows"):
        label(images, tmp_path / "out")
