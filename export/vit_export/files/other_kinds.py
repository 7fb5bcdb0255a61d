"""What people have in place of a Hugging Face checkpoint's weights, told by name."""

from collections.abc import Collection, Iterable
from pathlib import Path

from vit_engine.errors import CheckpointError, printable

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

POINTER = b"version https://git-lfs"
STATE_DICT = "torch.save(model.state_dict(), 'pytorch_model.bin')"
FOLDERS = {
    "adapter_config.json": "an adapter (LoRA) beside or instead of a model's weights; merge it "
    "first, with merge_and_unload() of peft, and save the result with save_pretrained",
    "model_index.json": "a diffusers pipeline, not an image classifier",
    "config_sentence_transformers.json": "a sentence-transformers model, not an image classifier",
    "modules.json": "a sentence-transformers model, not an image classifier",
}
"""Files that tell what a folder is."""
OPENMMLAB = "config.py"
"""What lies beside weights that OpenMMLab's tools have written, as on ModelScope."""

ADAPTERS = ("adapter_model.", "pytorch_lora_weights.")
PYTORCH = (
    "PyTorch's weights; load them into their model and write its folder, "
    "model.save_pretrained('folder') in transformers or timm.models.save_for_hf(model, 'folder'), "
    "or name a model of timm's: vit-export --arch NAME --weights FILE --labels FILE"
)
CONVERT = "load it with transformers 4 (from_tf=True or from_flax=True) and save_pretrained"
WEIGHTS = {
    ".h5": f"TensorFlow's weights; {CONVERT}",
    ".msgpack": f"Flax's weights; {CONVERT}",
    ".gguf": "a GGUF model",
    ".onnx": "an ONNX model",
    ".pt": PYTORCH,
    ".pth": PYTORCH,
    ".ckpt": PYTORCH,
    ".bin": PYTORCH,
    ".safetensors": f"weights under another name, expected {SAFETENSORS}",
}
"""Weights in files that are not read, by the ends of their names."""


def refuse_other_kinds(names: Iterable[str]) -> None:
    """Refuse a folder whose files, by name, make it something else than an image classifier."""
    names = sorted(names)
    if "config.json" not in names and OPENMMLAB in names:
        raise CheckpointError(
            f"it has no config.json but a {OPENMMLAB}, as OpenMMLab's models have (mmcls, "
            "mmpretrain); supported are folders as transformers or timm save them"
        )
    for name in names:
        kind = FOLDERS.get(name)
        if kind is None and name.startswith(ADAPTERS):
            kind = FOLDERS["adapter_config.json"]
        if kind:
            raise CheckpointError(f"{name} makes it {kind}")


def no_weights(names: Collection[str], expected: tuple[str, ...] = (SAFETENSORS, PICKLE)) -> str:
    """Say that none of a folder's files are weights that are read, and what they are instead."""
    message = f"no {' and no '.join(expected)}, whole or sharded"
    for end, kind in WEIGHTS.items():
        for name in sorted(names):
            if name.lower().endswith(end):
                return f"{message}; {printable(name)} holds {kind}"
    return message


def describe_file(path: Path) -> str:
    """Say what a file is that is named as a model: a model is a folder."""
    with path.open("rb") as file:
        magic = file.read(len(POINTER))
    if magic == POINTER:
        return "is a Git LFS pointer; clone the model's whole repository with Git LFS"
    kind = "a file"
    if magic.startswith(b"GGUF"):
        kind = "a GGUF model"
    elif WEIGHTS.get(path.suffix) == PYTORCH:
        return f"holds {PYTORCH}"
    elif path.suffix == ".onnx":
        kind = "an ONNX model, which is what an export makes"
    return f"is {kind}; expected the folder that holds config.json and the weights"


def refuse_pointer(path: Path) -> None:
    """Refuse what Git leaves of a large file in a clone where Git LFS is missing."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            folder = printable(str(path.parent))
            raise CheckpointError(
                f"{path.name} is a Git LFS pointer, not the {_content(path)}: "
                f"run git lfs pull in {folder}"
            )


def refuse_broken_link(path: Path) -> None:
    """Refuse a link that leads nowhere, as one into a cache that was deleted."""
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{printable(path.name)} is a link to {printable(str(path.readlink()))}, "
            "which is not there"
        )


def _content(path: Path) -> str:
    return "file itself" if path.suffix == ".json" else "weights"
