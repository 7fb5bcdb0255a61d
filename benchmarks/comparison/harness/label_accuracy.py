"""One contender's answers to labelled images, beside the true classes and the baseline's logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.inputs.labelled_images import Photos


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
