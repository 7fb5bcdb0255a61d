"""Who takes part: one entry each, in the order of the report. A contender's code is its module."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A row of the comparison; `devices` is where it can run at all."""

    name: str
    title: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")
    peer: bool = False  # lives in the peers' environment
    slow_start: bool = False  # converts or compiles for minutes: not in --quick
    files: bool = False  # has a path from files to labels
    files_only: bool = False  # and takes part in nothing else

    @property
    def path(self) -> str:
        """Return the module's importable name."""
        return f"{__name__}.{self.module}"

    @property
    def compiles(self) -> bool:
        """Whether each batch size costs a compilation, about the time that loading takes."""
        return "compile" in self.options

    @property
    def family(self) -> str:
        """Return the colour group of the report."""
        return "ours" if self.name.startswith("ours") else self.module


BASELINE = "pytorch"
OURS = {"ours-fp32": "fp32", "ours-fp16": "fp16", "ours-int8": "int8"}

CONTENDERS = (
    Entry(BASELINE, "PyTorch eager fp32", "pytorch", files=True),
    Entry("pytorch-bf16", "PyTorch eager bf16", "pytorch", {"dtype": "bfloat16"}, files=True),
    Entry("pytorch-fp16", "PyTorch eager fp16", "pytorch", {"dtype": "float16"}),
    Entry(
        "pytorch-compile",
        "torch.compile fp32",
        "pytorch",
        {"compile": "default"},
        slow_start=True,
    ),
    Entry(
        "pytorch-compile-bf16",
        "torch.compile bf16",
        "pytorch",
        {"compile": "default", "dtype": "bfloat16"},
        slow_start=True,
    ),
    Entry(
        "pytorch-compile-fp16",
        "torch.compile fp16",
        "pytorch",
        {"compile": "default", "dtype": "float16"},
        ("cuda",),
        slow_start=True,
    ),
    Entry(
        "pytorch-compile-max",
        "torch.compile fp16 max-autotune",
        "pytorch",
        {"compile": "max-autotune", "dtype": "float16"},
        ("cuda",),
        slow_start=True,
    ),
    Entry("pytorch-pipeline", "transformers pipeline", "pipeline", files=True, files_only=True),
    *(
        Entry(
            name,
            f"vit-engine {precision}",
            "ours",
            {"precision": precision},
            ("cpu",),
            slow_start=precision == "int8",
            files=True,
        )
        for name, precision in OURS.items()
    ),
    Entry(
        "ours-cuda-fp32",
        "vit-engine fp32, CUDA graphs",
        "ours",
        {"precision": "fp32", "provider": "cuda"},
        ("cuda",),
    ),
    Entry(
        "ours-cuda",
        "vit-engine fp16, CUDA",
        "ours",
        {"precision": "fp16", "provider": "cuda", "cuda_graphs": False},
        ("cuda",),
    ),
    Entry(
        "ours-cuda-graphs",
        "vit-engine fp16, CUDA graphs",
        "ours",
        {"precision": "fp16", "provider": "cuda"},
        ("cuda",),
        files=True,
    ),
    Entry(
        "ours-tensorrt",
        "vit-engine fp16, TensorRT",
        "ours",
        {"precision": "fp16", "provider": "tensorrt"},
        ("cuda",),
        slow_start=True,
    ),
    Entry("optimum", "Optimum ONNX Runtime fp32", "optimum", peer=True),
    Entry(
        "optimum-int8",
        "Optimum int8 (dynamic)",
        "optimum",
        {"int8": True},
        ("cpu",),
        peer=True,
        slow_start=True,
    ),
    Entry("openvino", "OpenVINO f32", "openvino", {"hint": "f32"}, ("cpu",), peer=True),
    Entry("openvino-bf16", "OpenVINO bf16", "openvino", {"hint": "bf16"}, ("cpu",), peer=True),
    Entry(
        "openvino-int8",
        "OpenVINO int8 (NNCF)",
        "openvino",
        {"hint": "f32", "int8": True},
        ("cpu",),
        peer=True,
        slow_start=True,
    ),
)

CEILINGS = (
    Entry("gemm-fp32-torch", "fp32 GEMM, PyTorch", "gemm", {"precision": "fp32"}),
    Entry("gemm-fp32-ort", "fp32 GEMM, ONNX Runtime", "gemm_ort", {"precision": "fp32"}, ("cpu",)),
    Entry("gemm-bf16-torch", "bf16 GEMM, PyTorch", "gemm", {"precision": "bf16"}),
    Entry("gemm-fp16-torch", "fp16 GEMM, PyTorch", "gemm", {"precision": "fp16"}, ("cuda",)),
    Entry("gemm-int8-torch", "int8 GEMM, PyTorch", "gemm", {"precision": "int8"}),
    Entry("gemm-int8-ort", "int8 GEMM, ONNX Runtime", "gemm_ort", {"precision": "int8"}, ("cpu",)),
)
