"""The parts of a comparison: speed, files to labels, accuracy, a GPU's kernels, the ceilings."""

from collections.abc import Iterable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison import host
from comparison.contenders.entries import BASELINE, CEILINGS, PROFILED, Entry
from comparison.harness.plan import OutOfTimeError
from comparison.harness.suite import SLOW, Row, Suite
from comparison.harness.worker_process import Answer, FailedError
from comparison.inputs.images import Arrays, Photos
from vit_engine.outputs.embeddings import cosines, recall
from vit_engine.outputs.scores import Scores
from vit_export.quantization.sensitivity import divergence

PREDICT_BATCH, PREDICT_S = 8, 1800.0
"""Images at once at most, and seconds for one contender's answers to all of them."""

CEILINGS_S, KERNELS_S = 20.0, 20.0
"""What they take at least [2 cores: 20 to 60 s; a GPU: est]."""

WARM_S = 900.0
"""Seconds beyond which a contender has hung; compiling may take minutes."""

UNRELATED = 0.5
"""Below this correlation with the baseline's logits an answer is wrong, not imprecise."""

HOPELESS = 4
"""Contenders this many times slower than the baseline are not timed: all the others would wait."""


def warm(suite: Suite, batch: int) -> None:
    """Run everyone untimed, compiling what compiles; who answers something else is out."""
    suite.setting.tell(f"batch {batch}: warming up")
    runs = 5 if batch == 1 else 2 if batch <= 8 else 1  # the fastest at 1 tells who is hopeless
    baseline: NDArray[np.float64] | None = None
    for entry in _timed(suite, batch):
        name, share = entry.name, SLOW if entry.compiles else 1
        with suite.watch(name):
            answer = suite.ask(name, "time", WARM_S, share=share, batch=batch, runs=runs)
            if answer is None:
                continue
            suite.expected.setdefault(name, {})[batch] = min(answer["seconds"])
            logits = np.array(answer["logits"])
            if name == BASELINE:
                baseline = logits
            elif baseline is not None:
                correlation = 0.0
                if logits.shape == baseline.shape:
                    correlation = np.corrcoef(logits, baseline)[0, 1] if logits.size > 2 else 1.0
                if not correlation > UNRELATED:
                    words = f"its {logits.size} logits have a correlation of {correlation:.2f} with"
                    raise FailedError("failed", f"{words} the baseline's {baseline.size}")
                times = suite.expected[name][batch] / suite.expected[BASELINE][batch]
                if batch == 1 and times > HOPELESS:
                    words = f"not timed: {times:.0f} times slower than the baseline"
                    raise FailedError("skipped", words)


def time_batch(suite: Suite, batch: int) -> dict[str, Any]:
    """Time every contender at one batch size, into the suite's rows: it returns nothing more."""
    plan, timed = suite.setting.plan, _timed(suite, batch)
    if any(batch not in suite.expected.get(entry.name, {}) for entry in timed):
        compiling = sum(suite.rows[entry.name]["load_s"] for entry in timed if entry.compiles)
        times = [suite.seconds(entry, batch) for entry in timed]
        turns = sum(plan.runs_of(batch, seconds) * seconds for seconds in times)
        suite.setting.need(compiling + (1 + plan.rounds[0]) * turns)
        warm(suite, batch)
    expected = {entry.name: suite.seconds(entry, batch) for entry in _timed(suite, batch)}
    requests = {n: {"batch": batch, "runs": plan.runs_of(batch, s)} for n, s in expected.items()}
    round_s = sum(requests[name]["runs"] * s for name, s in expected.items())
    rounds = plan.rounds_of(batch, expected)
    suite.setting.tell(f"batch {batch}: {rounds} rounds of {round_s:.0f} s")
    for name, answers in suite.take_turns("time", requests, rounds, round_s).items():
        row = suite.rows[name]
        for what, kept in (("seconds", "rounds"), ("others", "others")):
            row.setdefault(kept, {})[str(batch)] = [answer[what] for answer in answers]
        row["memory_bytes"] = max(answers[-1]["memory_bytes"], row.get("memory_bytes", 0))
        if suite.setting.device == "cuda":
            row["gpu_bytes"] = host.gpu_bytes(suite.pids[name])
    suite.need_baseline()
    return {}


def _timed(suite: Suite, batch: int) -> list[Entry]:
    return [entry for entry in suite.alive if suite.setting.plan.takes(entry, batch)]


def label_files(suite: Suite, photos: Photos) -> dict[str, Any]:
    """Time files to labels, then decoding alone and the model alone."""
    plan, able = suite.setting.plan, [entry for entry in suite.alive if entry.files]
    batch, rounds = plan.files_batch, plan.files_rounds
    baseline = suite.seconds(suite.entries[BASELINE], batch) / batch
    count = min(len(photos.files), max(4 * batch, int(plan.files_s / baseline)))
    files = [str(p) for p in photos.files[:: len(photos.files) // count][:count]]

    def turns(verb: str, **options: Any) -> dict[str, list[Answer]]:
        requests = {entry.name: {"batch": batch, **options} for entry in able}
        return suite.take_turns(verb, requests, rounds)

    suite.setting.need(
        2 * rounds * plan.files_s * sum(suite.seconds(e, 1) for e in able) / baseline
    )
    suite.setting.tell(f"{count} files to labels, then decoding alone, then the model alone")
    labelled, decoded = turns("label", paths=files), turns("decode", paths=files)
    computed = turns("time", runs=3)
    expected = labelled.get(BASELINE, [{}])[0].get("labels")
    rows: dict[str, Row] = {}
    for name, found in labelled.items():
        row = rows[name] = {"rounds": [[turn["seconds"]] for turn in found], "images": count}
        if expected and suite.model.pooling:
            near = cosines(*(np.array(x) for x in (found[0]["labels"], expected)))
            row["min_cosine"] = float(near.min())
        elif expected:
            row["same_labels"] = float(np.mean(np.equal(found[0]["labels"], expected)))
        seconds = [turn["seconds"] for turn in decoded.get(name, ())]
        runs = [s for turn in computed.get(name, ()) for s in turn["seconds"]]
        if all(seconds) and seconds and runs:
            row["decode_images_s"] = count / median(seconds)
            row["model_images_s"] = batch / median(runs)
    part = {"images": count, "batch": batch, "source": photos.source, "rows": rows}
    return part | {"excluded": suite.excluded()}


def accuracy(suite: Suite, photos: Photos, arrays: Arrays) -> dict[str, Any]:
    """Hold every contender's answers against the true classes and the baseline's logits.

    Vectors have no classes; they are held against the baseline's alone.
    """
    logits, plan = {}, suite.setting.plan
    batch = max((b for b in plan.batches if b <= PREDICT_BATCH), default=1)
    suite.setting.need(len(photos.files) * sum(suite.seconds(entry, 1) for entry in suite.alive))
    suite.setting.tell(f"accuracy on {len(photos.files)} images")
    for entry in suite.alive:
        out = suite.setting.scratch / f"{entry.name}-logits.npy"
        files: Any = {"uint8": str(arrays.uint8), "float32": str(arrays.float32), "out": str(out)}
        size = batch if plan.takes(entry, batch) else 1
        if suite.ask(entry.name, "predict", PREDICT_S, batch=size, **files):
            logits[entry.name] = np.load(out)
    if BASELINE not in logits:
        raise OutOfTimeError("there is no answer of the baseline to compare with")
    rows = {
        name: vectors_row(found, logits[BASELINE])
        if suite.model.pooling
        else accuracy_row(found, logits[BASELINE], photos, suite.model.labels)
        for name, found in logits.items()
    }
    part = {"images": len(photos.files), "source": photos.source, "rows": rows}
    return part | {"excluded": suite.excluded(), "model": suite.model.card()}


def accuracy_row(
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    photos: Photos,
    labels: tuple[str, ...],
) -> Row:
    """Return top-1, top-5, and the distance from the expected logits (images, labels)."""
    classes, output = np.array(photos.classes), Scores(labels, "softmax")
    away = divergence(expected.astype(np.float64), found.astype(np.float64), output)
    order = np.argsort(-found, axis=1, kind="stable")
    difference, theirs = np.abs(found - expected), expected.argmax(1)
    differs = [
        {
            "file": str(photos.files[i].relative_to(photos.folder)),
            "true": labels[classes[i]],
            "baseline": labels[theirs[i]],
            "here": labels[order[i, 0]],
        }
        for i in np.flatnonzero(order[:, 0] != theirs)
    ]
    return {
        "top1": float((order[:, 0] == classes).mean()),
        "top5": float((order[:, :5] == classes[:, None]).any(1).mean()),
        "agreement": float((order[:, 0] == theirs).mean()),
        "max_diff": float(difference.max()),
        "mean_diff": float(difference.mean()),
        "divergence": float(away.mean()),
        "differs": differs,
    }


def vectors_row(found: NDArray[np.float32], expected: NDArray[np.float32]) -> Row:
    """Return the cosines to the expected vectors (images, size), and the recall of neighbours."""
    near = cosines(found, expected)
    told = {"min_cosine": float(near.min()), "mean_cosine": float(near.mean())}
    return told | {"recall": recall(found, expected)}


def kernels(suite: Suite, batches: Iterable[int]) -> dict[str, Any]:
    """Return where one contender's runs spend their time, by batch size.

    The last that it is asked: a profiler that cannot work here does not cost it its row.
    """
    suite.setting.need(KERNELS_S)
    suite.setting.tell(f"kernels of {PROFILED}")
    found: dict[str, Any] = {}
    kept = {name: dict(row) for name, row in suite.rows.items() if name == PROFILED}
    for batch in batches:
        if answer := suite.ask(PROFILED, "kernels", batch=batch, runs=10):
            found[str(batch)] = answer["kernels"]
    suite.rows |= kept
    return {"contender": PROFILED, "batches": found, "excluded": suite.excluded()}


def ceilings(suite: Suite) -> dict[str, Row]:
    """Measure how many operations a second the machine has at most, by precision."""
    suite.setting.need(CEILINGS_S)
    suite.setting.tell("the machine's ceilings")
    suite.open(CEILINGS)
    requests = {entry.name: {"batch": 1, "runs": 1} for entry in suite.alive}
    rounds = suite.setting.plan.ceiling_rounds
    answers = suite.take_turns("time", requests, rounds)
    for name, row in suite.rows.items():
        entry = suite.entries[name]
        row.update(title=entry.title, precision=name.split("-")[1])
        if name in answers:
            fastest = min(min(turn["seconds"]) for turn in answers[name])
            row["gflops"] = row["about"].pop("operations") / fastest / 1e9
    return suite.rows
