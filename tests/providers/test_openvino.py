"""The OpenVINO provider, with OpenVINO itself: logits, streams, what it keeps and refuses."""

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support import ROOT, Run, largest_file, write_checkpoint
from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.rewrites.openvino_heads import fuse_qkv_transpose
from vit_engine.commands.diagnosis import Trial, fastest
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError, MachineError, ProviderError, UsageError
from vit_engine.machine import processor
from vit_engine.machine.processor import Cpu
from vit_engine.providers import engine_cache
from vit_engine.providers.engine_cache import SEAL
from vit_engine.providers.openvino import openvino
from vit_engine.providers.provider import SessionClosedError, SessionSpec
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import load
from vit_export.quantization.pipeline import quantize

if not find_spec("openvino"):
    pytest.skip("OpenVINO is not installed", allow_module_level=True)
engine_module = openvino.import_openvino()
BF16 = "BF16" in engine_module.Core().get_property("CPU", openvino.CAPABILITIES)
INT8 = processor.cpu().int8

needs_bf16 = pytest.mark.skipif(not BF16, reason="this CPU has no bf16")

Pixels = NDArray[np.uint8]


def images(count: int, size: int = 32) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose products are wide enough for OpenVINO's int8 kernel."""
    folder = tmp_path_factory.mktemp("wide")
    return write_checkpoint(folder, hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def int8_artefact(wide_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "vit.onnx"
    checkpoint = load(str(wide_folder))
    quantized = quantize(checkpoint, images(16))
    assert len(quantized.matmuls) > 4
    export(checkpoint, path, precision="int8", images=None, quantized=quantized)
    return path


def logits_on(provider: str, path: Path, pixels: Pixels, **options: Any) -> NDArray[np.float32]:
    with Engine.open(path, provider=provider, **options) as engine:
        assert engine.provider == provider
        return engine.run(pixels)


@pytest.mark.parametrize(("precision", "io"), [("fp32", "uint8"), ("fp16", "hf")])
def test_the_logits_are_those_of_the_cpu(
    tiny_folder: Path, tmp_path: Path, precision: Any, io: Any
) -> None:
    path = tmp_path / "vit.onnx"
    export(load(str(tiny_folder)), path, precision=precision, io=io, images=None)
    expected = logits_on("cpu", path, images(11))
    found = logits_on("openvino", path, images(11), max_batch=4)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_heads_come_forward_at_once(wide_folder: Path, tmp_path: Path) -> None:
    """In each block but the last, whose queries are a product of their own."""
    path = tmp_path / "vit.onnx"
    checkpoint = load(str(wide_folder))
    export(checkpoint, path, precision="fp32", images=None)
    core = engine_module.Core()
    before, after = core.read_model(str(path)), core.read_model(str(path))
    fuse_qkv_transpose(after)
    counts = [
        [node.get_type_name() for node in m.get_ops()].count("Transpose") for m in (before, after)
    ]
    assert counts[0] - counts[1] == checkpoint.model_config.layers - 1
    logits = []
    for model in (before, after):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        logits.append(compiled(images(5))[0])
    np.testing.assert_allclose(*logits, atol=1e-6 * np.ptp(logits[0]))


@needs_bf16
def test_bf16_is_computed_where_it_is_asked_for_alone(tiny_artefact: Path) -> None:
    exact = logits_on("openvino", tiny_artefact, images(8))
    quantized = logits_on("openvino", tiny_artefact, images(8), compute="bf16")
    difference = np.abs(quantized - exact).max() / np.ptp(exact)
    assert 1e-4 < difference < 5e-2
    assert np.array_equal(logits_on("openvino", tiny_artefact, images(8), compute="f32"), exact)


@pytest.mark.parametrize("compute", ["f32", pytest.param("bf16", marks=needs_bf16)])
def test_int8_is_rounded_as_on_the_cpu(
    int8_artefact: Path, monkeypatch: pytest.MonkeyPatch, compute: str
) -> None:
    """A CPU without VNNI is taken for one with it: then the sums of both saturate alike."""
    able = Cpu("any", ("avx_vnni",), 2, 2, None, 2**33, None)
    monkeypatch.setattr(processor, "cpu", lambda: able)
    pixels = images(32)
    expected = logits_on("cpu", int8_artefact, pixels)
    found = logits_on("openvino", int8_artefact, pixels, compute=compute)
    within = 2e-4 if compute == "f32" else 2e-2
    assert np.abs(found - expected).mean() < within * np.ptp(expected)
    alone = logits_on("openvino", int8_artefact, pixels[:1], compute=compute)
    if compute == "f32":  # a label does not depend on the rest of the batch
        np.testing.assert_allclose(alone, found[:1], atol=1e-4)


@pytest.mark.parametrize(("threads", "largest", "streams"), [(1, 8, 1), (2, 8, 2), (16, 11, 11)])
def test_streams_share_a_batch(
    tiny_artefact: Path, threads: int, largest: int, streams: int
) -> None:
    assert openvino.streams_for(threads, largest) == streams
    expected = logits_on("cpu", tiny_artefact, images(37))
    found = logits_on("openvino", tiny_artefact, images(37), threads=threads, max_batch=largest)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_how_many_streams_there_are() -> None:
    assert openvino.streams_for(96, 1) == 1
    assert openvino.streams_for(96, 96) == openvino.MOST_STREAMS


def test_few_images_have_all_threads_from_the_second_time_on(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    properties = openvino.properties

    def counted(spec: SessionSpec, streams: int) -> dict[str, Any]:
        opened.append(streams)
        return properties(spec, streams)

    monkeypatch.setattr(openvino, "properties", counted)
    expected = logits_on("cpu", tiny_artefact, images(8))
    options = {"threads": 4, "max_batch": 4, "cache_compiled": False}
    with Engine.open(tiny_artefact, provider="openvino", **options) as engine:
        for count, streams in ((8, [4]), (3, [4]), (2, [4]), (1, [4, 1]), (2, [4, 1]), (4, [4, 1])):
            found = engine.run(images(8)[:count])
            np.testing.assert_allclose(found, expected[:count], atol=1e-4 * np.ptp(expected))
            assert opened == streams


def test_few_images_are_run_also_where_no_second_model_opens(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits_on("cpu", tiny_artefact, images(1))
    with Engine.open(tiny_artefact, provider="openvino", threads=4, max_batch=4) as engine:

        def no_memory(spec: SessionSpec, streams: int) -> dict[str, Any]:
            raise MachineError("no memory")

        monkeypatch.setattr(openvino, "properties", no_memory)
        for _ in range(3):
            found = engine.run(images(1))
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
    assert caplog.text.count("no memory; batches of few images stay on a part") == 1


@pytest.mark.parametrize("kept", [True, False])
def test_the_second_model_is_of_the_file_that_was_opened(
    tiny_artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    """Where the first is kept, the second has weights in common with it, and asks for no file."""
    path = tmp_path / "vit.onnx"
    path.write_bytes(tiny_artefact.read_bytes())
    expected = logits_on("cpu", path, images(1))
    options = {"threads": 4, "max_batch": 4, "cache_compiled": kept}
    with Engine.open(path, provider="openvino", **options) as engine:
        path.unlink()
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        for _ in range(3):
            found = engine.run(images(1))
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
    words = "is another file by now: open the model again; batches of few images stay on a part"
    assert caplog.text.count(words) == (not kept)


def test_callers_do_not_mix_their_batches(tiny_artefact: Path, bounded: None) -> None:
    pixels = images(60)
    with Engine.open(tiny_artefact, provider="openvino", threads=24, max_batch=5) as engine:
        alone = np.concatenate([engine.run(p[None]) for p in pixels])
        with ThreadPoolExecutor(8) as callers:
            parts = list(callers.map(engine.run, [pixels[i : i + 3] for i in range(0, 60, 3)] * 4))
    for i, part in enumerate(parts):
        start = i * 3 % 60
        np.testing.assert_allclose(part, alone[start : start + 3], atol=1e-4)


def test_a_closed_session_refuses_batches(tiny_artefact: Path) -> None:
    spec = SessionSpec(tiny_artefact, read_contract(tiny_artefact))
    session = openvino.open_on_openvino(spec, 4)
    session.close()
    session.close()
    with pytest.raises(SessionClosedError):
        session.run(images(1))


def folders() -> list[Path]:
    return [path.parent for path in engine_cache.root("OpenVINO").glob(f"*/{SEAL}")]


def test_the_compiled_model_is_kept_and_used(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = logits_on("openvino", tiny_artefact, images(3))
    (folder,) = folders()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("compile_model", "read_model"):
        monkeypatch.delattr(engine_module.Core, name)  # none is needed now
    assert np.array_equal(logits_on("openvino", tiny_artefact, images(3)), first)


def test_each_model_is_kept_once_for_all_threads(tiny_artefact: Path, tmp_path: Path) -> None:
    other = tmp_path / tiny_artefact.name
    export(load(str(write_checkpoint(tmp_path, seed=1))), other, precision="fp32", images=None)
    found = [logits_on("openvino", path, images(2)) for path in (tiny_artefact, other)]
    assert not np.allclose(*found)
    logits_on("openvino", tiny_artefact, images(2), threads=16, max_batch=16)
    assert len(folders()) == 2


@pytest.mark.parametrize("room", [0, 10_000])
def test_a_model_that_does_not_fit_on_the_disk_is_not_kept(
    tiny_artefact: Path, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    with largest_file(room):
        first = logits_on("openvino", tiny_artefact, images(3))
    (record,) = caplog.records
    assert "the OpenVINO engine is not kept" in record.message
    assert not folders()
    assert np.array_equal(logits_on("openvino", tiny_artefact, images(3)), first)
    assert len(folders()) == 1


def test_without_a_place_for_a_cache_it_runs(
    tiny_artefact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert logits_on("openvino", tiny_artefact, images(2)).shape == (2, 5)
    assert "cannot be used as the cache of OpenVINO engines" in caplog.text
    assert "each start builds the engine anew" in caplog.text


def test_a_name_that_is_not_utf8(tiny_artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xe9.onnx")
    path.write_bytes(tiny_artefact.read_bytes())
    assert logits_on("openvino", path, images(2)).shape == (2, 5)


def test_a_graph_at_odds_with_its_contract_is_refused(tiny_artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "vit.onnx"
    path.write_bytes(tiny_artefact.read_bytes().replace(b"logits", b"logitz"))
    spec = SessionSpec(path, read_contract(tiny_artefact))
    with pytest.raises(ArtefactError, match=r"its contract says .*export the model again"):
        openvino.open_on_openvino(spec, 1)


class Core:
    """OpenVINO on a CPU of floats alone."""

    available_devices = ("CPU",)

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32"]


def test_a_cpu_without_bf16_is_told(tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "Core", Core)
    with pytest.raises(ProviderError, match=r"no bf16 instructions .*; use --compute f32"):
        Engine.open(tiny_artefact, provider="openvino", compute="bf16")


@pytest.mark.parametrize(
    ("feature", "former", "message"),
    [
        ("avx2", b"none", r"int8, whose sums OpenVINO saturates .* without VNNI.*--provider cpu"),
        ("avx_vnni", b"QuantizeLinear", r"of an earlier vit-export.*; export the model again"),
    ],
)
def test_int8_that_would_go_wrong_is_refused(
    int8_artefact: Path,
    monkeypatch: pytest.MonkeyPatch,
    feature: str,
    former: bytes,
    message: str,
) -> None:
    monkeypatch.setattr(processor, "cpu", lambda: Cpu("any", (feature,), 2, 2, None, 2**33, None))
    monkeypatch.setattr(openvino, "FORMER_PRODUCT", former)
    with pytest.raises(UsageError, match=message):
        Engine.open(int8_artefact, provider="openvino")


def test_bf16_is_for_openvino_alone(tiny_artefact: Path, run_command: Run) -> None:
    done = run_command("vit-infer", ROOT / "examples", "-m", tiny_artefact, "--compute", "bf16")
    assert done.returncode == 2
    assert "auto does not take --compute bf16: that is for --provider openvino" in done.stderr
    with Engine.open(tiny_artefact, provider="cpu", compute="f32") as engine:
        assert engine.provider == "cpu"


def test_the_command_runs_it(tiny_artefact: Path, run_command: Run) -> None:
    line = [ROOT / "examples", "-m", tiny_artefact, "--format", "csv"]
    rows = [run_command("vit-infer", *line, "--provider", p).stdout for p in ("openvino", "cpu")]
    labels = [[row.split(",")[:3] for row in text.splitlines()] for text in rows]
    assert len(labels[0]) > 4
    assert labels[0] == labels[1]


def test_what_is_not_installed_is_told(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ProviderError, match=r"not installed; .*pip install .*\[openvino\]'"):
        Engine.open(tiny_artefact, provider="openvino")


def test_nothing_is_sent_or_left_in_the_home_folder(tmp_path: Path, tiny_artefact: Path) -> None:
    """OpenVINO's telemetry would make a folder with an id in it as soon as it is imported."""
    script = f"""
import sys
from vit_engine.engine import Engine
Engine.open({str(tiny_artefact)!r}, provider="openvino").close()
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=100)
    assert not list(home.rglob("*"))


def test_a_forked_child_compiles_its_own(tiny_artefact: Path) -> None:
    script = f"""
import os, numpy as np
from vit_engine.engine import Engine
images = np.zeros((2, 32, 32, 3), np.uint8)
with Engine.open({str(tiny_artefact)!r}, provider="openvino") as engine:
    expected = engine.run(images)
    if (child := os.fork()) == 0:
        os._exit(0 if np.array_equal(engine.run(images), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=100)


def test_doctor_sets_the_providers_side_by_side(
    int8_artefact: Path, tmp_path: Path, run_command: Run
) -> None:
    done = run_command("vit-doctor", "--json", "-m", int8_artefact)
    report = json.loads(done.stdout)
    trials = {(t["provider"], t["compute"]): t for t in report["trials"]}
    assert list(trials)[:3] == [("cpu", None), ("openvino", "f32"), ("openvino", "bf16")]
    for (provider, compute), trial in list(trials.items())[:3]:
        able = provider == "cpu" or (INT8 and (compute == "f32" or BF16))
        assert trial["state"] == ("works" if able else "absent")
        if able:
            assert trial["images_per_second"] > 0
            assert trial["agreement"] >= 0.75
            assert trial["difference"] < 0.1
    assert not report["problems"]


def test_doctor_names_the_fastest() -> None:
    def trial(provider: str, rate: float, **more: Any) -> Trial:
        return Trial(provider, "works", "", images_per_second=rate, **more)

    slow = (trial("cpu", 10.0), trial("openvino", 10.4, compute="f32"))
    assert not list(fastest(slow, "vit.onnx"))
    (line,) = fastest((*slow, trial("openvino", 19.0, compute="bf16")), "my vit.onnx")
    assert "vit-infer -m 'my vit.onnx' --provider openvino --compute bf16, 1.90 times" in line
