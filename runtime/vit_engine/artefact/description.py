"""What an artefact says of itself, as text to read or as JSON; and its labels in short."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from vit_engine.artefact.contract import (
    Anchor,
    Contract,
    EmbeddingOutput,
    EmbeddingParity,
    Output,
    Parity,
    Pooling,
    Preprocessing,
    ResizeRule,
    ScoreKind,
    ZeroShot,
)
from vit_engine.errors import printable

_RESIZE: dict[ResizeRule, str] = {
    "squash": "to {0}x{1}",
    "shortest_edge": "shortest edge to {0}",
    "edges": "shortest edge to {0}, longest to {1} at most",
    "within": "to fit into {0}x{1}",
    "within_rounded": "to fit into {0}x{1}, rounded",
}
_CROP: dict[Anchor, str] = {
    "centre": "centre crop",
    "centre_half_even": "centre crop (torchvision's rounding)",
    "top_left": "top left crop",
}
_SCORE: dict[ScoreKind, str] = {
    "softmax": "softmax: one label an image, its scores add up to 1",
    "sigmoid": "sigmoid: each label by itself, from 0 to 1",
    "none": "none: the values of a regression as they are",
}
_POOLING: dict[Pooling, str] = {
    "cls": "the CLS token",
    "mean": "the mean of the patches",
    "cls+mean": "the CLS token and the mean of the patches",
    "pooler": "the CLS token, through a dense layer and tanh",
    "map": "an attention-pooling head",
}

SATURATION = (
    "to open it without vit-engine in ONNX Runtime on an x86 CPU without VNNI, set "
    "session.x64quantprecision=1: otherwise 16-bit sums saturate"
)
"""What a user of an int8 file without this runtime must know."""


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return by label what stands before its first comma, or all of it where two would be alike.

    ImageNet's labels are lists of synonyms: "tabby, tabby cat".
    """
    first = {label: label.partition(",")[0].strip() for label in labels}
    shared = Counter(first.values())
    return {label: name if name and shared[name] == 1 else label for label, name in first.items()}


def description_of(contract: Contract, form: str) -> str:
    """Return the contract in a form, "text" or "json"."""
    if form == "json":
        return json.dumps(asdict(contract), indent=2, ensure_ascii=False) + "\n"
    identity, input_spec, pre = contract.identity, contract.input, contract.preprocessing
    lines = {
        "model": identity.model + (f" @ {identity.revision}" if identity.revision else ""),
        "weights": f"sha256 {identity.weights_sha256}",
        "precision": identity.precision,
        "exporter": identity.exporter,
        "input": f"{input_spec.name}: {input_spec.dtype} {input_spec.layout}, "
        f"{input_spec.height}x{input_spec.width}",
        "preprocessing": _preprocessing(pre),
        **_output(contract.output),
        **(_zero_shot(contract.zero_shot) if contract.zero_shot else {}),
        "parity": parity_in_words(contract.parity),
    }
    if identity.precision == "int8":
        lines["int8 sessions"] = SATURATION
    return "".join(f"{name:<15}{printable(text)}\n" for name, text in lines.items())


def _output(output: Output | EmbeddingOutput) -> dict[str, str]:
    if isinstance(output, EmbeddingOutput):
        length = "of length 1" if output.normalized else "not normalised"
        return {
            "output": f"{output.name}: float32, a vector of {output.size} numbers, {length}",
            "pooling": f"{output.pooling}: {_POOLING[output.pooling]}",
            "space": output.space,
        }
    labels = list(short_labels(output.labels).values())
    return {
        "output": f"{output.name}: float32, {len(labels)} label{'s' * (len(labels) != 1)} "
        f"({', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''})",
        "score": _SCORE[output.score]
        + (f"; temperature {output.temperature:.4g}" if output.temperature != 1 else ""),
    }


def _zero_shot(made: ZeroShot) -> dict[str, str]:
    count = len(made.templates)
    return {
        "zero-shot": f"labels by {count} template{'s' * (count != 1)} "
        f"({made.templates[0]!r}{', ...' if count > 1 else ''}), logits "
        f"{made.logit_scale:.4g} * cosine {made.logit_bias:+.4g}",
        "tokenizer": made.tokenizer,
        "space": made.space,
    }


def _preprocessing(pre: Preprocessing) -> str:
    resize = _RESIZE[pre.rule].format(*pre.resize)
    crop = f", {_CROP[pre.anchor]} {pre.crop[0]}x{pre.crop[1]}" if pre.crop else ""
    fill = f" on {pre.fill}" if pre.crop and any(pre.fill) else ""
    return f"resize {resize}, {pre.filter}{crop}{fill}, mean {pre.mean}, std {pre.std}"


def parity_in_words(parity: Parity | EmbeddingParity | None) -> str:
    """Say how near an artefact came to its reference."""
    if parity is None:
        return "not verified"
    if isinstance(parity, EmbeddingParity):
        return (
            f"cosine at least {parity.min_cosine:.6f}, {parity.mean_cosine:.6f} in the mean, "
            f"{parity.recall:.1%} of the nearest others the same, max |difference| "
            f"{parity.max_abs_diff:.2g}, on {parity.images} images, against {parity.reference}"
        )
    agreement = "" if parity.agreement is None else f"agreement {parity.agreement:.1%}, "
    return (
        f"{agreement}max |logit difference| {parity.max_abs_diff:.2g} in a range of "
        f"{parity.logit_range:.3g}, on {parity.images} images, against {parity.reference}"
    )
