"""A contender small enough to see through, which the benchmarks' tests share."""

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from comparison.harness.plan import QUICK, Setting
from comparison.job import Job

STUB = """
    import os, sys, time
    import numpy as np
    from comparison.job import AbsentError, Contender

    def load(job):
        if job.options.get("absent"):
            raise AbsentError("needs a part that is not here")
        fault, runs = job.options.get("fault"), []

        def run(batch):
            runs.append(len(batch))
            print("a library that prints to stdout")
            logits = batch.reshape(len(batch), -1)[:, :18].astype(np.float32)
            if len(runs) > 2:
                if fault == "crash":
                    print("Illegal instruction", file=sys.stderr, flush=True)
                    os._exit(3)
                if fault == "hang":
                    time.sleep(600)
                if fault == "nan":
                    logits[0, 0] = np.nan
                if fault == "raise":
                    raise ValueError("no such\\nshape")
            return logits

        def label(paths, batch):
            return [len(path) % 2 for path in paths]

        about = {"compute": "fp32", "runtime": os.environ["OMP_NUM_THREADS"], "operations": 1e6}
        return Contender("uint8", run, about, label, label)
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that holds the contender, here and in children."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "stub_contender.py").write_text(textwrap.dedent(STUB))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    return "stub_contender"


@pytest.fixture
def job(stub: str, tmp_path: Path) -> Job:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "uint8.npy", images)
    return Job(
        contender="stub",
        module=stub,
        options={},
        model="",
        cache=str(tmp_path / "cache"),
        threads=1,
        device="cpu",
        max_batch=4,
        uint8=str(tmp_path / "uint8.npy"),
        float32="",
    )


@pytest.fixture
def told() -> list[str]:
    """What a comparison says on the screen."""
    return []


@pytest.fixture
def setting(tmp_path: Path, told: list[str]) -> Setting:
    plan = replace(QUICK, batches=(1, 2), turn_s=0.0, files_s=0.01, held_out=20)
    return Setting((), "cpu", 1, tmp_path / "cache", tmp_path, plan, told.append)
