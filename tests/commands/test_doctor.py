"""vit-doctor as a person and as a program read it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import Run
from vit_engine.artefact.integrity import check_integrity
from vit_engine.artefact.metadata import read_contract
from vit_engine.commands.diagnosis import Report, Trial
from vit_engine.commands.doctor import text
from vit_engine.machine import nvidia, processor
from vit_engine.machine.installation import pip, pip_install
from vit_engine.machine.nvidia import Driver, Gpu
from vit_engine.machine.processor import Cpu

GPU = nvidia.has_gpu()


def test_the_json_of_this_machine(run_command: Run, tiny_artefact: Path) -> None:
    done = run_command("vit-doctor", "--json", "-m", tiny_artefact)
    report = json.loads(done.stdout)
    assert [trial["provider"] for trial in report["trials"]] == [
        *("cpu", "openvino", "openvino", "cuda", "tensorrt")
    ]
    assert report["trials"][0]["state"] == "works"
    assert report["threads"] == processor.usable_cores()
    assert report["packages"] and report["onnxruntime"]
    assert done.returncode == (4 if report["problems"] else 0)


@pytest.mark.parametrize("command", ["vit-doctor", "vit-export"])
def test_a_model_is_named_once_either_way(command: str, run_command: Run) -> None:
    for line, words in (
        (("nowhere",), "nowhere"),
        (("-m", "nowhere"), "nowhere"),
        (("demo", "-m", "nowhere"), "two models are given, demo and nowhere; name one"),
    ):
        done = run_command(command, *line)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert words in done.stderr


def test_an_artefact_that_was_altered_is_a_problem(
    run_command: Run, tiny_artefact: Path, tmp_path: Path
) -> None:
    """Also one that has passed before, and looks as it did then: all of it is read."""
    path = tmp_path / "vit.onnx"
    shutil.copy(tiny_artefact, path)
    check_integrity(path, read_contract(path))
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = run_command("vit-doctor", "--json", "-m", path)
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert sum("is damaged or was altered" in problem for problem in report["problems"]) == 1


@pytest.mark.skipif(GPU, reason="a GPU asks for its own extra")
def test_two_distributions_are_a_problem_with_the_line_that_fixes_it(
    tiny_artefact: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n"
    )
    (fake / "top_level.txt").write_text("onnxruntime\n")
    line = [sys.executable, "-m", "vit_engine.commands.doctor", "-m", str(tiny_artefact)]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=100, check=False, env=environment
    )
    assert done.returncode == 4, done.stderr
    (problem,) = (x for x in done.stdout.splitlines() if x.startswith("problem: "))
    assert f"overwrite each other's files; {pip()} uninstall -y onnxruntime" in problem
    assert problem.endswith(f"&& {pip_install('cpu')}")


def test_the_text_of_a_gpu_machine() -> None:
    cpu = Cpu("Xeon", ("avx512f", "amx_int8"), 64, 16, 8.0, 2**37, 2**35)
    driver = Driver("580.95", (13, 0), (Gpu("NVIDIA H200", 150 * 2**30, (9, 0)),))
    trials = (
        Trial("cpu", "works", "demo fp16: opened in 0.1 s, 3.00 ms an image", milliseconds=3.0),
        Trial("cuda", "works", "demo fp16: opened in 1.5 s, 0.40 ms an image", milliseconds=0.4),
        Trial("tensorrt", "absent", "libnvinfer.so.10 not found", "pip install 'vit-engine[x]'"),
    )
    report = Report(
        version="0.1.0",
        python="3.12.1",
        system="Linux",
        onnxruntime="1.31.1",
        packages=("onnxruntime-gpu 1.31.1",),
        tested=("numpy 2.4.6 (tested: 2.0 or newer, below 3)", "onnxruntime-gpu 1.31.1 (...)"),
        built_with=("tensorrt", "cuda", "cpu"),
        cpu=cpu,
        threads=8,
        driver=driver,
        engine_cache="/cache",
        trials=trials,
        problems=(),
        advice=("for this GPU: vit-export --fp16",),
    )
    assert (
        "\n".join(text(report))
        == """\
vit-engine 0.1.0, Python 3.12.1, Linux

ONNX Runtime  onnxruntime-gpu 1.31.1, built with tensorrt, cuda, cpu
Versions      numpy 2.4.6 (tested: 2.0 or newer, below 3)
              onnxruntime-gpu 1.31.1 (...)
CPU           Xeon: AVX-512, AMX INT8
              16 of 64 cores, a quota of 8, 128.0 GiB memory, limited to 32.0 GiB; 8 compute threads
NVIDIA        driver 580.95, CUDA up to 13.0
              GPU 0: NVIDIA H200, 150.0 GiB, compute capability 9.0
Engine cache  /cache

cpu            works   demo fp16: opened in 0.1 s, 3.00 ms an image
cuda           works   demo fp16: opened in 1.5 s, 0.40 ms an image
tensorrt       absent  libnvinfer.so.10 not found
                       to fix it: pip install 'vit-engine[x]'

for this GPU: vit-export --fp16"""
    )
