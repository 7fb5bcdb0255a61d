"""int8: what is rounded, what it costs in labels, and what is refused."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxscript import GraphBuilder, ir

from support import ROOT, Run, write_checkpoint
from support.graphs import drawn_images, logits_of, noise
from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.images.preprocess import rgb_from_image
from vit_engine.machine import processor
from vit_engine.outputs.scores import Scores
from vit_engine.providers.sessions import keep_int8_exact
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import Checkpoint, load
from vit_export.eager import eager_outputs
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import IR_VERSION, OPSET
from vit_export.quantization import calibration, sensitivity
from vit_export.quantization.activations import Statistics, activations_of
from vit_export.quantization.gptq import int8_from_matrix
from vit_export.quantization.model_session import open_model_session
from vit_export.quantization.operators import Int8Linear, Int8Weights
from vit_export.quantization.pipeline import Quantized, quantize
from vit_export.quantization.sensitivity import AIM, SHARES, choose_float_layers, float_share
from vit_export.quantization.smoothquant import smoothed
from vit_export.verify import parity_from_outputs


@pytest.fixture(scope="module")
def demo() -> tuple[Checkpoint, Quantized]:
    """The demo checkpoint, rounded after the drawn images."""
    checkpoint = load("demo")
    images, _ = calibration.split(None)
    return checkpoint, quantize(checkpoint, calibration.pixels_of(images, checkpoint.preprocessing))


@pytest.fixture(scope="module")
def demo_int8(demo: tuple[Checkpoint, Quantized], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo as an int8 artefact."""
    path = tmp_path_factory.mktemp("int8") / "vit.onnx"
    export(demo[0], path, precision="int8", images=None, quantized=demo[1])
    return path


@pytest.mark.slow
def test_deit_tiny_on_photographs_it_was_not_calibrated_on(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load(str(test_data / "deit-tiny-imagenet1k"))
    images, judged = calibration.split(
        calibration.calibration_items(str(test_data / "imagenet-sample"))
    )
    rest = [rgb_from_image(image) for image in judged]
    assert (len(images), len(rest)) == (40, 160)
    preprocessing = checkpoint.preprocessing
    path = tmp_path / "vit.onnx"
    quantized = quantize(checkpoint, calibration.pixels_of(images, preprocessing))
    export(checkpoint, path, precision="int8", images=None, quantized=quantized)
    pixels, expected = calibration.pixels_of(rest, preprocessing), eager_outputs(checkpoint, rest)
    with Engine.open(path, provider="cpu") as engine:
        found = engine.run(pixels)
        alone = np.concatenate([engine.run(pixels[i : i + 1]) for i in range(8)])
    parity = parity_from_outputs(found, expected, checkpoint.output)
    with capsys.disabled():
        print(
            f"\nDeiT-Tiny int8: agreement {parity.agreement:.1%}, "
            f"mean |logit difference| {parity.mean_abs_diff:.4f}, max {parity.max_abs_diff:.2f}"
        )
    assert parity.agreement >= 0.98
    assert parity.mean_abs_diff < 0.035
    # A label does not depend on the rest of the batch.
    np.testing.assert_allclose(alone, found[:8], atol=1e-4)


@pytest.mark.slow
def test_the_same_images_give_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    checkpoint = load(str(tiny_folder))
    for name in ("a", "b"):
        quantized = quantize(checkpoint, noise(checkpoint))
        export(checkpoint, tmp_path / name, precision="int8", images=None, quantized=quantized)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_contract_says_what_it_was_calibrated_on(
    demo: tuple[Checkpoint, Quantized], demo_int8: Path
) -> None:
    found = read_contract(demo_int8)
    assert found.identity.precision == "int8"
    assert found.calibration == demo[1].calibration
    assert found.calibration is not None
    assert found.calibration.images == 16
    assert len(found.calibration.sha256) == 64


def test_onnx_runtime_runs_the_int8_kernel_for_every_rounded_product(
    demo: tuple[Checkpoint, Quantized], demo_int8: Path, tmp_path: Path
) -> None:
    onnx.checker.check_model(str(demo_int8), full_check=True)
    assert {node.domain for node in onnx.load(demo_int8).graph.node} == {""}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(demo_int8, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    kernels = Counter(node.op_type for node in graph.node)
    assert kernels["MatMulIntegerToFloat"] == kernels["QuantizeLinear"] == len(demo[1].matmuls)
    assert not kernels["DequantizeLinear"]


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_libraries_give_its_labels_without_us(
    demo: tuple[Checkpoint, Quantized], demo_int8: Path, library: str
) -> None:
    pixels = calibration.pixels_of(list(drawn_images()), demo[0].preprocessing)
    if library == "openvino":
        openvino = pytest.importorskip("openvino")
        found = openvino.Core().compile_model(demo_int8, "CPU")(pixels)[0]
    else:
        found = onnxruntime.InferenceSession(demo_int8).run(None, {"pixels": pixels})[0]
    with Engine.open(demo_int8, provider="cpu") as engine:
        assert np.array_equal(found.argmax(1), engine.run(pixels).argmax(1))


def test_scales_that_are_folded_in_change_nothing(demo: tuple[Checkpoint, Quantized]) -> None:
    checkpoint, quantized = demo
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    before, after = (logits_of(c, pixels) for c in (checkpoint, quantized.checkpoint))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_statistics_after_the_scales_are_those_of_the_scaled_graph(
    demo: tuple[Checkpoint, Quantized],
) -> None:
    checkpoint, _ = demo
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    before = activations_of(checkpoint, pixels)
    tensors, after = smoothed(checkpoint.tensors, before)
    measured = activations_of(replace(checkpoint, tensors=tensors), pixels).statistics
    assert after.keys() == measured.keys()
    for matmul, found in after.items():
        np.testing.assert_allclose(found.size(), measured[matmul].size(), rtol=1e-3)
        np.testing.assert_allclose(found.mean(), measured[matmul].mean(), rtol=1e-2, atol=1e-4)
        moved = not np.allclose(found.size(), before.statistics[matmul].size(), rtol=0.1)
        assert moved == (matmul.input_layer is not None)


def test_after_a_gelu_the_steps_are_finer() -> None:
    """A token's step is its largest value over 227, of either sign over 127; half of it is lost."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.17, 4, (2, 3, 64)).astype(np.float32)
    weights = Int8Weights(np.eye(64, dtype=np.int8), np.ones(64), np.zeros(64))
    largest = x.max(-1, keepdims=True)
    for after_gelu, steps in ((True, 227), (False, 127)):
        matmul = MatMul("fc2", 0, ("fc2",), tokens=3, input_layer=None, after_gelu=after_gelu)
        wrong = np.abs(run_alone(Int8Linear(weights, matmul), x) - x) / largest
        assert 0.4 / steps < wrong.max() < 0.505 / steps


def run_alone(module: Int8Linear, x: NDArray[np.float32]) -> NDArray[np.float32]:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="product")
    builder = GraphBuilder(graph)
    y = module(builder.op, builder.input("x", ir.DataType.FLOAT, list(x.shape)))
    y.type = ir.TensorType(ir.DataType.FLOAT)
    builder.add_output(y, "y")
    session = open_model_session(ir.Model(graph, ir_version=IR_VERSION))
    found: NDArray[np.float32] = session.run(["y"], {"x": x})[0]
    return found


def test_the_most_sensitive_come_first_and_the_dearest_go_to_float(
    demo: tuple[Checkpoint, Quantized],
) -> None:
    _, quantized = demo
    felt = quantized.sensitivity
    assert list(felt.values()) == sorted(felt.values(), reverse=True)
    assert felt.keys() >= quantized.matmuls.keys()
    worst = max(quantized.matmuls, key=lambda matmul: felt[matmul])
    assert quantized.most_sensitive().startswith(f"most sensitive to int8: {worst}, ")
    rest = {matmul: w for matmul, w in quantized.matmuls.items() if matmul != worst}
    assert str(worst) not in replace(quantized, matmuls=rest).most_sensitive()


def rounded_rows(*sizes: int) -> dict[MatMul, Int8Weights]:
    """Products of so many multiply-adds, times ten, a token."""
    return {
        MatMul("fc1", block, ("fc1",), tokens=2, input_layer=None): Int8Weights(
            np.zeros((size, 10), np.int8), np.ones(10), np.zeros(10)
        )
        for block, size in enumerate(sizes)
    }


def test_float_goes_where_it_buys_most() -> None:
    # 6 % of 100 rows are 6: not the one of 4 that gains most, but three that gain more together.
    quantized = rounded_rows(90, 4, 2, 2, 2)
    felt = dict(zip(quantized, (9.0, 0.5, 0.4, 0.3, 0.2), strict=True))
    chosen, share = choose_float_layers(quantized, felt, 0.06)
    assert {matmul.block for matmul in chosen} == {2, 3, 4}
    assert share == pytest.approx(0.06)


@pytest.mark.parametrize(("noise", "rung"), [(0.0, 0), (0.005, 1), (0.03, 2), (1.0, 3)])
def test_no_more_stays_in_float_than_the_aim_takes(
    demo: tuple[Checkpoint, Quantized], monkeypatch: pytest.MonkeyPatch, noise: float, rung: int
) -> None:
    """Where each product in int8 beyond 88 % of them adds to the noise, or all of it stays."""
    quantized = rounded_rows(*[10] * 100)
    felt = {matmul: 1.0 + matmul.block for matmul in quantized if matmul.block is not None}
    rng = np.random.default_rng(0)
    true = rng.normal(size=(40, 8))

    def logits(_: Checkpoint, matmuls: dict[MatMul, Int8Weights], _pixels: Any) -> Any:
        wrong = noise * max(0, len(matmuls) - 88) if noise < 1 else noise * bool(matmuls)
        return true + wrong * rng.normal(size=true.shape)

    monkeypatch.setattr(sensitivity, "logits_of", logits)
    pixels = np.zeros((40, 64, 64, 3), np.uint8)
    found = float_share(demo[0], quantized, felt, pixels, lambda _: None)
    assert found.share == pytest.approx(SHARES[rung])
    assert {p.block for p in found.matmuls} == set(range(100 - len(found.matmuls), 100))
    assert found.divergence is not None
    assert (found.divergence <= AIM) == (noise < 1)


def test_of_a_regression_the_least_share_stays_in_float(
    demo: tuple[Checkpoint, Quantized],
) -> None:
    quantized = rounded_rows(*[10] * 100)
    felt = dict.fromkeys(quantized, 1.0)
    values = replace(demo[0], output=Scores(("metres",), "none"))
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    found = float_share(values, quantized, felt, pixels, lambda _: None)
    assert (found.divergence, found.share) == (None, pytest.approx(SHARES[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("hidden_act", "qkv_bias"), [("gelu_new", False), ("quick_gelu", True)])
def test_any_vit_stays_close(tmp_path: Path, hidden_act: str, qkv_bias: bool) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden_act=hidden_act, qkv_bias=qkv_bias)
    checkpoint = load(str(folder))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    quantized = quantize(checkpoint, pixels[:6])
    export(checkpoint, tmp_path / "vit.onnx", precision="int8", images=None, quantized=quantized)
    expected = logits_of(checkpoint, pixels)
    with Engine.open(tmp_path / "vit.onnx", provider="cpu") as engine:
        found = engine.run(pixels)
    assert np.abs(found - expected).mean() < 0.01 * np.ptp(expected)


def test_gptq_errs_less_where_the_inputs_are_than_rounding_does() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(64, 64)) * np.linspace(0.05, 1, 64)[:, None]
    x = (rng.normal(size=(50, 20, 64)) @ mixed).astype(np.float32)
    matrix = rng.normal(size=(64, 32))
    found = Statistics.empty(64)
    found.add(x, np.ones(x.shape[1]))
    quantized = int8_from_matrix(matrix, np.zeros(32), found)
    nearest = np.rint(matrix / quantized.scale) * quantized.scale
    clever = quantized.matrix * quantized.scale
    assert np.abs(quantized.matrix.astype(int)).max() <= 127
    flat = x.reshape(-1, 64)
    wrong = ((flat @ (nearest - matrix)) ** 2).sum()
    assert ((flat @ (clever - matrix)) ** 2).sum() < 0.6 * wrong


def test_the_command_calibrates_on_a_part_and_judges_on_the_rest(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    examples = ROOT / "examples"
    out = tmp_path / "vit.onnx"
    line = ("--int8", "--calibrate", examples, "--min-agreement", "0", "-o", out, "--verbose")
    ended = run_command("vit-export", tiny_folder, *line)
    assert ended.returncode == 0, ended.stderr
    assert "warning: calibrating" not in ended.stderr
    assert "calibrated on 8 images" in ended.stderr
    assert "set session.x64quantprecision=1" in ended.stderr.splitlines()[-1]
    assert len(re.findall(r"int8 keeps about \d+\.\d % of labels", ended.stderr)) == 1
    assert re.search(r"on cpu: \d+\.\d% of labels kept, by margins \(", ended.stderr)
    found = read_contract(out)
    assert found.calibration is not None
    assert found.parity is not None
    assert (found.calibration.images, found.parity.images) == (8, 8)
    ended = run_command("vit-infer", examples, "-m", out)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 16


def test_below_the_bound_nothing_is_written_and_the_layers_are_named(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "vit.onnx"
    ended = run_command("vit-export", tiny_folder, "--int8", "--min-agreement", "1", "-o", out)
    assert ended.returncode == 5
    assert "warning: calibrating on drawn images" in ended.stderr
    assert "calibrated on" not in ended.stderr, "that is for --verbose"
    words = ended.stderr.splitlines()[-1]
    assert "the int8 graph on cpu keeps too few labels" in words
    assert "(allowed 100.0%)" in words
    assert re.search(r"most sensitive to int8: (block [01] (qkv|kv|out|fc1|fc2)(, )?){3}$", words)
    assert not out.exists()


def test_int8_products_are_exact_and_widened_only_for_that(tmp_path: Path) -> None:
    depth, out = 512, 16
    weight = np.full((depth, out), 127, np.int8)  # two of 255 * 127 leave 16 bits
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, depth])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [None, out])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 4
    keep_int8_exact(settings)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    pixels = np.full((32, depth), 255, np.uint8)
    (found,) = session.run(None, {"x": pixels})
    assert np.array_equal(found, pixels.astype(np.int32) @ weight.astype(np.int32))
    optimised = onnx.load(settings.optimized_model_filepath).graph
    (kind,) = {t.data_type for t in optimised.initializer if t.dims == [depth, out]}
    assert kind == (TensorProto.INT8 if processor.cpu().int8 else TensorProto.UINT8)


@pytest.mark.parametrize(
    ("given", "calibrating", "judging"), [(2, 1, 1), (30, 15, 15), (50, 30, 20), (100, 40, 60)]
)
def test_all_images_are_used(
    given: int, calibrating: int, judging: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "sample_from_item", lambda item, _option: item)
    images, judged = calibration.split(range(given))
    rest = list(judged)
    assert (len(images), len(rest)) == (calibrating, judging)
    assert sorted([*images, *rest]) == list(range(given))
