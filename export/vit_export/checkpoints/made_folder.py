"""A checkpoint's folder made of what a user has, for one export: it goes with the process."""

import atexit
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vit_engine.errors import CheckpointError, UsageError, one_line, printable
from vit_engine.machine.installation import pip_install
from vit_export.files.other_kinds import SAFETENSORS
from vit_export.files.weight_files import state_dict
from vit_export.packages.optional import beside_torch, importing
from vit_export.packages.package import CONFIG

PATCHES = "patch_embed.proj.weight"
"""What every ViT of timm's has: what its name begins with, in a state dict, is a wrapper's."""


def made_folder(name: str) -> Path:
    """Return a new folder of that name."""
    parent = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = Path(parent) / name
    folder.mkdir()
    return folder


def with_files(folder: Path, files: Mapping[str, Any]) -> Path:
    """Return a folder like another, some files replaced by JSON documents, or by None left out."""
    made = made_folder(folder.resolve().name)
    for path in folder.iterdir():
        if path.name not in files:
            (made / path.name).symlink_to(path.absolute())
    for name, document in files.items():
        if document is not None:
            (made / name).write_text(json.dumps(document))
    return made


def folder_from_state_dict(
    weights: Path, architecture: str, labels: tuple[str, ...], report: Callable[[str], None]
) -> Path:
    """Return a folder as timm writes it, of a state dict as training saves it.

    `report` is told what is taken off and left out. CheckpointError for what is no state dict of
    one of timm's ViTs, UsageError where `labels` are not as many as its outputs, MachineError
    without timm.
    """
    state = _unwrapped(state_dict(weights, report), weights.name, report)
    labels_found = len(state["head.weight"]) if "head.weight" in state else 0
    if labels and len(labels) != labels_found:
        raise UsageError(
            f"--labels has {len(labels)} labels, {printable(weights.name)} gives {labels_found}"
        )
    with importing(
        needed="--arch names a model of timm's", install=pip_install("timm", *beside_torch())
    ):
        import timm
        from safetensors.torch import save_file
    known = timm.get_pretrained_cfg(architecture)
    if known is None or not timm.is_model(architecture):
        raise UsageError(
            f"--arch {architecture!r} is none of timm's; timm.list_models('*vit*') lists them"
        )
    config = known.to_dict()
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    arguments: dict[str, Any] = {"depth": len(blocks)}
    if "fc_norm.weight" in state:
        arguments["global_pool"] = "avg"
    if side := _side(state):
        arguments["img_size"] = side
        config |= {"input_size": [3, side, side]}
    report(
        f"preprocessing is the default of {architecture}: mean {config['mean']}, std "
        f"{config['std']}, {config['interpolation']}, crop_pct {config['crop_pct']}"
    )
    folder = made_folder(weights.stem)
    document = {
        "architecture": architecture.partition(".")[0],
        "num_classes": labels_found,
        "model_args": arguments,
        "pretrained_cfg": config | {"num_classes": labels_found},
        **({"label_names": labels} if labels else {}),
    }
    (folder / CONFIG).write_text(json.dumps(document))
    save_file({name: t.clone().contiguous() for name, t in state.items()}, folder / SAFETENSORS)
    return folder


def _unwrapped(state: dict[str, Any], file: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Return the tensors of the ViT by their names in timm; of several that of an average."""
    wrappers = [name.removesuffix(PATCHES) for name in state if name.endswith(PATCHES)]
    if not wrappers:
        raise CheckpointError(
            f"{printable(file)} holds no {PATCHES}, so it is no ViT of timm's; its first tensors "
            f"are {one_line(', '.join(list(state)[:3]))}"
        )
    prefix = min(wrappers, key=lambda name: ("ema" not in name, len(name)))
    found = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if prefix:
        report(f"{file}: {prefix!r} is taken off the names of its tensors")
    if left := [name for name in state if not name.startswith(prefix)]:
        report(f"{file}: left out {one_line(', '.join(left), 100)}")
    return found


def _side(state: Mapping[str, Any]) -> int | None:
    """Return the side in pixels of the images that the position table is for."""
    if "pos_embed" not in state:
        return None
    tokens = ("cls_token", "reg_token", "dist_token")
    before = sum(state[name].shape[1] for name in tokens if name in state)
    rows = state["pos_embed"].shape[1]
    for patches in (rows - before, rows):
        if patches > 0 and math.isqrt(patches) ** 2 == patches:
            return math.isqrt(patches) * int(state[PATCHES].shape[-1])
    return None
