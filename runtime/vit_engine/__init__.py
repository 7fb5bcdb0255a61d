"""Labels images with a ViT classifier that `vit-export` wrote: NumPy, Pillow and ONNX Runtime.

The public names below are imported when they are first asked for: importing the package is free.
"""

from vit_engine.errors import (
    ArtefactError,
    CheckpointError,
    ImageError,
    MachineError,
    ParityError,
    ProviderError,
    UsageError,
    VitError,
    WriteError,
    check_system,
)

TYPE_CHECKING = False  # what type checkers take for true; typing would cost half of the import
if TYPE_CHECKING:
    from vit_engine.classifier import Classifier
    from vit_engine.embedder import Embedder
    from vit_engine.outputs.embeddings import Embedding
    from vit_engine.outputs.prediction import Prediction, Score
    from vit_engine.text_embedder import TextEmbedder

    __version__: str

__all__ = [
    "ArtefactError",
    "CheckpointError",
    "Classifier",
    "Embedder",
    "Embedding",
    "ImageError",
    "MachineError",
    "ParityError",
    "Prediction",
    "ProviderError",
    "Score",
    "TextEmbedder",
    "UsageError",
    "VitError",
    "WriteError",
    "__version__",
]

_HOMES = {
    "Classifier": "vit_engine.classifier",
    "Embedder": "vit_engine.embedder",
    "Embedding": "vit_engine.outputs.embeddings",
    "Prediction": "vit_engine.outputs.prediction",
    "Score": "vit_engine.outputs.prediction",
    "TextEmbedder": "vit_engine.text_embedder",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("vit-engine")
        except metadata.PackageNotFoundError:
            return "0+source"  # not installed, run from a checkout
    if name in _HOMES:
        from importlib import import_module

        check_system()
        found: object = getattr(import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
