"""The float graph of a checkpoint, and what its products are found to read."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnxscript import OpBuilder, ir, nn
from PIL import Image

from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.layers import Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import model_from_checkpoint
from vit_export.graph.weights import Weights
from vit_export.quantization.model_session import open_model_session
from vit_export.quantization.operators import GELU_MIN
from vit_export.samples.images import drawn_samples

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@functools.cache
def drawn_images() -> tuple[Image.Image, ...]:
    """Sixteen images, the last three of them black, white and noise."""
    return tuple(drawn_samples(13))


def noise(checkpoint: Checkpoint) -> Pixels:
    size = checkpoint.model_config.image_size
    return np.random.default_rng(1).integers(0, 256, (4, size, size, 3), np.uint8)


def logits_of(checkpoint: Checkpoint, pixels: Pixels) -> Floats:
    """What the graph in fp32 gives, before there is a file of it."""
    model = model_from_checkpoint(checkpoint, precision="fp32", io="uint8")
    found: Floats = open_model_session(model).run(None, {"pixels": pixels})[0]
    return found


def layers(checkpoint: Checkpoint) -> list[str]:
    return [n.removesuffix(".weight") for n in checkpoint.tensors if n.endswith(".weight")]


def matrices(checkpoint: Checkpoint) -> set[str]:
    return {n for n in layers(checkpoint) if checkpoint.tensors[f"{n}.weight"].ndim == 2}


class Tap(Linear):
    input: ir.Value

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        self.input = x
        return super().forward(op, x)


def read_by_products(checkpoint: Checkpoint) -> tuple[list[MatMul], list[Floats]]:
    """The products of the float graph, and what each of them reads."""
    taps: dict[MatMul, Tap] = {}

    def tap(weights: Weights, matmul: MatMul) -> nn.Module:
        taps[matmul] = Tap(weights, matmul)
        return taps[matmul]

    model = model_from_checkpoint(checkpoint, precision="fp32", io="uint8", linear=tap)
    values = [module.input for module in taps.values()]
    for value in dict.fromkeys(values):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    names = [str(value.name) for value in values]
    return list(taps), open_model_session(model).run(names, {"pixels": noise(checkpoint)})


def faults(checkpoint: Checkpoint, matmuls: list[MatMul], inputs: list[Floats]) -> Iterator[str]:
    """Hold what is said of the products against what they read, and against the logits."""
    for matmul, x in zip(matmuls, inputs, strict=True):
        if matmul.tokens != (x.shape[1] if x.ndim == 3 else 1):
            yield f"{matmul} reads {x.shape}"
        if matmul.after_gelu != (x.min() >= -GELU_MIN):
            yield f"{matmul} reads {x.min()}"
    for producer in dict.fromkeys(p.input_layer for p in matmuls if p.input_layer):
        readers = tuple(n for p in matmuls if p.input_layer == producer for n in p.layers)
        if not _are_all_readers(checkpoint, producer, readers):
            yield f"the channels of {producer} are read by others"


@functools.cache
def _are_all_readers(checkpoint: Checkpoint, producer: str, readers: tuple[str, ...]) -> bool:
    """Whether the logits stay where a layer's outputs are scaled down and its readers scaled up."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}
    made = tensors[f"{producer}.weight"]
    scale = np.random.default_rng(0).uniform(0.5, 2, len(made))
    tensors[f"{producer}.weight"] = (made.T / scale).T
    if f"{producer}.bias" in tensors:
        tensors[f"{producer}.bias"] /= scale
    for name in readers:
        tensors[f"{name}.weight"] *= scale
    found = logits_of(replace(checkpoint, tensors=tensors), noise(checkpoint))
    return bool(np.abs(found - _noise_logits(checkpoint)).max() <= 1e-3)


@functools.cache
def _noise_logits(checkpoint: Checkpoint) -> Floats:
    return logits_of(checkpoint, noise(checkpoint))


def assert_products_are_as_said(checkpoint: Checkpoint) -> None:
    matmuls, inputs = read_by_products(checkpoint)
    assert list(faults(checkpoint, matmuls, inputs)) == []
    assert {name for p in matmuls for name in p.layers} == matrices(checkpoint)
