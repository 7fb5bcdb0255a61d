"""Contenders' processes: one answers at a time, and what fails is out."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparison import measure
from comparison.contenders import gemm
from comparison.contenders.entries import BASELINE, CONTENDERS, Entry
from comparison.harness import suite as suite_module
from comparison.harness.core_time import core_seconds, seconds_of_others
from comparison.harness.plan import FULL, GPU, OutOfTimeError, Setting
from comparison.harness.suite import Suite
from comparison.harness.worker_process import FailedError, Process
from comparison.job import AbsentError, Job, whole


def start(job: Job, **options: object) -> Process:
    return Process(replace(job, options=options), sys.executable)


@pytest.fixture
def suite(setting: Setting) -> Iterator[Suite]:
    with Suite(setting, None, None, None) as found:
        yield found


def test_a_sound_contender_answers(job: Job, tmp_path: Path) -> None:
    with closing(start(job)) as process:
        loaded = process.ask("load", 30)
        assert loaded["about"]["runtime"] == "1", "thread"
        assert loaded["seconds"] > 0
        timed = process.ask("time", 30, batch=2, runs=3)
        assert len(timed["seconds"]) == 3
        assert timed["memory_bytes"] > 1e6
        files = {"uint8": job.uint8, "float32": "", "out": str(tmp_path / "logits.npy")}
        assert process.ask("predict", 30, batch=3, **files) == {"images": 8}
    expected = np.load(job.uint8).reshape(8, -1)[:, :18]
    assert np.array_equal(np.load(tmp_path / "logits.npy"), expected)
    assert timed["logits"] == expected[0].tolist()


def test_faulty_contenders_are_failed_rows(job: Job, suite: Suite) -> None:
    for name in ("sound", "crash", "nan", "raise"):
        suite.processes[name] = start(job, fault=name)
        assert suite.ask(name, "load")
    requests = {name: {"batch": 2, "runs": 3} for name in suite.processes}
    answers = suite.take_turns("time", requests, rounds=3)
    assert list(answers) == ["sound"], "the faulty have no times, not even those before"
    assert len(answers["sound"]) == 3
    assert suite.rows["crash"]["reason"] == "crashed at 'time': exit 3; Illegal instruction"
    assert suite.rows["nan"]["reason"] == "ArithmeticError: NaN or infinity in the logits"
    assert suite.rows["raise"]["reason"] == "ValueError: no such shape"
    assert {row["status"] for row in suite.rows.values()} == {"failed"}
    assert list(suite.processes) == ["sound"]


def test_who_cannot_start_says_why(job: Job, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"absent": job.module, "broken": "csv"}
    monkeypatch.setattr(Entry, "path", property(lambda entry: paths[entry.name]))
    monkeypatch.setattr(suite, "_job", lambda e: replace(job, module=e.path, options=e.options))
    suite.open(Entry(n, n, "", {"absent": True}) for n in paths)
    assert suite.rows["absent"] == {"status": "absent", "reason": "needs a part that is not here"}
    assert suite.rows["broken"]["status"] == "failed"
    assert "'csv' has no attribute 'load'" in suite.rows["broken"]["reason"]
    assert suite.ask("absent", "time") is None


def test_a_hung_process_is_gone_afterwards(job: Job, suite: Suite) -> None:
    with closing(start(job, fault="hang")) as process:
        pid = process.ask("load", 30)["pid"]
        with pytest.raises(FailedError, match="no answer to 'time' within 0 s") as caught:
            process.ask("time", 0.3, batch=2, runs=3)
        assert caught.value.status == "failed"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_who_needs_longer_than_the_budget_has_not_failed(job: Job, setting: Setting) -> None:
    with Suite(setting, None, None, None) as suite:
        suite.processes["late"] = start(job, fault="hang")
        assert suite.ask("late", "load")
        suite.setting = replace(setting, end=time.monotonic() + 0.3)
        assert suite.ask("late", "time", batch=2, runs=3) is None
    why = suite.failures["late"]
    assert (why.status, str(why)) == (
        "skipped", "not done with 'time' in the 0 s that the budget left",
    )  # fmt: skip


def test_a_baseline_without_anyone_beside_it_is_no_comparison(suite: Suite) -> None:
    suite.entries = {BASELINE: Entry(BASELINE, "", "", {})}
    suite.processes = {BASELINE: Recorder(BASELINE, [])}
    suite.failures["absent"] = FailedError("absent", "not here")
    suite.need_baseline()
    suite.failures["late"] = FailedError("skipped", "not done with 'load'", late=True)
    with pytest.raises(OutOfTimeError, match="nothing beside the baseline: not done with 'load'"):
        suite.need_baseline()


def test_workers_end_with_their_controller(job: Job) -> None:
    process = start(job)
    process.ask("load", 30)
    process._pipe.close()
    assert process._process.wait(60) == 0
    process.close()


class Recorder:
    """A process that notes its turns."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def ask(self, verb: str, limit: float, left: float) -> dict[str, Any]:
        self.turns.append(self.name)
        time.sleep(0.001)
        return {"seconds": 1}

    def close(self) -> None:
        pass


def test_turns_rotate_and_end_with_the_budget(suite: Suite) -> None:
    turns: list[str] = []
    suite.processes = {name: Recorder(name, turns) for name in "abc"}
    requests: dict[str, Any] = {name: {} for name in "abc"}
    assert [len(found) for found in suite.take_turns("time", requests, rounds=4).values()] == [
        4
    ] * 3
    assert "".join(turns) == "abcbcacababc"
    end = time.monotonic() + 10
    suite.setting = replace(suite.setting, end=end)
    with pytest.raises(OutOfTimeError, match="20 s in the"):
        suite.take_turns("time", requests, rounds=4, round_s=20)


def test_turns_fit_their_plan() -> None:
    plan = replace(FULL, rounds=(5, 12), budget_s=90, latency_rounds=20, latency_runs=5, turn_s=0.3)
    assert plan.rounds_of(1, {"a": 9.0}) == 20
    assert plan.rounds_of(8, {"a": 0.1, "b": 0.1}) == 12, "no more than the most"
    assert plan.rounds_of(8, {"a": 4.0, "b": 6.0}) == 9
    assert plan.rounds_of(8, {"a": 40.0, "b": 60.0}) == 5, "no fewer than the fewest"
    assert [plan.runs_of(1, s) for s in (10.0, 0.1, 0.01, 1e-4)] == [5, 5, 30, 50]
    assert [plan.runs_of(8, s) for s in (10.0, 0.1)] == [1, 3]
    entries = {entry.name: entry for entry in CONTENDERS}
    assert [b for b in GPU.batches if GPU.takes(entries["pytorch-compile-max"], b)] == [1, 64]
    assert all(GPU.takes(entries["ours-cuda-graphs"], batch) for batch in GPU.batches)


def test_what_others_take_of_the_cores_is_told(bounded: None) -> None:
    """Beside processes that keep every core busy nearly all is others'; one's own work is not."""
    line = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(line) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        before = core_seconds()
        time.sleep(0.5)
        taken = seconds_of_others(before)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert taken is not None and taken[0] > 0.7 * taken[1]
    before, end = core_seconds(), time.process_time() + 0.2
    while time.process_time() < end:
        pass
    after = core_seconds()
    assert before is not None and after is not None and after.own - before.own > 0.15


def test_a_product_without_instructions_is_no_ceiling(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gemm.SIDE, "cpu", 64)
    for name in ("gemm-fp32-ort", "gemm-int8-ort"):
        found = gemm.load(replace(job, contender=name))
        assert found.run(np.zeros(2)).shape == (2, 1)
    monkeypatch.setattr(gemm, "PATIENCE", 0.0)
    with pytest.raises(AbsentError, match="no fast fp32 product here"):
        gemm.load(replace(job, contender="gemm-fp32-ort"))


def test_peers_need_nothing_of_ours() -> None:
    """Their environment has no vit_engine, and neither has what their workers import."""
    modules = {"comparison.harness.worker", *(e.path for e in CONTENDERS if e.environment)}
    code = "import sys; sys.modules['vit_engine'] = sys.modules['vit_export'] = None\n"
    code += "\n".join(f"import {module}" for module in sorted(modules))
    folder = Path(measure.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_contender_runs_in_its_own_environment(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite_module, "ROOT", tmp_path / "benchmarks")
    setting = replace(setting, plan=FULL)
    entries = {entry.name: entry for entry in CONTENDERS}
    assert suite_module._python(entries["ours-fp32"], setting) == sys.executable
    with pytest.raises(FailedError, match="not for a CPU"):
        suite_module._python(entries["ours-cuda"], setting)
    for name, folder in (("optimum", ".venv-peers"), ("zentorch-bf16", ".venv-zentorch")):
        with pytest.raises(FailedError, match=f"{folder} is not there.*; make peers") as caught:
            suite_module._python(entries[name], setting)
        assert caught.value.status == "absent"
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".installed").touch()
        assert suite_module._python(entries[name], setting) == str(tmp_path / folder / "bin/python")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        (
            "not there; /opt/x/.venv/bin/python3 -m pip install y",
            "not there; python3 -m pip install y",
        ),
        ("FileNotFoundError: '/srv/models/a.onnx'", "FileNotFoundError: 'a.onnx'"),
        ("see https://host/a/b, or either/or", "see https://host/a/b, or either/or"),
    ],
)
def test_a_reason_has_no_path_of_the_machine(reason: str, kept: str) -> None:
    assert str(FailedError("absent", reason)) == kept


def test_of_two_makers_of_a_folder_the_first_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cache/model"
    with whole(folder) as late:
        with whole(folder) as early:
            (early / "made").write_text("early")
        (late / "made").write_text("late")
    assert (folder / "made").read_text() == "early"
    with pytest.raises(RuntimeError), whole(tmp_path / "other"):
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cache", "made", "model"]
