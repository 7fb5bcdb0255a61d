"""A ViT classifier as it was published, from a hub or a folder, checked and ready to export."""

import functools
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vit_engine.artefact.contract import Preprocessing, ScoreKind
from vit_engine.errors import CheckpointError, UsageError, printable
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints import hub
from vit_export.checkpoints.configs.labels import labels_from_config, score_from_config
from vit_export.checkpoints.configs.preprocessor import preprocessing_from_config, processor_config
from vit_export.checkpoints.configs.pretrained_cfg import preprocessing_from_pretrained_cfg
from vit_export.checkpoints.json_file import read_json
from vit_export.checkpoints.other_kinds import file_in_words, refuse_other_kinds
from vit_export.checkpoints.tensors.canonical import canonical
from vit_export.checkpoints.tensors.folding import folded
from vit_export.checkpoints.tensors.resampling import resampled
from vit_export.checkpoints.tensors.weight_files import (
    Tensor,
    sha256_of,
    tensors_from_files,
    weight_files,
)
from vit_export.families.family import Family
from vit_export.families.form import Form
from vit_export.families.known import family_from_config
from vit_export.families.timm.label_names import labels_from_timm
from vit_export.families.transformers.config import section

DEFAULT_MODEL = "AI-ModelScope/vit-base-patch16-224"
DEMO = Path(__file__).parents[1] / "demo"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A ViT classifier in memory."""

    model: str  # what the user named: an id, or a folder's name
    revision: str | None
    folder: Path  # where the files lie
    weights_sha256: str  # over the weight files, in sorted order
    family: Family
    form: Form
    preprocessing: Preprocessing
    preprocessor_scale: float  # what the preprocessor's own sizes are multiplied by
    labels: tuple[str, ...]
    score: ScoreKind  # how logits become scores
    tensors: Mapping[str, Tensor]  # float32 or float64, by canonical name, all that `form` has
    asks_to_interpolate: bool  # whether transformers must be told that images have another size

    @property
    def output(self) -> OutputKind:
        """The kind of output that the model gives."""
        return Scores(self.labels, self.score)


def load(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    image_size: int | None = None,
) -> Checkpoint:
    """Read `"demo"`, a folder, `hf:owner/name` or a ModelScope id `owner/name`, in that order.

    So a folder that exists wins over an id of the same name. No code of a checkpoint is ever run.
    With an `image_size` in pixels, other than the checkpoint's own, the position tables and the
    sizes of the preprocessor are fitted to it.
    CheckpointError says what was found and what is supported; UsageError that a folder has no
    revisions.
    """
    if folder := folder_on_this_machine(model):
        if revision is not None:
            raise UsageError(
                f"{printable(model)} is on this machine; --revision is for models on a hub"
            )
        name = model if model == "demo" else printable(folder.resolve().name)
    elif _kind_on_this_machine(model) == stat.S_IFREG:
        raise CheckpointError(f"{printable(model)} {file_in_words(Path(model))}")
    else:
        folder, revision = hub.download(model, revision=revision, offline=offline)
        name = model
    try:
        return _read(folder, name, revision, image_size)
    except CheckpointError as e:
        raise CheckpointError(f"{printable(model)}: {e}") from e


def folder_on_this_machine(model: str) -> Path | None:
    """Return the folder of `"demo"`, or the folder that `model` is; None for a model on a hub."""
    if model == "demo":
        return DEMO
    return Path(model) if _kind_on_this_machine(model) == stat.S_IFDIR else None


def _kind_on_this_machine(model: str) -> int:
    """Return the kind of what lies under that name, as `stat` has it; 0 if nothing can."""
    if model == "":  # Path("") is the current folder
        return 0
    try:
        return stat.S_IFMT(Path(model).stat().st_mode)
    except OSError:
        return 0


def _read(folder: Path, name: str, revision: str | None, image_size: int | None) -> Checkpoint:
    refuse_other_kinds(path.name for path in folder.iterdir())
    config = read_json(folder / "config.json")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            f"config.json has a quantization_config ({method}): the weights are quantised already; "
            "export the model that they were made from"
        )
    if config.get("return_dict") is False:
        raise CheckpointError(
            "config.json has return_dict false, with which transformers' pipeline finds no logits; "
            "remove it"
        )
    family = family_from_config(config)
    files = weight_files(folder)
    stored = functools.cache(lambda: tensors_from_files(files, family.reads))
    form = family.form(config, lambda: {name: t.shape for name, t in stored().items()})
    scale = 1.0
    if family.package == "timm":
        labels = labels_from_timm(config)
        form = form.at(image_size or form.image_size)
        preprocessing = preprocessing_from_pretrained_cfg(
            section(config, "pretrained_cfg"), form.image_size
        )
    else:
        labels = labels_from_config(config)
        resolve = functools.partial(
            preprocessing_from_config,
            processor_config(folder),
            default_processor=config.get("image_processor_type") or family.image_processor,
        )
        any_size = family.takes_any_size or image_size
        preprocessing = resolve(None if any_size else form.image_size)
        if image_size:
            scale = image_size / preprocessing.shape[0]
            preprocessing = resolve(image_size, scale=scale)
        form = form.at(preprocessing.shape[0])
    interpolates = (
        family.package == "transformers"
        and form.table_grid not in (0, form.grid)
        and not family.takes_any_size
    )
    tensors = canonical(stored(), family, form, len(labels))
    for change in (resampled, folded):
        form, tensors = change(form, tensors)
    return Checkpoint(
        model=name,
        revision=revision,
        folder=folder,
        weights_sha256=sha256_of(files),
        family=family,
        form=form,
        preprocessing=preprocessing,
        preprocessor_scale=scale,
        labels=labels,
        score=score_from_config(config, len(labels)),
        tensors=tensors,
        asks_to_interpolate=interpolates,
    )
