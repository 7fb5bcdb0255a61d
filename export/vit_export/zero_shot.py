"""Zero-shot labels: texts encoded once, so that a model of vectors becomes a classifier."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_engine.artefact.contract import ZeroShot
from vit_engine.errors import UsageError, printable
from vit_engine.outputs.embeddings import Embeddings, unit
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.eager import TEXT_CURE, eager_text_model, told
from vit_export.packages.texts.text_model import prompts

TEMPLATE = "This is a photo of {}."
"""That of transformers' zero-shot pipeline."""


def labels_from_file(path: Path, *, of: Path | None = None) -> tuple[str, ...]:
    """Return the labels of a text file, one a line; UsageError names what is wrong with it.

    Those of a trained model's outputs, in the weights `of` it, may stand there twice.
    """
    labels = _lines(path, "--labels")
    if not of and (twice := [label for label, count in Counter(labels).items() if count > 1]):
        raise UsageError(f"--labels {printable(str(path))}: {twice[0]!r} stands there twice")
    return labels


def templates_from(given: Sequence[str]) -> tuple[str, ...]:
    """Return the templates among what is given, and those of its files, one a line."""
    found: list[str] = []
    for text in given:
        of_file = () if "{}" in text else _lines(Path(text), "--template")
        found += of_file or [text]
    if wrong := [text for text in found if text.count("{}") != 1]:
        raise UsageError(f"--template {wrong[0]!r}: expected one {{}}, where the label goes")
    return tuple(found)


def _lines(path: Path, option: str) -> tuple[str, ...]:
    name = f"{option} {printable(str(path))}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        also = ", and no template: it has no {} for the label" if option == "--template" else ""
        raise UsageError(f"{name}: there is no such file{also}") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{name}: is not UTF-8; save it as UTF-8, one a line") from e
    except (OSError, ValueError) as e:
        raise UsageError(f"{name}: cannot be read ({e})") from e
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if not any(lines):
        raise UsageError(f"{name}: is empty; expected one a line")
    if "" in lines:
        raise UsageError(f"{name}: line {lines.index('') + 1} is blank; remove it")
    return tuple(lines)


def labelled(
    checkpoint: Checkpoint,
    labels: Sequence[str],
    templates: Sequence[str],
    progress: Callable[[str], None] = lambda _words: None,
) -> Checkpoint:
    """Return a checkpoint of vectors of length 1 as a classifier of `labels`.

    The vectors of a label in all templates are averaged, each at length 1, and the mean is brought
    to length 1 as well. UsageError for a text that is too long for the model, or one label where
    scores add up to 1; CheckpointError for a model without texts.
    """
    vectors = checkpoint.output
    assert isinstance(vectors, Embeddings)
    assert vectors.normalized
    model = eager_text_model(checkpoint)
    if model.function == "softmax" and len(labels) == 1:
        raise UsageError(
            "--labels: one label, whose score would always be 1 since this model's scores add up "
            "to 1; give two or more"
        )
    total = np.zeros((len(labels), vectors.size))
    with told(checkpoint, "encode texts for", cure=TEXT_CURE):
        for done, template in enumerate(templates):
            progress(f"encoding {len(labels)} labels in {template!r} ({done} of {len(templates)})")
            total += unit(model.vectors(prompts(labels, template)))
    progress("")
    bias = np.full(len(labels), model.bias, np.float32)
    weight = (unit(total) * model.scale).astype(np.float32)
    return replace(
        checkpoint,
        output=Scores(tuple(labels), model.function),
        tensors={**checkpoint.tensors, "labels.weight": weight, "labels.bias": bias},
        zero_shot=ZeroShot(
            templates=tuple(templates),
            space=vectors.space,
            tokenizer=model.tokenizer_in_words,
            logit_scale=model.scale,
            logit_bias=model.bias,
        ),
    )
