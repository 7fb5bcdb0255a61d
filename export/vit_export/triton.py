"""Writes an artefact as a model repository of Triton Inference Server, ONNX Runtime backend.

DIR/NAME/config.pbtxt    DIR/NAME/labels.txt    DIR/NAME/1/model.onnx

The server answers with logits, and the config's parameter `score` tells what makes scores of them:
softmax, sigmoid or none. Or it answers with vectors, and the parameter `space` tells which others
they may be compared with; then there are no labels.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from vit_engine.artefact.contract import Contract, Output
from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.rewrites.attention import decompose_attention
from vit_engine.machine.atomic import replacing
from vit_engine.options import DEFAULTS
from vit_engine.providers import tensorrt
from vit_export.artefact import rewrite_metadata

NAME = "vit"
"""Of the model, as clients ask for it."""

MAX_BATCH = tensorrt.TENSORRT.default_batch(DEFAULTS)
IN_FLIGHT = tensorrt.TENSORRT.in_flight

QUEUE_DELAY_US = 1_000
"""How long a request waits for others to share its batch: less than a batch takes."""

QUEUE_BATCHES = 8
"""Batches that may wait; what comes on top is refused at once."""

QUEUE_TIMEOUT_US = 5_000_000
"""How long a request may wait in the queue before it is refused."""

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def write(artefact: Path, folder: Path, *, with_tensorrt: bool = False) -> Path:
    """Write a repository of one model into `folder` and return that model's folder.

    `with_tensorrt` asks Triton for its TensorRT accelerator with the profile that vit-infer uses,
    and rewrites attention for it as vit-infer does; then a GPU is needed.
    """
    contract = read_contract(artefact)
    model = artefact.read_bytes()
    if with_tensorrt:
        model = decompose_attention(model)
    files = {
        "1/model.onnx": model,
        "config.pbtxt": config(contract, with_tensorrt=with_tensorrt).encode(),
    }
    if isinstance(contract.output, Output):
        labels = (" ".join(label.split()) for label in contract.output.labels)
        files["labels.txt"] = "".join(f"{label}\n" for label in labels).encode()
    for name, content in files.items():
        with replacing(folder / NAME / name) as temporary:
            temporary.write_bytes(content)
            if with_tensorrt and content is model:
                rewrite_metadata(temporary)
    return folder / NAME


def config(contract: Contract, *, with_tensorrt: bool) -> str:
    """Return config.pbtxt: protobuf's text form of Triton's ModelConfig."""
    return "".join(f"{line}\n" for line in _config(contract, with_tensorrt=with_tensorrt))


def _config(contract: Contract, *, with_tensorrt: bool) -> Iterator[str]:
    given, output = contract.input, contract.output
    dims = list(given.image_shape)
    kind = "KIND_GPU" if with_tensorrt else "KIND_AUTO"
    yield f'name: "{NAME}"'
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {MAX_BATCH}"
    yield (
        f"input {{ name: {_text(given.name)} data_type: {_TYPES[given.dtype]} "
        f"format: FORMAT_{given.layout} dims: {dims} }}"
    )
    if isinstance(output, Output):
        size, labels = len(output.labels), ' label_filename: "labels.txt"'
        parameter, value = "score", str(output.score)
    else:
        size, labels, parameter, value = output.size, "", "space", output.space
    yield (f"output {{ name: {_text(output.name)} data_type: TYPE_FP32 dims: [{size}]{labels} }}")
    yield f"instance_group {{ count: {IN_FLIGHT} kind: {kind} }}"
    yield "dynamic_batching {"
    yield f"  max_queue_delay_microseconds: {QUEUE_DELAY_US}"
    yield (
        f"  default_queue_policy {{ max_queue_size: {QUEUE_BATCHES * MAX_BATCH} "
        f"timeout_action: REJECT default_timeout_microseconds: {QUEUE_TIMEOUT_US} }}"
    )
    yield "}"
    for batch in (1, MAX_BATCH):
        yield (
            f'model_warmup {{ name: "batch of {batch}" batch_size: {batch} '
            f"inputs {{ key: {_text(given.name)} value {{ data_type: {_TYPES[given.dtype]} "
            f"dims: {dims} zero_data: true }} }} }}"
        )
    yield f'parameters {{ key: "{parameter}" value: {{ string_value: {_text(value)} }} }}'
    if with_tensorrt:
        yield 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt"'
        for key, value in _accelerator(contract).items():
            yield f"  parameters {{ key: {_text(key)} value: {_text(value)} }}"
        yield "} } }"


def _accelerator(contract: Contract) -> dict[str, str]:
    """Return the backend's names for the options of our own TensorRT sessions."""
    profile = tensorrt.profile(contract.input, MAX_BATCH)
    precision = "FP16" if contract.identity.precision == "fp16" else "FP32"
    return {"precision_mode": precision, **profile}


def _text(value: str) -> str:
    return json.dumps(value)  # whose escapes are also those of protobuf's text form
