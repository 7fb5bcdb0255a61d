"""What the Open Inference Protocol v2 tells of a model: metadata, configuration, statistics."""

from typing import Any

from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import VERSION

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")

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


def stats_of(scheduler: Scheduler, metrics: Metrics) -> dict[str, Any]:
    """Return what has gone through a model; durations in nanoseconds."""

    def stage(name: str) -> dict[str, int]:
        count, seconds = metrics.stage(scheduler.name, name)
        return {"count": count, "ns": round(seconds * 1e9)}

    queue, decode, engine = stage("queue"), stage("decode"), stage("engine")
    done = engine["count"]
    batches = sorted(scheduler.engine.stats.batches.items())
    none = {"count": 0, "ns": 0}
    return {
        "name": scheduler.name,
        "version": VERSION,
        "last_inference": round(scheduler.engine.stats.last * 1e3),
        "inference_count": done,
        "execution_count": round(sum(runs for _, (runs, _) in batches)),
        "inference_stats": {
            "success": {"count": done, "ns": queue["ns"] + decode["ns"] + engine["ns"]},
            "fail": {"count": queue["count"] - done, "ns": 0},
            "queue": queue,
            "compute_input": decode,
            "compute_infer": engine,
            "compute_output": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": none,
                "compute_infer": {"count": round(runs), "ns": round(seconds * 1e9)},
                "compute_output": none,
            }
            for size, (runs, seconds) in batches
        ],
    }
