"""The controller, the statistics and the inputs, with contenders small enough to see through."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
COMPARE = ROOT / "benchmarks/compare.py"
sys.path.insert(0, str(ROOT / "benchmarks"))

from comparison import host, measure, stored_result  # noqa: E402
from comparison.contenders import gemm  # noqa: E402
from comparison.contenders.entries import BASELINE, CONTENDERS, PROFILED, Entry  # noqa: E402
from comparison.core_time import core_seconds, lost_cores, seconds_of_others  # noqa: E402
from comparison.harness import label_accuracy, suite  # noqa: E402
from comparison.harness.plan import FULL, QUICK, Setting  # noqa: E402
from comparison.harness.round_robin import Field, rotated  # noqa: E402
from comparison.harness.suite import Suite  # noqa: E402
from comparison.harness.worker_process import FailedError, Process  # noqa: E402
from comparison.inputs import arrays, labelled_images, models  # noqa: E402
from comparison.inputs.labelled_images import Photos  # noqa: E402
from comparison.inputs.models import Model  # noqa: E402
from comparison.job import AbsentError, Job  # noqa: E402
from comparison.report import paired_medians  # noqa: E402
from comparison.report.paired_medians import Latency  # noqa: E402
from comparison.report.quiet import Spread  # noqa: E402
from comparison.whole_folder import whole  # noqa: E402
from vit_engine.errors import UsageError  # noqa: E402

TINY = """
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
            logits = batch.reshape(len(batch), -1)[:, :4].astype(np.float32)
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

        about = {"compute": "fp32", "threads": os.environ["OMP_NUM_THREADS"]}
        return Contender("uint8", run, about)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "tiny_contender.py").write_text(textwrap.dedent(TINY))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 3), dtype=np.uint8)
    np.save(tmp_path / "uint8.npy", images)
    np.save(tmp_path / "float32.npy", images.transpose(0, 3, 1, 2).astype(np.float32))
    return Job(
        contender="tiny",
        module="tiny_contender",
        options={},
        model="",
        cache=str(tmp_path / "cache"),
        threads=1,
        device="cpu",
        max_batch=4,
        uint8=str(tmp_path / "uint8.npy"),
        float32=str(tmp_path / "float32.npy"),
    )


@pytest.fixture
def field() -> Iterator[Field]:
    found = Field()
    yield found
    found.close()


def start(job: Job, **options: object) -> Process:
    return Process(Job(**{**job.as_dict(), "options": options}), sys.executable)


def timing(batch: int = 2, runs: int = 3) -> dict[str, object]:
    return {"verb": "time", "batch": batch, "runs": runs}


def test_a_sound_contender_answers(job: Job, tmp_path: Path) -> None:
    with start(job) as process:
        loaded = process.ask({"verb": "load"}, 30)
        assert loaded["about"] == {"compute": "fp32", "threads": "1"}
        assert loaded["seconds"] > 0
        timed = process.ask(timing(), 30)
        assert len(timed["seconds"]) == 3
        lost, seconds = timed["switches"]
        assert lost >= 0 and seconds > sum(timed["seconds"])
        assert process.ask({"verb": "memory"}, 30)["bytes"] > 1e6
        files = {"uint8": job.uint8, "float32": job.float32, "out": str(tmp_path / "logits.npy")}
        assert process.ask({"verb": "predict", "batch": 3, **files}, 30) == {"images": 8}
    expected = np.load(job.uint8).reshape(8, -1)[:, :4]
    assert np.array_equal(np.load(tmp_path / "logits.npy"), expected)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "crashed at 'time': exit 3; Illegal instruction"),
        ("hang", "no answer to 'time' within 3 s"),
        ("nan", "ArithmeticError: NaN, infinity or rows missing in a timed answer"),
        ("raise", "ValueError: no such shape"),
    ],
)
def test_a_faulty_contender_is_a_failed_row(
    job: Job, field: Field, fault: str, reason: str
) -> None:
    for name, options in (("sound", {}), ("faulty", {"fault": fault})):
        process = field.add(name, lambda options=options: start(job, **options))
        assert process
        assert field.ask(name, {"verb": "load"}, 30)
    requests = dict.fromkeys(("faulty", "sound"), timing())
    answers = field.take_turns(requests, rounds=3, limit=3)
    assert list(answers) == ["sound"], "the faulty one has no times, not even those before"
    assert len(answers["sound"]) == 3
    assert field.failures["faulty"].status == "failed"
    assert str(field.failures["faulty"]) == reason
    assert list(field.processes) == ["sound"]


def test_an_absent_contender_says_why(job: Job, field: Field) -> None:
    field.add("absent", lambda: start(job, absent=True))
    assert field.ask("absent", {"verb": "load"}, 30) is None
    assert field.failures["absent"].status == "absent"
    assert "not here" in str(field.failures["absent"])
    assert field.ask("absent", timing(), 30) is None


def test_a_field_that_is_closed_starts_no_more(job: Job, field: Field) -> None:
    running = field.add("early", lambda: start(job))
    field.close()
    assert running._process.returncode is not None
    with field.watch("late"):
        field.add("late", lambda: start(job))
    assert not field.processes
    assert "has ended" in str(field.failures["late"])


def test_a_product_without_instructions_is_no_ceiling(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = replace(job, options={"precision": "fp32", "library": "torch"})
    monkeypatch.setattr(gemm, "PATIENCE", 0.0)
    with pytest.raises(AbsentError, match="no fast fp32 product here"):
        gemm.load(fp32)


def test_a_module_that_cannot_be_imported_fails(job: Job, field: Field) -> None:
    broken = Job(**{**job.as_dict(), "module": "no_such_contender"})
    field.add("broken", lambda: Process(broken, sys.executable))
    assert field.ask("broken", {"verb": "load"}, 30) is None
    assert "no_such_contender" in str(field.failures["broken"])


def test_a_hung_process_is_gone_afterwards(job: Job) -> None:
    with start(job, fault="hang") as process:
        pid = process.ask({"verb": "load"}, 30)["pid"]
        with pytest.raises(FailedError, match="within 1 s"):
            process.ask(timing(), 1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_end_with_their_controller(job: Job) -> None:
    process = start(job)
    process.ask({"verb": "load"}, 30)
    process._pipe.close()
    assert process._process.wait(60) == 0
    process.close()


def test_who_needs_longer_than_the_budget_has_not_failed(job: Job, tmp_path: Path) -> None:
    late = time.monotonic() + 1
    setting = Setting((), "cpu", 1, tmp_path, tmp_path, FULL, print, print, end=late)
    suite = Suite(setting, None, None, None)
    with start(job, fault="hang") as process:
        process.ask({"verb": "load"}, 30)
        with pytest.raises(
            FailedError, match="not done with 'time' in the 0 s that the b"
        ) as caught:
            suite._ask(process, timing(), 300, slow=True)
    assert caught.value.status == "skipped"


def test_what_others_take_of_the_cores_is_told(bounded: None) -> None:
    """Beside processes that keep every core busy nearly all is others'; one's own work is not."""
    cores = len(os.sched_getaffinity(0))
    line = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(line) for _ in range(2 * cores)]
    try:
        before = core_seconds()
        time.sleep(1)
        taken = seconds_of_others(before)
        lost, end = lost_cores(), time.monotonic() + 1
        while time.monotonic() < end:
            pass
        lost = lost_cores() - lost
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert taken is not None and taken[0] > 0.7 * taken[1]
    assert lost > 5, "the kernel shares the cores out in slices of some ms"
    before = core_seconds()
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    assert before is not None
    after = core_seconds()
    assert after is not None and after.own - before.own > 0.45


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "ROOT", tmp_path / "benchmarks")
    setting = Setting((), "cpu", 1, tmp_path, tmp_path, FULL, print, print)
    entries = {entry.name: entry for entry in CONTENDERS}
    assert suite._python(entries["ours-fp32"], setting) == sys.executable
    for name, folder in (("optimum", ".venv-peers"), ("zentorch-bf16", ".venv-zentorch")):
        with pytest.raises(FailedError, match=f"{folder} is not there.*; make peers") as caught:
            suite._python(entries[name], setting)
        assert caught.value.status == "absent"
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".installed").touch()
        assert suite._python(entries[name], setting) == str(tmp_path / folder / "bin/python")


def test_turns_rotate(job: Job, field: Field) -> None:
    for name in "abc":
        field.add(name, lambda: start(job))
        field.ask(name, {"verb": "load"}, 30)
    order: list[str] = []
    requests = dict.fromkeys("abc", timing(1, 1))
    field.take_turns(requests, rounds=4, limit=30, each=lambda _, name: order.append(name))
    assert "".join(order) == "abcbcacababc"
    assert list(rotated([], 3)) == []


def test_turns_fit_their_budget() -> None:
    plan = replace(FULL, rounds=(5, 12), budget_s=90, latency_rounds=20, latency_runs=5, turn_s=0.3)
    assert plan.rounds_of(1, {"a": 9.0}) == 20
    assert plan.rounds_of(8, {"a": 0.1, "b": 0.1}) == 12, "no more than the most"
    assert plan.rounds_of(8, {"a": 4.0, "b": 6.0}) == 9
    assert plan.rounds_of(8, {"a": 40.0, "b": 60.0}) == 5, "no fewer than the fewest"
    assert [plan.runs_of(1, s) for s in (10.0, 0.1, 0.01, 1e-4)] == [5, 5, 30, 50]
    assert [plan.runs_of(8, s) for s in (10.0, 0.1)] == [1, 3]


def test_results_are_called_after_the_machine() -> None:
    card = {"cpu": "AMD EPYC", "cpu_family": "family 25 model 1", "cores": 2, "gpu": None}
    assert host.name(card) == "amd-epyc-25-1-2-cores"
    assert host.name({**card, "gpu": "NVIDIA H200, 143771 MiB, 580.1"}) == "nvidia-h200"


def test_percentiles_want_enough_samples() -> None:
    assert paired_medians.latency([1.0] * 9) == Latency(1.0, None, None)
    assert paired_medians.latency([1.0] * 99) == Latency(1.0, 1.0, None)
    hundred = paired_medians.latency([float(i) for i in range(1, 101)])
    assert (hundred.p50, hundred.p90, hundred.p99) == pytest.approx((50.5, 90.1, 99.01))


def test_speedup_is_paired_by_round() -> None:
    # the machine slows down threefold midway; each pair still says twice as fast
    baseline = [[2.0, 2.2, 2.1], [6.0, 6.6, 6.3], [2.0, 2.2, 2.1]]
    contender = [[1.0, 1.1, 1.05], [3.0, 3.3, 3.15], [1.0, 1.1, 1.05]]
    assert paired_medians.paired_speedup(baseline, contender) == Spread(2.0, 2.0, 2.0)
    mixed = paired_medians.paired_speedup([[1.0]] * 4, [[1.0], [0.5], [0.25], [1.0]])
    assert (mixed.low, mixed.median, mixed.high) == (1.0, 1.5, 2.5)


@pytest.fixture(scope="module")
def demo() -> Model:
    return models.model_from_name("demo")


def test_gflop_of_vit_b(demo: Model) -> None:
    """35.1 GFLOP is what is published for ViT-B/16 at 224 pixels (2 x 17.56 G multiply-adds)."""
    base = replace(
        demo.form,
        hidden_size=768,
        layers=12,
        heads=12,
        intermediate_size=3072,
        image_size=224,
        patch_size=16,
    )
    model = replace(demo, form=base, labels=("",) * 1000)
    assert model.gflop == pytest.approx(35.1, abs=0.1)


def test_drawn_photos_and_their_arrays(demo: Model, tmp_path: Path) -> None:
    photos = labelled_images.drawn_photos(18, tmp_path / "drawn")
    assert [demo.labels[c] in f.name for f, c in zip(photos.files, photos.classes, strict=True)]
    assert photos.classes[:3] == (0, 1, 2)
    written = arrays.arrays_from_photos(photos, demo, tmp_path)
    raw, floats = np.load(written.uint8), np.load(written.float32)
    size = demo.form.image_size
    assert (raw.dtype, raw.shape) == (np.uint8, (18, size, size, 3))
    expected = (raw.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    assert np.allclose(floats, expected, atol=1e-6)


def test_what_does_not_fit_into_the_budget_is_left_out(
    job: Job, demo: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entry, "path", property(lambda entry: job.module))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(measure, "CEILINGS_S", 2000.0)
    told: list[str] = []
    plan = replace(QUICK, batches=(1,))
    end = time.monotonic() + 1000
    entries = tuple(e for e in CONTENDERS if e.name in (BASELINE, PROFILED))
    setting = Setting(entries, "cuda", 1, tmp_path, tmp_path, plan, print, told.append, end)
    result, path = stored_result.begun(setting, demo), tmp_path / "result.json"
    parts, show = ("speed", "kernels", "ceilings"), lambda *_: None
    run = measure.Comparison(setting, demo, None, result, path=path, parts=parts, show=show).run
    assert run() == 0
    assert told[-1].startswith("ceilings: left out, 2000 s in the ")
    result = json.loads(path.read_text())
    assert (result["done"], result["no_time_for"]) == (["speed 1", "kernels"], ["ceilings"])
    assert {row["status"] for row in result["speed"]["rows"].values()} == {"ok"}


def labelled(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_a_labelled_set_by_table(tmp_path: Path) -> None:
    folder = labelled(tmp_path, ["b.png", "a.png"])
    (folder / "labels.csv").write_text("file,index,more\nb.png,2,x\na.png,0,y\n")
    photos = labelled_images.photos_from_folder(folder, ("cat", "dog", "owl"))
    assert [p.name for p in photos.files] == ["b.png", "a.png"]
    assert photos.classes == (2, 0)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["owl/1.png", "cat/2.jpg", "cat/notes.txt"], (0, 2)),  # by label
        (["2/1.png", "0/2.jpg"], (0, 2)),  # by index
        (["n01/1.png", "n02/2.jpg", "n03/3.jpg"], (0, 1, 2)),  # in sorted order
    ],
)
def test_a_labelled_set_by_folders(
    tmp_path: Path, names: list[str], classes: tuple[int, ...]
) -> None:
    photos = labelled_images.photos_from_folder(labelled(tmp_path, names), ("cat", "dog", "owl"))
    assert photos.classes == classes


@pytest.mark.parametrize(
    ("names", "table", "words"),
    [
        (["a.png"], None, "expected labels.csv or class folders"),
        (["n01/1.png"], None, "'n01' is no label and no index"),
        (["7/1.png"], None, "class 7, the model has 3"),
        (["a.png"], "file,index\nb.png,1\n", "lists b.png, which is not there"),
        (["a.png"], "file,label\na.png,cat\n", "expected file and index"),
        (["a.png"], "file,index\na.png,cat\n", "line 2"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(
    tmp_path: Path, names: list[str], table: str | None, words: str
) -> None:
    folder = labelled(tmp_path, names)
    if table:
        (folder / "labels.csv").write_text(table)
    with pytest.raises(UsageError, match=words):
        labelled_images.photos_from_folder(folder, ("cat", "dog", "owl"))


def test_accuracy_of_known_logits() -> None:
    photos = Photos("made up", Path(), tuple(map(Path, ("a", "b", "c", "d"))), (0, 1, 2, 5))
    expected = np.eye(7, dtype=np.float32)[[0, 1, 2, 3]] * 10
    found = expected.copy()
    found[1] = [0, 4, 5, 0, 0, 0, 0]  # second best is right, and not the baseline's answer
    row = label_accuracy.row(found, expected, photos, tuple("ABCDEFG"))
    assert (row["top1"], row["top5"], row["agreement"]) == (0.5, 0.75, 0.75)
    assert row["max_diff"] == 6
    assert row["mean_diff"] == pytest.approx(11 / 28)
    assert row["differs"] == [{"file": "b", "true": "B", "baseline": "B", "here": "C"}]


def compare(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, str(COMPARE), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "."], "--data needs --model"),
        (["--contenders", "nobody"], "no contender 'nobody'"),
        (["--batches", "0"], "'0' is not a whole number of images, 1 or more"),
        (["--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    _, stderr = (process := compare(*arguments, "--cache", tmp_path)).communicate(timeout=60)
    assert process.returncode == 2
    assert words in stderr
    assert "Traceback" not in stderr


FEW = ("--batches", 1, 2, "--contenders", "ours-fp32", "--budget", 600)


def run_on_demo(
    folder: Path, *more: object, few: tuple[object, ...] = FEW
) -> "subprocess.Popen[str]":
    """Two stages of speed and all else on the bundled checkpoint, two contenders."""
    given = ("--quick", "--model", "demo", "--cache", folder / "cache", "-o", folder)
    return compare(*given, *few, *more)


def stored(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("demo-on-*-quick.json")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def test_ctrl_c_leaves_the_finished_rows(tmp_path: Path) -> None:
    process = run_on_demo(tmp_path)
    assert process.stdout
    assert process.stdout.readline().startswith("batch 1")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    result = stored(tmp_path)
    assert result["interrupted"]
    assert result["done"][:1] == ["speed 1"]
    assert "1" in result["speed"]["rows"]["ours-fp32"]["rounds"]
    assert "vit-engine fp32" in stdout
    (report,) = tmp_path.glob("demo-on-*-quick.md")
    assert "Interrupted" in report.read_text()


@pytest.mark.slow
def test_a_whole_run_can_be_resumed(tmp_path: Path) -> None:
    process = run_on_demo(tmp_path)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    first = stored(tmp_path)["speed"]["rows"]["ours-fp32"]["rounds"]["1"]
    again = run_on_demo(tmp_path, "--resume")
    _, stderr = again.communicate(timeout=300)
    assert again.returncode == 0, stderr
    result = stored(tmp_path)
    assert not result["interrupted"]
    assert result["done"] == ["speed 1", "speed 2", "files", "accuracy", "ceilings"]
    assert result["speed"]["rows"]["ours-fp32"]["rounds"]["1"] == first, "measured once"
    assert result["accuracy"]["rows"]["ours-fp32"]["agreement"] == 1
    assert result["accuracy"]["rows"]["pytorch"]["top1"] > 0.9
    assert result["files"]["rows"]["ours-fp32"]["same_labels"] == 1
    assert result["ceilings"]["gemm-fp32-torch"]["gflops"] > 1
    _, stderr = (added := run_on_demo(tmp_path, "--add", "ours-fp16", few=())).communicate(
        timeout=300
    )
    assert added.returncode == 0, stderr
    result = stored(tmp_path)
    assert result["speed"]["rows"]["ours-fp32"]["rounds"]["1"] == first
    assert result["speed"]["rows"]["ours-fp16"]["against"].keys() == {"1", "2"}
    assert result["accuracy"]["rows"]["ours-fp16"]["agreement"] == 1


@pytest.mark.slow
def test_a_checkpoint_in_two_pickled_shards(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from vit_export.checkpoints.checkpoint import DEMO

    model = tmp_path / "sharded"
    shutil.copytree(DEMO, model, ignore=shutil.ignore_patterns("*.py", "*.safetensors"))
    weights = load_file(DEMO / "model.safetensors")
    names = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(weights)}
    for file in set(names.values()):
        torch.save({n: weights[n] for n in names if names[n] == file}, model / file)
    index = json.dumps({"metadata": {}, "weight_map": names})
    (model / "pytorch_model.bin.index.json").write_text(index)
    process = compare(
        *("--quick", "--model", model, "--cache", tmp_path / "cache", "-o", tmp_path),
        *("--only", "speed", "--batches", 1, "--contenders", "ours-fp32"),
    )
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    (path,) = tmp_path.glob("sharded-on-*.json")
    rows = json.loads(path.read_text())["speed"]["rows"]
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, "ok")
    size = sum(p.stat().st_size for p in model.glob("*.bin"))
    assert rows["pytorch"]["file_bytes"] == size


def test_class_folders_from_images_to_accuracy(demo: Model, tmp_path: Path) -> None:
    photos = labelled_images.drawn_photos(20, tmp_path / "drawn")
    for path, index in zip(photos.files, photos.classes, strict=True):
        (tmp_path / "set" / demo.labels[index]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "set" / demo.labels[index] / "same name.png")
    process = run_on_demo(tmp_path, "--data", tmp_path / "set", "--only", "accuracy")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "Accuracy. demo on 16 labelled images (set)" in stdout
    found = stored(tmp_path)["accuracy"]
    assert found["rows"]["pytorch"]["top1"] >= 14 / 16
    assert found["rows"]["ours-fp32"]["agreement"] == 1


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


def test_imports_make_no_circle() -> None:
    """Neither between files nor between folders."""
    root = ROOT / "benchmarks"
    files, rooms = TopologicalSorter[str](), TopologicalSorter[str]()
    for path in (root / "comparison").rglob("*.py"):
        own = ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in {node.module, *(f"{node.module}.{n.name}" for n in node.names)}:
                    target = root / name.replace(".", "/")
                    if target.with_suffix(".py").is_file():
                        files.add(own, name)
                        if room_of(own) != room_of(name):
                            rooms.add(room_of(own), room_of(name))
    assert len(list(files.static_order())) > 20
    assert {"comparison.harness", "comparison.report"} < set(rooms.static_order())


def room_of(module: str) -> str:
    """Return the folder of a module, or the module where it lies beside the folders."""
    return ".".join(module.split(".")[:2])


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
