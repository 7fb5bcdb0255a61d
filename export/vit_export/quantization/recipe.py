"""int8 weights for a checkpoint, rounded so that its own activations feel it least.

1. A float pass over the calibration images gathers, for the input x of every product, its mean
   and x' x.
2. SmoothQuant (arXiv:2211.10438): channels with large activations are scaled down, and the weights
   that read them up. The scales go into the LayerNorm or the value projection before: exact.
3. GPTQ (arXiv:2210.17323): each weight's rounding error is made good by those not yet rounded, as
   far as x' x says that they move together. The mean of what remains goes into the bias.
4. Each product runs in int8 alone; those whose rounding the logits feel most for their arithmetic
   go back to float, up to FLOAT_SHARE of it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxscript import OpBuilder, ir, nn

from vit_engine.artefact.contract import Calibration
from vit_engine.providers.sessions import keep_int8_exact
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.checkpoints.weights import Tensor
from vit_export.graph.vit import Array, Linear, Weights, model_from_checkpoint
from vit_export.quantization.gptq import Statistics, int8_from_matrix
from vit_export.quantization.operators import Int8Linear, Int8Weights

Layers = tuple[str, ...]
"""The checkpoint layers that one product computes, by their names on disk."""

Tensors = dict[str, Tensor]

SMOOTHING = 0.6
"""SmoothQuant's alpha: how much of a channel's size the weights take over. Sizes are root mean
squares and norms; the least of a product's own noise is there, on DeiT-Tiny."""

FLOAT_SHARE = 0.06
"""Of the multiply-adds of the blocks' products, what may stay in float: an estimated 8 % of
the time."""

PROBES = 8
"""Calibration images that a product's sensitivity is measured on."""

BATCH = 4
"""Images at once in the float pass."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A checkpoint with its scales folded in, and the products that run in int8.

    `sensitivity` is the Kullback-Leibler divergence from the float labels' probabilities with one
    product alone in int8, the largest first; those in float are in it too.
    """

    checkpoint: Checkpoint
    layers: Mapping[Layers, Int8Weights]
    calibration: Calibration
    sensitivity: Mapping[Layers, float]

    def linear(self, weights: Weights, *layers: str) -> nn.Module:
        """Return the product in int8 where it has been rounded, else in float."""
        if layers not in self.layers:
            return _HalfStored(weights, *layers)
        return Int8Linear(
            self.layers[layers],
            tokens=tokens_of(self.checkpoint),
            after_gelu=layers[0].endswith(".output.dense") and "attention" not in layers[0],
        )

    def only(self, names: Iterable[Layers]) -> "Quantized":
        """Return the same with all other products in float."""
        return replace(self, layers={n: self.layers[n] for n in names})

    def most_sensitive(self, count: int = 3) -> str:
        """Name the products that the logits feel most, for a person to read."""
        names = [n for n in self.sensitivity if n in self.layers][:count]
        words = (" + ".join(layer.removeprefix("vit.encoder.") for layer in n) for n in names)
        return "most sensitive to int8: " + ", ".join(words)


def quantized(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> Quantized:
    """Round the blocks' products to int8 after the calibration images (N, H, W, 3).

    The last block's products over the CLS token alone stay in float, as do the patch embedding and
    the classifier: they are 1 % of the arithmetic. The same pixels give the same bytes on the same
    machine; another's BLAS may round a weight near the middle of two steps to the other side.
    """
    statistics = _statistics(checkpoint, pixels)
    tensors: Tensors = dict(checkpoint.tensors)
    for name, found in statistics.items():
        scale = _smoothing(tensors, name, found)
        _fold(tensors, name, scale)
        statistics[name] = found.scaled(1 / scale)
    layers = {n: int8_from_matrix(*_matrix(tensors, n), found) for n, found in statistics.items()}
    calibration = Calibration(len(pixels), hashlib.sha256(pixels.tobytes()).hexdigest())
    rounded = Quantized(replace(checkpoint, tensors=tensors), layers, calibration, {})
    probes = pixels[:: -(-len(pixels) // PROBES)]
    rounded = replace(rounded, sensitivity=_sensitivity(rounded, probes))
    in_float = _worth_float(rounded)
    return rounded.only(n for n in layers if n not in in_float)


def tokens_of(checkpoint: Checkpoint) -> int:
    """Return how many tokens an image has, CLS included."""
    a = checkpoint.architecture
    return (a.image_size // a.patch_size) ** 2 + 1


class _HalfStored(Linear):
    """A Linear that keeps half a file's bytes; ONNX Runtime widens the weights when it loads."""

    def __init__(self, weights: Weights, *layers: str) -> None:
        super().__init__(weights, *layers)
        matrix = np.concatenate([weights[f"{n}.weight"].T for n in layers], axis=1)
        half = ir.tensor(matrix.astype(np.float16))
        self.weight = nn.Parameter(matrix.shape, data=half)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y: ir.Value = op.MatMul(x, op.Cast(self.weight, to=ir.DataType.FLOAT))
        if self.bias is not None:
            y = op.Add(y, self.bias)
        return y


class _Tapped(Linear):
    """A Linear that remembers the value it read."""

    input: ir.Value

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        self.input = x
        return super().forward(op, x)


def _statistics(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> dict[Layers, Statistics]:
    """Run the float graph and look at what the blocks' products over every token read."""
    taps: dict[Layers, _Tapped] = {}

    def tapped(weights: Weights, *layers: str) -> nn.Module:
        taps[layers] = _Tapped(weights, *layers)
        return taps[layers]

    model = model_from_checkpoint(checkpoint, precision="fp32", io="uint8", linear=tapped)
    last = f"vit.encoder.layer.{checkpoint.architecture.layers - 1}."
    inputs = {
        layers: module.input
        for layers, module in taps.items()
        if layers[0].startswith("vit.encoder.")
        and (not layers[0].startswith(last) or len(layers) > 1)
    }
    for value in inputs.values():
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    session = _session(model)
    names = [str(value.name) for value in inputs.values()]
    statistics: dict[Layers, Statistics] = {}
    for start in range(0, len(pixels), BATCH):
        found = session.run(names, {"pixels": pixels[start : start + BATCH]})
        for layers, x in zip(inputs, found, strict=True):
            if layers not in statistics:
                k = x.shape[-1]
                statistics[layers] = Statistics(np.zeros(k), np.zeros((k, k), np.float32))
            statistics[layers].add(x)
    return statistics


def _session(model: ir.Model) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    keep_int8_exact(settings)
    serialized = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(serialized, settings, providers=["CPUExecutionProvider"])


def _sensitivity(rounded: Quantized, pixels: NDArray[np.uint8]) -> dict[Layers, float]:
    """Return, for each product alone in int8, the mean divergence from float on the images."""

    def log_probabilities(names: Iterable[Layers]) -> Array:
        some = rounded.only(names)
        model = model_from_checkpoint(
            some.checkpoint, precision="int8", io="uint8", linear=some.linear
        )
        logits = _session(model).run(None, {"pixels": pixels})[0].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))

    true = log_probabilities([])
    found = {
        name: float((np.exp(true) * (true - log_probabilities([name]))).sum(1).mean())
        for name in rounded.layers
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _worth_float(rounded: Quantized) -> set[Layers]:
    """Return the products whose place in float buys most, as many as FLOAT_SHARE pays for."""
    cost = {name: layer.matrix.size for name, layer in rounded.layers.items()}
    left = FLOAT_SHARE * sum(cost.values())
    chosen = set()
    for name in sorted(cost, key=lambda n: -rounded.sensitivity[n] / cost[n]):
        if cost[name] <= left:
            left -= cost[name]
            chosen.add(name)
    return chosen


def _matrix(tensors: Mapping[str, Tensor], name: Layers) -> tuple[Array, Array]:
    """Return the product's weights (K, N) and bias (N,) in float64."""
    weights = [tensors[f"{n}.weight"].astype(np.float64).T for n in name]
    biases = [
        tensors[f"{n}.bias"].astype(np.float64) if f"{n}.bias" in tensors else np.zeros(w.shape[1])
        for n, w in zip(name, weights, strict=True)
    ]
    return np.concatenate(weights, axis=1), np.concatenate(biases)


def _producer(name: Layers) -> tuple[str, Layers] | None:
    """Return the layer whose output channels a product's scales fold into, and all that read them.

    None after a GELU, which no scale passes.
    """
    block, _, layer = name[0].partition(".attention.")
    if layer == "output.dense":
        return f"{block}.attention.attention.value", name
    if layer:
        readers = (f"{block}.attention.attention.{n}" for n in ("query", "key", "value"))
        return f"{block}.layernorm_before", tuple(readers)
    if name[0].endswith(".intermediate.dense"):
        return f"{name[0].removesuffix('.intermediate.dense')}.layernorm_after", name
    return None


def _smoothing(tensors: Mapping[str, Tensor], name: Layers, found: Statistics) -> Array:
    """Return what each input channel is to be divided by, 1 on the geometric mean."""
    matrix, _ = _matrix(tensors, name)
    if _producer(name) is None:
        return np.ones(len(matrix))
    activation = np.maximum(found.size(), 1e-5)
    weight = np.maximum(np.linalg.norm(matrix, axis=1), 1e-5)
    scale = activation**SMOOTHING / weight ** (1 - SMOOTHING)
    return np.asarray(scale / np.exp(np.log(scale).mean()))


def _fold(tensors: Tensors, name: Layers, scale: Array) -> None:
    """Divide the product's input by `scale`, in the layer that makes it; multiply its weights."""
    found = _producer(name)
    if found is None:
        return
    producer, readers = found
    for part in (f"{producer}.weight", f"{producer}.bias"):
        if part in tensors:
            made = tensors[part].astype(np.float64)
            tensors[part] = made / scale.reshape(-1, *[1] * (made.ndim - 1))
    for reader in readers:
        tensors[f"{reader}.weight"] = tensors[f"{reader}.weight"].astype(np.float64) * scale
