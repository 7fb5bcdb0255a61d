"""NVIDIA's shared libraries: which a provider is linked to, where they are, loading them.

ONNX Runtime's own `preload_dlls` prints to stdout and leaves TensorRT out.
"""

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

_LINKED = {
    "cuda": (
        "libcudart.so.{cuda}",
        "libcublasLt.so.{cuda}",
        "libcublas.so.{cuda}",
        "libcurand.so.10",
    ),
    "tensorrt": ("libnvinfer.so.10", "libnvonnxparser.so.10", "libcudnn.so.9"),
}


def linked(provider: str, cuda: int) -> tuple[str, ...]:
    """Return what ONNX Runtime's library of a provider is linked to, in an order to load them in.

    Nothing where it is not built for CUDA, whose major version `cuda` is.
    """
    return tuple(name.format(cuda=cuda) for name in _LINKED.get(provider, ())) if cuda else ()


def load(name: str) -> str | None:
    """Load a library for the whole process: one already there, a pip package's, the system's.

    Return why it does not load, None where it does.
    """
    attempts = [(name, os.RTLD_NOLOAD), *((str(p), 0) for p in _packaged(name)), (name, 0)]
    problems = []
    for candidate, mode in attempts:
        try:
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL | mode)
        except OSError as e:
            problems.append(str(e))
        else:
            return None
    return problems[1]


def tensorrt_version() -> str:
    """Return the version of the loaded libnvinfer, "10.14.1"."""
    number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _packaged(name: str) -> Iterator[Path]:
    """Yield the places of a library in the pip packages of CUDA and TensorRT."""
    for package, pattern in (("nvidia", f"*/lib/{name}"), ("tensorrt_libs", name)):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(location).glob(pattern))
