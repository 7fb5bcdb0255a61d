"""A compiled model as a file: written piece by piece, and mapped, so that memory holds it once."""

import io
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from vit_engine.errors import ProviderError, one_line
from vit_engine.machine.atomic import replacing


class _Sink(io.BytesIO):
    """A file for OpenVINO, which exports to a BytesIO alone: a real one would be a copy of all."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write to the file, and remember what fails: OpenVINO goes on."""
        try:
            return self._file.write(data)
        except OSError as e:
            self.failed = e
            raise

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move in the file."""
        return self._file.seek(offset, whence)


def write_blob(compiled: Any, path: Path) -> None:
    """Write a compiled model to a file, whole or not at all; WriteError or OSError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        compiled.export_model(sink)
        if sink.failed:
            raise sink.failed


def importer(openvino: ModuleType, path: Path) -> Callable[[Mapping[str, Any]], Any]:
    """Return what makes a model of the file with some settings; all have its weights in common.

    It raises ProviderError for a file that does not load.
    """
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # Not tensor_from_file, which reads the file into memory, twice for a moment.
    blob = openvino.Tensor(np.frombuffer(mapping, np.uint8), shared_memory=True)
    core = openvino.Core()

    def imported(settings: Mapping[str, Any]) -> Any:
        try:
            model = core.import_model(blob, "CPU", settings)
        except RuntimeError as e:
            raise ProviderError(one_line(e)) from e
        # Its products have weights in an order of their own by now: what was read goes back.
        mapping.madvise(mmap.MADV_DONTNEED)
        return model

    return imported
