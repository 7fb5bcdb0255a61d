"""A GPU that computes nothing, for ONNX Runtime's real GPU build; see cuda.c."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RUNTIME = HERE.parents[2] / "runtime"
LIBRARIES = {
    "libcudart.so.13": "CUDART",
    "libcublas.so.13": "CUBLAS",
    "libcublasLt.so.13": "CUBLASLT",
    "libcurand.so.10": "NOTHING",
    "libcuda.so.1": "DRIVER",
    "libcudnn.so.9": "CUDNN",
}
"""By file name, the part of cuda.c that it is made of."""

UNVERSIONED = ("libcuda.so.1", "libcudnn.so.9")
"""Libraries whose symbols have no versions; the provider looks cuDNN's up by name as it runs."""

_PROBE = """
import importlib.util, json, pathlib, onnxruntime
print(json.dumps({
    "folder": str(pathlib.Path(onnxruntime.__file__).parent / "capi"),
    "providers": onnxruntime.get_available_providers(),
    "nvidia": importlib.util.find_spec("nvidia") is not None,
}))
"""


@dataclass(frozen=True)
class GpuBuild:
    """An interpreter that has onnxruntime-gpu, and the folder of its shared libraries."""

    python: str
    folder: Path

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run that Python with the runtime of this checkout; 120 s at most."""
        settings = {"PYTHONPATH": str(RUNTIME), "PATH": os.environ["PATH"]} | environment
        line = [self.python, *map(str, arguments)]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=120, check=False, env=settings
        )


def gpu_build() -> GpuBuild | str:
    """Return the GPU build of $VIT_GPU_PYTHON or of this interpreter, or why there is none."""
    python = os.environ.get("VIT_GPU_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        return f"{python} has no onnxruntime"
    found = json.loads(done.stdout.splitlines()[-1])
    if "CUDAExecutionProvider" not in found["providers"]:
        return "onnxruntime-gpu is not installed (set VIT_GPU_PYTHON to a Python that has it)"
    if found["nvidia"]:
        return "NVIDIA's own CUDA libraries are installed beside onnxruntime-gpu"
    return GpuBuild(python, Path(found["folder"]))


def build(gpu: GpuBuild, folder: Path) -> Path | str:
    """Compile the libraries into `folder`, for LD_LIBRARY_PATH; or return why that cannot be.

    They define every symbol that the CUDA provider imports, with its version.
    """
    if not (shutil.which("cc") and shutil.which("nm")):
        return "no C compiler"
    wanted: dict[str, set[str]] = {name: set() for name in LIBRARIES}
    provider = gpu.folder / "libonnxruntime_providers_cuda.so"
    for line in _said("nm", "-D", "--undefined-only", provider):
        name, _, version = line.split()[-1].partition("@")
        if version in wanted:
            wanted[version].add(name)
        elif name.startswith("cu"):
            wanted["libcuda.so.1"].add(name)
    looked_up = re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes())
    wanted["libcudnn.so.9"] = {name.decode() for name in looked_up}
    for library, part in LIBRARIES.items():
        own, stubs = folder / f"{part}.o", folder / f"{part}.c"
        _said("cc", "-w", "-fPIC", "-O1", "-c", f"-D{part}", HERE / "cuda.c", "-o", own)
        defined = {line.split()[-1] for line in _said("nm", "--defined-only", "-g", own)}
        rest = sorted(wanted[library] - defined)
        stubs.write_text("".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in rest))
        link = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library}"]
        if library not in UNVERSIONED:
            script = folder / f"{part}.map"
            script.write_text(f"{library} {{ global: *; }};\n")
            link.append(f"-Wl,--version-script={script}")
        _said("cc", *link, stubs, own, "-o", folder / library)
    return folder


def _said(*command: str | Path) -> list[str]:
    line = [str(part) for part in command]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()
