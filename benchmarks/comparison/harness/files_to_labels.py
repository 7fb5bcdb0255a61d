"""From image files to labels, and what the parts of that reach alone."""

from statistics import median
from typing import Any

from comparison.contenders.entries import BASELINE
from comparison.harness.suite import Suite
from comparison.inputs.labelled_images import Photos


def label_files(suite: Suite, photos: Photos) -> dict[str, Any]:
    """Time files to labels, then decoding alone and the model alone."""
    plan, able = suite.setting.plan, [entry.name for entry in suite.alive if entry.files]
    batch, rounds = plan.files_batch, plan.files_rounds
    baseline = suite.seconds(suite.entries[BASELINE], batch) / batch
    count = min(len(photos.files), max(4 * batch, int(plan.files_s / baseline)))
    files = [str(p) for p in photos.files[:: len(photos.files) // count][:count]]

    def turns(words: str, request: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return suite.take_turns(words, dict.fromkeys(able, request | {"batch": batch}), rounds)

    labelled = turns("files to labels", {"verb": "label", "paths": files})
    decoded = turns("decoding alone", {"verb": "decode", "paths": files})
    computed = turns("the model alone", {"verb": "time", "runs": 3})
    expected = labelled.get(BASELINE, [{}])[0].get("labels")
    rows = {}
    for name, found in labelled.items():
        rows[name] = {
            "rounds": [[turn["seconds"]] for turn in found],
            "images": count,
            "same_labels": expected and _share(found[0]["labels"], expected),
        }
        seconds = [turn["seconds"] for turn in decoded.get(name, ())]
        runs = [s for turn in computed.get(name, ()) for s in turn["seconds"]]
        if all(seconds) and seconds and runs:
            rows[name]["decode_images_s"] = count / median(seconds)
            rows[name]["model_images_s"] = batch / median(runs)
    part = {"images": count, "batch": batch, "source": photos.source, "rows": rows}
    return part | {"excluded": suite.excluded()}


def _share(found: list[int], expected: list[int]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
