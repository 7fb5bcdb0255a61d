"""What the Open Inference Protocol v2 tells of a model: metadata and configuration."""

from typing import Any

from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import VERSION

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration")

DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


def metadata_of(scheduler: Scheduler) -> dict[str, Any]:
    """Return a model's inputs and outputs."""
    input_spec, output = scheduler.engine.contract.input, scheduler.engine.contract.output
    datatype, shape = DATATYPES[input_spec.dtype], [-1, *input_spec.image_shape]
    out = [-1, *scheduler.engine.output.shape]
    return {
        "name": scheduler.name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": input_spec.name, "datatype": datatype, "shape": shape}],
        "outputs": [{"name": output.name, "datatype": "FP32", "shape": out}],
    }


def config_of(scheduler: Scheduler) -> dict[str, Any]:
    """Return a model's configuration as Triton's clients read it."""
    input_spec, output = scheduler.engine.contract.input, scheduler.engine.contract.output
    datatype, dims = f"TYPE_{DATATYPES[input_spec.dtype]}", list(input_spec.image_shape)
    out = list(scheduler.engine.output.shape)
    return {
        "name": scheduler.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": scheduler.engine.max_batch,
        "input": [{"name": input_spec.name, "data_type": datatype, "dims": dims}],
        "output": [{"name": output.name, "data_type": "TYPE_FP32", "dims": out}],
        "dynamic_batching": {},
    }
