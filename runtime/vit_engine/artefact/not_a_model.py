"""What people name in place of an artefact, and the command that comes before."""

import re
from pathlib import Path

from vit_engine.errors import did_you_mean, other_name, printable

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")
_ID = re.compile(r"(hf:)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)  # of two slashes a Path keeps one
_SHOWN = 3  # names of artefacts in a folder


def folder_in_words(folder: Path) -> str:
    """Say what to do with a folder that was named as a model."""
    found = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    has_weights = any(path.suffix.lower() in _WEIGHTS for path in folder.iterdir())
    if (folder / "config.json").is_file() and (has_weights or not found):
        return f"is the folder of a checkpoint; {_export(folder)}"
    if not found:
        return (
            "is a folder without an .onnx file; name a file that vit-export wrote, or 'demo', the "
            "bundled model"
        )
    names = " or ".join(printable(str(path)) for path in found[:_SHOWN])
    return f"is a folder; name the file in it: {names}"


def describe_file(path: Path) -> str | None:
    """Say what to do with a file that was named as a model, None for one that may be ONNX."""
    if path.suffix.lower() in _WEIGHTS or path.name == "config.json":
        return f"is a part of a checkpoint; {_export(path.parent)}"
    return None


def absence_in_words(path: Path) -> str:
    """Say what to do about a model that is not there."""
    name = str(path)
    if _SCHEME.match(name):
        return "is a URL; download the file, and name that"
    if found := other_name(name):
        return f"{found}; name another file, or write one with vit-export"
    if near := did_you_mean(name, ending=".onnx"):
        return f"no such file{near}"
    if name.startswith("hf:") or (_ID.fullmatch(name) and path.suffix != ".onnx"):
        return f"no such file; if it is a model on a hub, {_export(path)}"
    return "no such file; write one with vit-export, or name 'demo', the bundled model"


def _export(checkpoint: Path) -> str:
    name = printable(str(checkpoint))
    return f"run 'vit-export {name} --fp16 -o vit.onnx' first, then name vit.onnx"
