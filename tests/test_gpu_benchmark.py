"""The GPU benchmark's own logic; what it measures needs a GPU."""

import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from vit_engine.artefact.attention import replace_attention
from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.protobuf import field
from vit_engine.providers.provider import Request
from vit_engine.providers.sessions import open_session

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu
import gpu_stages
import gpu_variants


def row(batch: int, images: float, submitted: float) -> gpu.Row:
    return {"batch": batch, "run": {"images_s": images}, "submit_images_s": submitted}


def test_the_verdict_takes_the_best_of_what_was_measured() -> None:
    stages = {
        "speed cuda, graphs": {"rows": [row(1, 2000, 9000), row(32, 20000, 0), row(64, 9e3, 14e3)]},
        "torch.compile fp16, max-autotune": {"rows": [{"batch": 64, "run": {"images_s": 12e3}}]},
        "speed tensorrt": {"absent": "no libnvinfer"},
    }
    assert gpu.verdict(stages) == {
        "latency_ms": 0.5,
        "images_s": 14e3,
        "latency_met": True,
        "images_met": True,
        "ahead_of_max_autotune": True,
    }
    nothing = gpu.verdict({"speed cuda, graphs": {"failed": "x"}})
    assert not nothing["latency_met"] and nothing["ahead_of_max_autotune"] is None


def test_stages_that_fail_hang_or_come_too_late_are_rows(tmp_path: Path) -> None:
    bench = gpu.Bench(tmp_path / "result.json", 60)
    python = sys.executable
    assert bench.stage("right", 20, python, "-c", "print('{\"a\": 1}')")["a"] == 1
    error = "import sys; sys.exit('provider cuda is not there: no GPU')"
    assert "no GPU" in bench.stage("absent", 20, python, "-c", error)["absent"]
    assert bench.stage("wrong", 20, python, "-c", "1 / 0")["failed"].startswith("ZeroDivision")
    hang = "import time; time.sleep(60)"
    assert bench.stage("hangs", 0.5, python, "-c", hang)["failed"] == "not done in 0 s"
    bench.end = 0.0
    assert bench.stage("late", 20, python, "-c", "print('{}')")["failed"] == "no time left"
    assert set(bench.result["stages"]) == {"right", "absent", "wrong", "hangs", "late"}
    assert (tmp_path / "result.json").is_file()
    assert any("ZeroDivision" in line for line in gpu.table(bench.result))


@pytest.mark.parametrize("variant", ["contrib", "skip"])
def test_the_variants_give_the_same_logits_on_the_cpu(tiny_artefact: Path, variant: str) -> None:
    request = Request(tiny_artefact, read_contract(tiny_artefact))
    data = tiny_artefact.read_bytes()
    if variant == "contrib":
        data = replace_attention(data, gpu_variants.contrib)
        data += field(8, field(1, "com.microsoft") + field(2, 1))
    else:
        data = gpu_variants.with_skip_layer_norm(data)
        assert data.count(b"SkipLayerNormalization") >= 3
    feed = {"pixels": gpu_stages.pictures(str(tiny_artefact), 5)}
    (expected,) = open_session(request, {"cpu": {}}).run(None, feed)
    (found,) = open_session(request, {"cpu": {}}, model=data).run(None, feed)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_answers_of_other_images_are_noticed(tiny_artefact: Path) -> None:
    from vit_engine.engine import Engine

    pixels = gpu_stages.pictures(str(tiny_artefact), 48)
    with Engine.open(tiny_artefact, provider="cpu") as engine:
        expected = engine.run(pixels)
        assert gpu_stages.mixed_up(engine, pixels, expected) == 0
        assert gpu_stages.mixed_up(engine, pixels[::-1], expected) > 0
