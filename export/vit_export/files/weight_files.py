"""Weight files in a checkpoint folder, read into NumPy arrays under their names on disk."""

import argparse
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import CheckpointError, one_line
from vit_export.files.json_file import read_json
from vit_export.files.other_kinds import (
    PICKLE,
    SAFETENSORS,
    STATE_DICT,
    no_weights,
    refuse_broken_link,
    refuse_pointer,
)

Tensor = NDArray[np.float32] | NDArray[np.float64]

INDEX = ".index.json"  # after either name: a table of shards

INNER = ("state_dict", "model", "model_state_dict", "module", "net", "weights")
"""Where training checkpoints keep the weights."""

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Where they keep an average of them, which is what they evaluate."""

FLOATS = ("F64", "F32", "F16", "BF16")


def weight_files(folder: Path, names: tuple[str, ...] = (SAFETENSORS, PICKLE)) -> tuple[Path, ...]:
    """Return the files that hold the weights, sorted: the first of `names`, whole or sharded."""
    for name in names:
        refuse_broken_link(folder / name)
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / (name + INDEX)).is_file():
            return _shards(folder / (name + INDEX))
    raise CheckpointError(no_weights([path.name for path in folder.iterdir()], names))


def sha256_of(files: tuple[Path, ...]) -> str:
    """Return the sha256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def tensors_from_files(files: tuple[Path, ...], wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the tensors `wanted` by name, float64 as it is and narrower floats widened to float32.

    `CheckpointError` for an unreadable file, a weight that is not floating point, or two of a name.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        refuse_pointer(path)
        pickled = path.suffix == ".bin"
        for name, tensor in (_pickled if pickled else _safetensors)(path, wanted):
            if name in tensors:
                raise CheckpointError(f"{path.name} holds {name} a second time")
            tensors[name] = tensor
    return tensors


def _shards(index: Path) -> tuple[Path, ...]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index.name} has no weight_map")
    names = sorted({str(name) for name in table.values()})
    suffix = ".safetensors" if ".safetensors" in index.name else ".bin"
    for name in names:
        # A name with a folder in it could point anywhere on the machine.
        if Path(name).name != name or not name.endswith(suffix):
            raise CheckpointError(f"{index.name} names {name!r}, expected a {suffix} beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{name} is missing; {index.name} names it")
    return tuple(index.parent / name for name in names)


def _safetensors(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    import ml_dtypes  # noqa: F401 - gives NumPy the bfloat16 that safetensors asks for
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for name in filter(wanted, file.keys()):
                dtype = file.get_slice(name).get_dtype()
                if dtype not in FLOATS:
                    if is_weight(name):
                        raise _not_floating(name, dtype)
                    continue
                tensor = file.get_tensor(name)
                yield name, tensor if dtype == "F64" else tensor.astype(np.float32)
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path.name} is truncated or corrupt ({one_line(e)})") from e


def state_dict(path: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Read the tensors of a state dict as training saves it, by name, an average's before others'.

    `report` is told where in a larger file they lie. CheckpointError for what holds none.
    """
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as e:  # the library's errors have no common base
            raise CheckpointError(f"{path.name} is truncated or corrupt ({one_line(e)})") from e
    state = _unpickled(path)
    inner = [name for name, value in state.items() if isinstance(value, dict)]
    if weights := next((name for name in AVERAGES + INNER if name in inner), None):
        report(f"{path.name}: its weights are those under {weights!r}")
        state = state[weights]
    return {n: t for n, t in state.items() if isinstance(n, str) and isinstance(t, torch.Tensor)}


def _unpickled(path: Path) -> dict[Any, Any]:
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # which timm's training saves
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise CheckpointError(f"{path.name} is not there") from e
    except Exception as e:  # a broken or hostile pickle raises almost anything
        raise CheckpointError(f"{path.name} {_unread(e)}") from e
    if not isinstance(state, dict):
        raise CheckpointError(f"{path.name} holds a {type(state).__name__}, not a table of weights")
    return state


def _pickled(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    import torch

    wide = {torch.float64: torch.float64, torch.float32: torch.float32}
    floats = wide | {torch.float16: torch.float32, torch.bfloat16: torch.float32}
    state = _unpickled(path)
    inner = [name for name, value in state.items() if isinstance(value, dict)]
    if inner:
        weights = next((name for name in INNER + AVERAGES if name in inner), inner[0])
        keys = one_line(", ".join(map(repr, state)), 100)
        raise CheckpointError(
            f"{path.name} is a training checkpoint, with {keys}; save only its weights: "
            f"torch.save(torch.load('{path.name}')[{weights!r}], '{path.name}')"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path.name} holds {name!r}, which is not a tensor with a name; save only the "
                f"weights: {STATE_DICT}"
            )
        counts = tensor.layout == torch.strided and not tensor.dtype.is_floating_point
        if not wanted(name) or (counts and not is_weight(name)):
            continue
        if tensor.dtype not in floats or tensor.layout != torch.strided:
            raise _not_floating(name, f"{tensor.layout} {tensor.dtype}")
        yield name, tensor.to(floats[tensor.dtype]).numpy()


def is_weight(name: str) -> bool:
    """Tell a weight, by its name, from a table or a counter, whose whole numbers nobody reads."""
    return name.endswith(("weight", "bias"))


def _unread(error: Exception) -> str:
    """Say of a file what PyTorch's error, which advises to run whatever is in it, says of it."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return (
            f"holds more than weights: a whole model, or other objects ({found[1]}), which cannot "
            f"be read without running their code; save only the weights: {STATE_DICT}"
        )
    if "TorchScript" in text:
        return f"holds a TorchScript program; save the model's weights: {STATE_DICT}"
    reason = text.rpartition("WeightsUnpickler error:")[2]
    return f"is corrupt, or holds more than weights ({one_line(reason or error)})"


def _not_floating(name: str, dtype: str) -> CheckpointError:
    return CheckpointError(f"tensor {name} is {dtype}; supported are {', '.join(FLOATS)}")
