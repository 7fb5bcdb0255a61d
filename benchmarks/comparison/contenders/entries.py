"""Who takes part: one entry each, in the order of the report. A contender's code is its module."""

from dataclasses import dataclass, field, replace
from typing import Any

CPU, CUDA = ("cpu",), ("cuda",)
BOTH = CPU + CUDA


@dataclass(frozen=True)
class Entry:
    """A row of the comparison; `devices` is where it can run at all."""

    name: str  # its first word is the row's family: a colour in the plots
    title: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = BOTH
    environment: str = ""  # it lives in .venv-ENVIRONMENT; "": in ours
    slow_start: bool = False  # converts or compiles for minutes: not in --quick
    files: bool = False  # has a path from files to labels
    files_only: bool = False  # and takes part in nothing else

    @property
    def path(self) -> str:
        """Return the module's importable name."""
        return f"{__package__}.{self.module}"

    @property
    def compiles(self) -> bool:
        """Whether each batch size costs a compilation, about the time that loading takes."""
        return "compile" in self.options

    @property
    def family(self) -> str:
        """Return the group of rows that this is one of."""
        return self.name.partition("-")[0]


BASELINE = "pytorch"
PROFILED = "ours-cuda"  # without CUDA graphs, which hide their kernels' names


def _eager(
    name: str, precision: str, devices: tuple[str, ...] = BOTH, *, files: bool = False
) -> Entry:
    options = {"precision": precision}
    return Entry(name, f"PyTorch eager {precision}", "pytorch", options, devices, files=files)


def _compiled(name: str, precision: str, devices: tuple[str, ...], mode: str = "default") -> Entry:
    words = "" if mode == "default" else f" {mode}"
    options = {"precision": precision, "compile": mode}
    return Entry(
        name, f"torch.compile {precision}{words}", "pytorch", options, devices, slow_start=True
    )


def _ours(
    name: str, title: str, devices: tuple[str, ...] = CPU, *, files: bool = False, **options: Any
) -> Entry:
    options["precision"] = title.partition(",")[0]
    slow = options["precision"] == "int8" or options.get("provider") == "tensorrt"
    return Entry(
        name, f"vit-engine {title}", "ours", options, devices, slow_start=slow, files=files
    )


def _peer(
    name: str, title: str, module: str, devices: tuple[str, ...] = CPU, **options: Any
) -> Entry:
    slow = not {"int8", "compile", "optimize"}.isdisjoint(options)
    return Entry(name, title, module, options, devices, environment="peers", slow_start=slow)


def _product(name: str, title: str, devices: tuple[str, ...] = BOTH) -> Entry:
    _, precision, library = name.split("-")
    return Entry(name, title, "gemm", {"precision": precision, "library": library}, devices)


CONTENDERS = (
    _eager(BASELINE, "fp32", files=True),
    _eager("pytorch-bf16", "bf16", files=True),
    _eager("pytorch-fp16", "fp16", CUDA),  # 0.2 to 0.3 of fp32 on a CPU
    _compiled("pytorch-compile", "fp32", CPU),
    _compiled("pytorch-compile-bf16", "bf16", CPU),
    _compiled("pytorch-compile-fp16", "fp16", CUDA),
    _compiled("pytorch-compile-max", "fp16", CUDA, "max-autotune"),
    Entry(
        "pytorch-pipeline",
        "transformers pipeline",
        "transformers_pipeline",
        files=True,
        files_only=True,
    ),
    _ours("ours-fp32", "fp32", files=True),
    _ours("ours-fp16", "fp16", files=True),
    _ours("ours-int8", "int8", files=True),
    _ours("ours-openvino", "fp32, OpenVINO f32", provider="openvino"),
    _ours("ours-openvino-bf16", "fp32, OpenVINO bf16", provider="openvino", compute="bf16"),
    _ours("ours-openvino-int8", "int8, OpenVINO f32", provider="openvino"),
    _ours("ours-openvino-int8-bf16", "int8, OpenVINO bf16", provider="openvino", compute="bf16"),
    replace(
        _ours("ours-fast-decode", "fp16, --fast-decode", files=True, fast=True), files_only=True
    ),
    _ours("ours-cuda-fp32", "fp32, CUDA graphs", CUDA, provider="cuda"),
    _ours(PROFILED, "fp16, CUDA", CUDA, provider="cuda", cuda_graphs=False),
    _ours("ours-cuda-graphs", "fp16, CUDA graphs", CUDA, provider="cuda", files=True),
    _ours(
        "ours-cuda-file", "fp16, CUDA graphs, the file's graph", CUDA, provider="cuda", adapt=False
    ),
    _ours("ours-cuda-pipelined", "fp16, CUDA pipelined", CUDA, provider="cuda", pipelined=True),
    _ours("ours-tensorrt", "fp16, TensorRT", CUDA, provider="tensorrt"),
    _ours(
        "ours-tensorrt-pipelined",
        "fp16, TensorRT pipelined",
        CUDA,
        provider="tensorrt",
        pipelined=True,
    ),
    _peer("optimum", "Optimum ONNX Runtime fp32", "optimum", BOTH),
    _peer("optimum-optimized", "Optimum ONNX Runtime fp32, O2", "optimum", optimize="O2"),
    _peer("optimum-int8", "Optimum int8 (dynamic)", "optimum", int8="dynamic"),
    _peer("optimum-int8-static", "Optimum int8 (static)", "optimum", int8="static"),
    _peer("openvino", "OpenVINO f32", "openvino_nncf", hint="f32"),
    _peer("openvino-bf16", "OpenVINO bf16", "openvino_nncf", hint="bf16"),
    _peer("openvino-int8", "OpenVINO int8 (NNCF)", "openvino_nncf", hint="f32", int8=True),
    _peer(
        "openvino-int8-bf16", "OpenVINO int8 (NNCF), bf16", "openvino_nncf", hint="bf16", int8=True
    ),
    _peer("openvino-streams", "OpenVINO bf16, streams", "openvino_nncf", hint="bf16", streams=True),
    _peer("torchao-int8", "torchao int8 (dynamic), compiled", "torchao_int8", compile="default"),
    replace(
        _peer("zentorch-bf16", "zentorch bf16", "zentorch", precision="bf16", compile="default"),
        environment="zentorch",
    ),
)

CEILINGS = (
    _product("gemm-fp32-torch", "fp32 GEMM, PyTorch"),
    _product("gemm-fp32-ort", "fp32 GEMM, ONNX Runtime", CPU),
    _product("gemm-bf16-torch", "bf16 GEMM, PyTorch"),
    _product("gemm-fp16-torch", "fp16 GEMM, PyTorch", CUDA),
    _product("gemm-int8-torch", "int8 GEMM, PyTorch"),
    _product("gemm-int8-ort", "int8 GEMM, ONNX Runtime", CPU),
)
