"""torchao: int8 weights by channel, activations by token as they come, compiled by Inductor."""

from typing import Any

from comparison.contenders import pytorch
from comparison.job import Contender, Job


def load(job: Job) -> Contender:
    """Load the checkpoint in fp32 and quantise its linear layers; compiling is part of it."""
    import torchao
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def quantised(model: Any) -> None:
        quantize_(model, Int8DynamicActivationInt8WeightConfig())

    found = pytorch.contender(job, "fp32", "default", prepare=quantised)
    found.about["compute"] = "int8"
    found.about["runtime"] += f", torchao {torchao.__version__}"
    return found
