"""Reads the contract out of an artefact without loading its weights.

Walking the tags of the outer messages takes microseconds where opening a session takes a second,
needs no ONNX Runtime, and finds a cut-off file or weights kept elsewhere before anything trusts
them. Field numbers are those of onnx.proto3.
"""

import contextlib
import mmap
import stat
from importlib import resources
from pathlib import Path

from vit_engine.artefact import contract, text_contract
from vit_engine.artefact.contract import Contract
from vit_engine.artefact.nodes import (
    ENTRY_KEY,
    ENTRY_VALUE,
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    MODEL_METADATA,
    TENSOR_EXTERNAL,
)
from vit_engine.artefact.not_a_model import absence_in_words, describe_file, folder_in_words
from vit_engine.artefact.protobuf import MalformedError, fields
from vit_engine.artefact.text_contract import TextContract
from vit_engine.errors import ArtefactError, printable

DEFAULT_MODEL = "vit.onnx"
"""What vit-export writes and vit-infer opens where nothing else is named."""

DEMO = "demo"
"""Names the artefact that comes with the package."""


def path_from_name(name: str | Path) -> Path:
    """Return the file that `name` stands for: the bundled artefact for "demo", else itself."""
    if name == DEMO:
        return Path(str(resources.files("vit_engine.artefact") / "demo.onnx"))
    return Path(name)


def read_contract(path: Path) -> Contract:
    """Return the contract inside an ONNX file; `ArtefactError` if it is no artefact of ours."""
    name, entries = printable(str(path)), _entries_of(path)
    if text_contract.KEY in entries:
        raise ArtefactError(
            f"{name}: holds a model of texts, not of images; vit_engine.TextEmbedder.load opens it"
        )
    if contract.KEY not in entries:
        raise ArtefactError(
            f"{name}: no '{contract.KEY}' contract in its metadata, so labels and preprocessing "
            "are unknown; export the checkpoint that it was made from with vit-export"
        )
    try:
        return contract.loads(entries[contract.KEY].decode())
    except (ArtefactError, UnicodeDecodeError) as e:
        raise ArtefactError(f"{name}: {e}") from e


def read_text_contract(path: Path) -> tuple[TextContract, str]:
    """Return the contract of a text tower and its tokenizer.json; `ArtefactError` if it is none."""
    name, entries = printable(str(path)), _entries_of(path)
    if not {text_contract.KEY, text_contract.TOKENIZER} <= set(entries):
        found = "a model of images" if contract.KEY in entries else "no model of vit-export"
        raise ArtefactError(f"{name}: is {found}; texts need a file of vit-export --text")
    try:
        tokenizer = entries[text_contract.TOKENIZER].decode()
        return text_contract.loads(entries[text_contract.KEY].decode()), tokenizer
    except (ArtefactError, UnicodeDecodeError) as e:
        raise ArtefactError(f"{name}: {e}") from e


def is_artefact(path: Path) -> bool:
    """Return whether a file has a contract of either kind that can be read."""
    for read in (read_contract, read_text_contract):
        with contextlib.suppress(ArtefactError):
            return bool(read(path))
    return False


def _entries_of(path: Path) -> dict[str, bytes]:
    """Return the metadata of an ONNX file; `ArtefactError` for a file that is none."""
    name = printable(str(path))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ArtefactError(f"{name}: {folder_in_words(path)}")
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for its writer
            raise ArtefactError(f"{name}: is not a regular file; name an .onnx file of vit-export")
        if message := describe_file(path):
            raise ArtefactError(f"{name}: {message}")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _entries(data)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise ArtefactError(f"{name}: {absence_in_words(path)}") from e
    except OSError as e:
        raise ArtefactError(f"{name}: cannot be read ({e.strerror})") from e
    except MalformedError as e:
        raise ArtefactError(f"{name}: {e}; name a file that vit-export wrote, or write one") from e
    except ValueError as e:  # mmap refuses an empty file
        raise ArtefactError(f"{name}: the file is empty; export the model again") from e


def _entries(data: mmap.mmap) -> dict[str, bytes]:
    """Return the metadata of a ModelProto, having looked at every initializer's storage."""
    entries: dict[str, bytes] = {}
    graphs = 0
    for number, start, end in fields(data, 0, len(data)):
        if number == MODEL_METADATA:
            pair = {n: data[a:b] for n, a, b in fields(data, start, end)}
            key = pair.get(ENTRY_KEY, b"").decode(errors="replace")
            entries[key] = pair.get(ENTRY_VALUE, b"")
        elif number == MODEL_GRAPH:
            graphs += 1
            for field, a, b in fields(data, start, end):
                if field == GRAPH_INITIALIZER:
                    _refuse_external(data, a, b)
    if graphs != 1:
        raise MalformedError("not an ONNX model (no graph in it)")
    return entries


def _refuse_external(data: mmap.mmap, start: int, end: int) -> None:
    if any(number == TENSOR_EXTERNAL for number, _, _ in fields(data, start, end)):
        raise MalformedError("its weights are in another file; an artefact must be a single file")
