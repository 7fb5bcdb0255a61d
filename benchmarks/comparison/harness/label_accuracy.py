"""Answers to labelled images, beside the true classes and the baseline's logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.contenders.entries import BASELINE
from comparison.harness.suite import Suite
from comparison.inputs.arrays import Arrays
from comparison.inputs.labelled_images import Photos

BATCH = 8
"""Images at once, at most."""

LIMIT_S = 1800.0
"""For one contender's answers to all images."""


def accuracy(suite: Suite, photos: Photos, arrays: Arrays) -> dict[str, Any]:
    """Hold every contender's answers against the true classes and the baseline's logits."""
    logits, plan = {}, suite.setting.plan
    batch = max((b for b in plan.batches if b <= BATCH), default=1)
    for entry in suite.alive:
        suite.setting.say(f"accuracy on {len(photos.files)} images: {entry.name}")
        out = suite.setting.scratch / f"{entry.name}-logits.npy"
        request = {
            "verb": "predict",
            "uint8": str(arrays.uint8),
            "float32": str(arrays.float32),
            "out": str(out),
            "batch": batch if plan.takes(entry, batch) else 1,
        }
        if suite.field.ask(entry.name, request, LIMIT_S):
            logits[entry.name] = np.load(out)
    suite.note_failures()
    rows = {
        name: row(found, logits.get(BASELINE), photos, suite.model.labels)
        for name, found in logits.items()
    }
    part = {"images": len(photos.files), "source": photos.source, "rows": rows}
    return part | {"excluded": suite.excluded()}


def row(
    found: NDArray[np.float32],
    expected: NDArray[np.float32] | None,
    photos: Photos,
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Return top-1, top-5, and the distance from the expected logits (images, labels)."""
    classes = np.array(photos.classes)
    order = np.argsort(-found, axis=1, kind="stable")
    answer: dict[str, Any] = {
        "top1": float((order[:, 0] == classes).mean()),
        "top5": float((order[:, :5] == classes[:, None]).any(1).mean()),
    }
    if expected is not None:
        difference = np.abs(found - expected)
        theirs = expected.argmax(1)
        answer |= {
            "agreement": float((order[:, 0] == theirs).mean()),
            "max_diff": float(difference.max()),
            "mean_diff": float(difference.mean()),
            "logit_range": float(np.ptp(expected)),
            "differs": [
                {
                    "file": str(photos.files[i].relative_to(photos.folder)),
                    "true": labels[classes[i]],
                    "baseline": labels[theirs[i]],
                    "here": labels[order[i, 0]],
                }
                for i in np.flatnonzero(order[:, 0] != theirs)
            ],
        }
    return answer
