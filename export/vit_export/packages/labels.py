"""What the logits mean, as transformers reads config.json: their labels and their scores."""

from typing import Any

from vit_engine.artefact.contract import ScoreKind
from vit_engine.errors import CheckpointError, one_line
from vit_export.families.family import Config
from vit_export.families.values import count

PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


def labels_from_config(config: Config) -> tuple[str, ...]:
    """Return the label of each logit, in order; one whose name is null is called LABEL_0 and so on.

    There are as many as `id2label` has entries, or else `num_labels`, or else two. CheckpointError
    where the two contradict each other.
    """
    named = config.get("id2label")
    if named is None:
        return unnamed(count(config, "num_labels", 2))
    if not isinstance(named, dict) or not named:
        raise CheckpointError(
            f'id2label is {named!r:.80}, expected a table {{"0": label, "1": label, ...}}'
        )
    if (number := config.get("num_labels", len(named))) != len(named):
        raise CheckpointError(
            f"id2label names {len(named)} labels, num_labels is {number!r}; remove the wrong one"
        )
    labels = {_index(key): label for key, label in named.items()}
    if labels.keys() != set(range(len(named))):
        fix = "the logits count from 0" if min(labels) == 1 else "transformers fails at the others"
        raise CheckpointError(
            f"id2label names {one_line(', '.join(map(str, sorted(labels))), 40)}, expected each of "
            f"0 to {len(named) - 1} once: {fix}; mend its keys"
        )
    return tuple(_text(labels[i], i) for i in range(len(named)))


def remark_on(labels: tuple[str, ...]) -> str | None:
    """Say of labels that nobody can tell apart what is the matter with them."""
    if labels == unnamed(len(labels)):
        return "the checkpoint names no labels; they are called LABEL_0 and so on"
    if len(labels) > 1 and len(set(labels)) == 1:
        return f"all {len(labels)} labels are called {labels[0]!r}"
    return None


def unnamed(count: int) -> tuple[str, ...]:
    """Return so many labels, called as transformers calls those without a name."""
    return tuple(f"LABEL_{i}" for i in range(count))


def score_from_config(config: Config, labels: int) -> ScoreKind:
    """Return how `labels` logits become scores, as transformers' pipeline resolves it.

    One logit or labels that do not exclude each other: sigmoid; a regression: none; else softmax.
    A `function_to_apply` in the config counts only where neither decides, which is never.
    """
    problem = config.get("problem_type")
    if problem is not None and problem not in PROBLEMS:
        raise CheckpointError(f"problem_type is {problem!r}, expected {', '.join(PROBLEMS)}")
    if labels == 1 and problem == "single_label_classification":
        raise CheckpointError(
            "problem_type is single_label_classification with one label, which transformers "
            "refuses; one logit is a multi_label_classification or a regression"
        )
    if problem == "regression":
        return "none"
    return "sigmoid" if labels == 1 or problem == "multi_label_classification" else "softmax"


def _index(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise CheckpointError(f"id2label has the key {key!r}, expected a number") from None


def _text(label: Any, index: int) -> str:
    if label is None:
        return f"LABEL_{index}"
    if type(label) not in (str, int, float, bool):
        raise CheckpointError(f"id2label has {label!r:.80} for {index}, expected a name")
    return str(label)
