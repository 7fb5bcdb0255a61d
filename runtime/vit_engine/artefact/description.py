"""What an artefact says of itself, as text to read or as JSON."""

import json
from dataclasses import asdict

from vit_engine.artefact.contract import Contract

SATURATION = (
    "opened by ONNX Runtime alone, on an x86 CPU without VNNI, set session.x64quantprecision=1 "
    "(vit-infer does): its 16-bit sums saturate else"
)
"""What a user of an int8 file without this runtime must know."""


def description_of(contract: Contract, form: str) -> str:
    """Return the contract in a form, "text" or "json"."""
    if form == "json":
        return json.dumps(asdict(contract), indent=2, ensure_ascii=False) + "\n"
    identity, given, pre = contract.identity, contract.input, contract.preprocessing
    resize = f"to {pre.resize}" if pre.resize else f"shortest edge to {pre.shortest_edge}"
    crop = f", centre crop {pre.crop}" if pre.crop else ""
    labels = contract.output.labels
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
    if identity.precision == "int8":
        lines["int8 sessions"] = SATURATION
    return "".join(f"{name:<14} {text}\n" for name, text in lines.items())
