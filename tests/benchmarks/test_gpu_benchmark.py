"""The parts of the comparison that are for GPUs, as far as a CPU can tell them right or wrong."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from comparison.contenders import ours
from comparison.contenders.entries import CONTENDERS, PROFILED
from comparison.harness.parts import kernels
from comparison.harness.plan import Setting
from comparison.harness.suite import Suite
from comparison.harness.worker import Session
from comparison.harness.worker_process import Process
from comparison.job import Contender, Job
from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.providers.buckets import BucketSession
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session


def pictures(count: int) -> NDArray[np.uint8]:
    """Images of coarse coloured cells, whose logits differ plainly."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture
def job(job: Job, tmp_path: Path) -> Job:
    np.save(tmp_path / "uint8.npy", pictures(64))
    return replace(job, options={"precision": "fp32", "pipelined": True})


def test_batches_that_overlap_get_their_own_answers(
    tiny_artefact: Path, job: Job, tmp_path: Path
) -> None:
    """Through the buffers of a GPU session, with two batches on their way and more waiting."""
    contract = read_contract(tiny_artefact)

    def bucketed(largest: int) -> BucketSession:
        session = open_session(SessionSpec(tiny_artefact, contract), {"cpu": {}})
        return BucketSession(session, contract, largest, device=("cpu", 0), graphs=False)

    with Engine(contract, "cpu", bucketed, max_batch=8, in_flight=2) as engine:
        session = Session(job)
        session.contender = ours.contender(job, engine)
        session.images = np.load(job.uint8)
        files = {"uint8": job.uint8, "float32": "", "out": str(tmp_path / "logits.npy")}
        assert session.predict(batch=5, **files) == {"images": 64}
        expected = np.concatenate([engine.run(image[None]) for image in pictures(64)])
        assert np.ptp(expected, axis=0).min() > 0.1, "a wrong image would be noticed"
        np.testing.assert_allclose(np.load(files["out"]), expected, atol=1e-4)
        timed = session.time(batch=4, runs=20)
        assert len(timed["seconds"]) == 1, "one turn's mean, no latencies"


def test_a_profile_names_where_the_time_goes(job: Job) -> None:
    torch = pytest.importorskip("torch")

    def run(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        side = torch.ones(64, 64)
        return np.asarray((side @ side)[: len(batch)])

    session = Session(job)
    session.contender, session.images = Contender("uint8", run, {}), np.load(job.uint8)
    (found,) = session.kernels(batch=2, runs=4).values()
    by_name = {row["kernel"]: row for row in found}
    assert by_name["aten::mm"]["calls"] == 1
    assert by_name["aten::mm"]["microseconds"] > 0
    times = [row["microseconds"] for row in found]
    assert times == sorted(times, reverse=True)


def test_a_profiler_that_fails_costs_no_row(job: Job, setting: Setting) -> None:
    with Suite(setting, None, None, None, {PROFILED: {"status": "ok"}}) as suite:
        suite.processes[PROFILED] = Process(
            replace(job, module="no_such_contender"), sys.executable
        )
        found = kernels(suite, [1, 64])
    assert suite.rows == {PROFILED: {"status": "ok"}}
    assert found["batches"] == {}
    assert found["excluded"][PROFILED][0] == "failed"
    options = {entry.name: entry.options for entry in CONTENDERS}
    assert options[PROFILED]["cuda_graphs"] is False, "graphs hide their kernels' names"
