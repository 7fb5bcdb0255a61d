"""What an artefact says of itself, as text to read or as JSON."""

import json
import textwrap
from dataclasses import asdict

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.short_labels import short_labels
from vit_engine.errors import printable

_INDENT = 15  # cells of the names
_LEAST = 20  # cells of a line of text, however narrow the terminal


def description_of(contract: Contract, form: str, width: int | None = None) -> str:
    """Return the contract in a form, "text" or "json"; lines of text are at most `width` wide."""
    if form == "json":
        return json.dumps(asdict(contract), indent=2, ensure_ascii=False) + "\n"
    identity, given, pre = contract.identity, contract.input, contract.preprocessing
    resize = f"to {pre.resize}" if pre.resize else f"shortest edge to {pre.shortest_edge}"
    crop = f", centre crop {pre.crop}" if pre.crop else ""
    labels = list(short_labels(contract.output.labels).values())
    parity = contract.parity
    lines = {
        "model": identity.model + (f" @ {identity.revision}" if identity.revision else ""),
        "weights": f"sha256 {identity.weights_sha256}",
        "precision": identity.precision,
        "exporter": identity.exporter,
        "input": f"{given.name}: {given.dtype} {given.layout}, {given.height}x{given.width}",
        "preprocessing": f"resize {resize}, {pre.filter}{crop}, mean {pre.mean}, std {pre.std}",
        "output": f"{contract.output.name}: float32, {len(labels)} labels "
        f"({', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''})",
        "parity": "not verified"
        if parity is None
        else f"top-1 {parity.top1_agreement:.1%} of {parity.images} images, "
        f"max |logit difference| {parity.max_abs_diff:.2g} "
        f"in a range of {parity.logit_range:.3g}, against {parity.reference}",
    }
    return "".join(_wrapped(f"{name:<{_INDENT}}", text, width) for name, text in lines.items())


def _wrapped(name: str, text: str, width: int | None) -> str:
    """Return "name  text", the text in lines below each other where the width asks for it."""
    if width is None:
        return f"{name}{printable(text)}\n"
    lines = textwrap.wrap(printable(text), max(_LEAST, width - _INDENT)) or [""]
    return f"{name}{(chr(10) + ' ' * _INDENT).join(lines)}\n"
