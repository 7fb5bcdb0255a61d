"""ONNX Runtime's real CUDA provider on a GPU that computes nothing: all but the numbers.

Where each node is placed, which options are taken, what is captured and replayed, what happens when
device memory runs out. Needs onnxruntime-gpu, in this interpreter or in $VIT_GPU_PYTHON, without
NVIDIA's libraries: where $VIT_GPU_PYTHON is set, as by make test-gpu-build, nothing is skipped.
"""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support import TINY, write_checkpoint
from support.standin import GpuBuild, build, gpu_build
from vit_engine.artefact.metadata import read_contract
from vit_engine.providers import cuda, tensorrt
from vit_engine.providers.provider import SessionSpec


@pytest.fixture(scope="module")
def gpu() -> GpuBuild:
    found = gpu_build()
    if isinstance(found, str):
        lacking(found)
    return found


@pytest.fixture(scope="module")
def libraries(gpu: GpuBuild, tmp_path_factory: pytest.TempPathFactory) -> str:
    found = build(gpu, tmp_path_factory.mktemp("standin"))
    if isinstance(found, str):
        lacking(found)
    return str(found)


def lacking(what: str) -> NoReturn:
    """Skip, unless the GPU build was promised."""
    if "VIT_GPU_PYTHON" in os.environ:
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module", params=["fp16", "fp32", "hf"])
def artefact(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny checkpoint in each precision, and with normalised input."""
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    path = tmp_path_factory.mktemp("cuda") / "vit.onnx"
    precision, io = ("fp16", "hf") if request.param == "hf" else (request.param, "uint8")
    export(load(str(tiny_folder)), path, precision=precision, io=io, images=None)
    return path


EXAMPLES = Path(__file__).parents[2] / "examples"

RUN = """
import json, sys
import numpy as np
from vit_engine.engine import Engine

path, largest, graphs, sizes, device = json.loads(sys.argv[1])
pixels = np.zeros((max(sizes), 32, 32, 3), np.uint8)
options = {"max_batch": largest, "cuda_graphs": graphs, "device": device}
with Engine.open(path, provider="cuda", **options) as engine:
    for size in sizes:
        assert engine.run(pixels[:size]).shape == (size, 5)
    print(json.dumps([engine.provider, engine.max_batch]))
"""


def test_every_provider_option_is_known_to_its_library(gpu: GpuBuild, tiny_artefact: Path) -> None:
    spec = SessionSpec(tiny_artefact, read_contract(tiny_artefact))
    passed = {
        "cuda": cuda.options(spec, graphs=True),
        "tensorrt": tensorrt.options(spec, 8, "/cache"),
    }
    for provider, options in passed.items():
        library = gpu.folder / f"libonnxruntime_providers_{provider}.so"
        # Names stand in the library as C strings; the compiler keeps short ones, of up to 15 bytes
        # or so, and long ones' pieces, as immediates of instructions.
        data = library.read_bytes()
        unknown = [name for name in options if not _stands_in(name.encode(), data)]
        assert not unknown, f"{library.name} does not know {unknown}"
    assert not _stands_in(b"trt_no_such_option", data)


def _stands_in(name: bytes, data: bytes) -> bool:
    return name in data or all(name[i : i + 8] in data for i in range(0, len(name) - 7, 8))


@pytest.mark.parametrize("graphs", [True, False])
def test_every_node_is_on_cuda(gpu: GpuBuild, libraries: str, artefact: Path, graphs: bool) -> None:
    argument = json.dumps([str(artefact), 4, graphs, [1], 0])
    done = gpu.run("-c", RUN, argument, LD_LIBRARY_PATH=libraries)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '["cuda", 4]\n'
    assert "nodes run on" not in done.stderr  # what the engine says of nodes elsewhere
    assert "without CUDA graphs" not in done.stderr


def test_without_cudnn_attention_is_the_standard_one(
    gpu: GpuBuild, libraries: str, artefact: Path, tmp_path: Path
) -> None:
    """ONNX Runtime's own attention fails without it, at the first run."""
    for library in Path(libraries).glob("lib*"):
        if "cudnn" not in library.name:
            (tmp_path / library.name).symlink_to(library)
    argument = json.dumps([str(artefact), 4, True, [1, 4], 0])
    done = gpu.run("-c", RUN, argument, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == '["cuda", 4]\n'
    assert re.fullmatch("cuda runs 5 to 15 % slower without cuDNN; .* install .*\n", done.stderr)


FAMILIES: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": {"use_relative_position_bias": True},
    "CLIPForImageClassification": {"vision_config": TINY},
    "DeiTForImageClassificationWithTeacher": {},
    "Dinov2ForImageClassification": {"use_swiglu_ffn": True},
}


@pytest.mark.parametrize("architecture", [*FAMILIES, "rotary"])
def test_every_node_of_other_families_is_on_cuda(
    gpu: GpuBuild, libraries: str, tmp_path: Path, architecture: str
) -> None:
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load
    from vit_export.families.model_config import Rotary

    made = "ViTForImageClassification" if architecture == "rotary" else architecture
    config = FAMILIES.get(architecture, {})
    checkpoint = load(str(write_checkpoint(tmp_path / "model", architecture=made, **config)))
    if architecture == "rotary":
        checkpoint = replace(
            checkpoint, model_config=replace(checkpoint.model_config, rotary=Rotary(100.0))
        )
    path = tmp_path / "vit.onnx"
    export(checkpoint, path, precision="fp16", images=None)
    done = gpu.run("-c", RUN, json.dumps([str(path), 4, True, [1], 0]), LD_LIBRARY_PATH=libraries)
    assert done.returncode == 0, done.stderr
    assert "nodes run on" not in done.stderr
    assert "without CUDA graphs" not in done.stderr


def test_each_pair_of_buffers_has_a_graph_and_is_answered_from_it(
    gpu: GpuBuild, libraries: str, artefact: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    sizes = [1, 3, 4, 2] * 5  # buckets 1, 2 and 4, two pairs of buffers each, by turns
    argument = json.dumps([str(artefact), 4, True, sizes, 0])
    done = gpu.run("-c", RUN, argument, LD_LIBRARY_PATH=libraries, STANDIN_LOG=str(log))
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    captured = [line.split()[1] for line in lines if line.startswith("capture")]
    launched = Counter(line.split()[1] for line in lines if line.startswith("launch"))
    assert len(captured) == len(set(captured)) == 6
    # A pair's first run captures its graph; that one and each later run launch it once. The two
    # pairs of a bucket take turns: 5 runs of bucket 1, 10 of 4, 5 of 2.
    assert sorted(launched.values()) == [2, 2, 3, 3, 5, 5]
    assert set(launched) == set(captured)


def test_without_graphs_nothing_is_captured(
    gpu: GpuBuild, libraries: str, artefact: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    argument = json.dumps([str(artefact), 4, False, [4] * 6, 0])
    done = gpu.run("-c", RUN, argument, LD_LIBRARY_PATH=libraries, STANDIN_LOG=str(log))
    assert done.returncode == 0, done.stderr
    assert not re.search("capture|launch", log.read_text())


def test_out_of_memory_drops_the_session_and_halves_the_batch(
    gpu: GpuBuild, libraries: str, artefact: Path
) -> None:
    argument = json.dumps([str(artefact), 256, True, [256, 1, 256], 0])
    settings = {"LD_LIBRARY_PATH": libraries, "STANDIN_MEMORY": "5000000"}
    done = gpu.run("-c", RUN, argument, **settings)
    assert done.returncode == 0, done.stderr
    batch = json.loads(done.stdout)[1]
    assert 1 <= batch < 256
    assert f"cuda ran out of memory; continuing with batches of {batch}" in done.stderr
    assert "onnxruntime" not in done.stderr


def test_the_second_gpu(gpu: GpuBuild, libraries: str, artefact: Path) -> None:
    settings = {"LD_LIBRARY_PATH": libraries, "STANDIN_GPUS": "2"}
    done = gpu.run("-c", RUN, json.dumps([str(artefact), 2, True, [2, 2, 2], 1]), **settings)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("STANDIN_GPUS=0", "offers no GPU: no CUDA-capable device is detected"),
        ("STANDIN_DRIVER=12080", "supports CUDA up to 12.8, .* update NVIDIA's driver to r580"),
        ("STANDIN_MEMORY=1000", "provider cuda cannot open .*Failed to allocate memory"),
    ],
)
def test_refusals_of_a_gpu_that_is_there(
    gpu: GpuBuild, libraries: str, tiny_artefact: Path, setting: str, words: str
) -> None:
    name, _, value = setting.partition("=")
    line = ["-m", "vit_engine.commands.infer", EXAMPLES, "-m", tiny_artefact, "--provider", "cuda"]
    done = gpu.run(*line, LD_LIBRARY_PATH=libraries, **{name: value})
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert re.search(words, done.stderr.splitlines()[-1])


def test_a_gpu_that_is_not_counted(gpu: GpuBuild, libraries: str, tiny_artefact: Path) -> None:
    done = gpu.run(
        "-c", RUN, json.dumps([str(tiny_artefact), 2, True, [2], 7]), LD_LIBRARY_PATH=libraries
    )
    assert done.returncode == 1
    assert "there is no GPU 7; choose --device from 0 to 0" in done.stderr


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_refusals_without_a_gpu(gpu: GpuBuild, tiny_artefact: Path, provider: str) -> None:
    done = gpu.run(
        "-m", "vit_engine.commands.infer", EXAMPLES, "-m", tiny_artefact, "--provider", provider
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"provider {provider} cannot run here: " in line
    assert "use --provider cpu" in line or "install" in line


def test_libraries_that_are_missing_are_named(
    gpu: GpuBuild, libraries: str, tiny_artefact: Path, tmp_path: Path
) -> None:
    (tmp_path / "libcuda.so.1").symlink_to(Path(libraries) / "libcuda.so.1")
    for provider, library, extra in (
        ("cuda", "libcublasLt.so.13", "gpu"),
        ("tensorrt", "libnvinfer.so.10", "tensorrt"),
    ):
        done = gpu.run(
            *(
                "-m",
                "vit_engine.commands.infer",
                EXAMPLES,
                "-m",
                tiny_artefact,
                "--provider",
                provider,
            ),
            LD_LIBRARY_PATH=str(tmp_path),
        )
        assert done.returncode == 4, done.stderr
        assert done.stdout == ""
        found = rf"provider {provider} cannot run here: .*{library}.* not found; "
        assert re.search(found + rf".* -m pip install .*\[{extra}\]", done.stderr), done.stderr


def test_auto_says_why_it_leaves_a_gpu_alone(gpu: GpuBuild, tiny_artefact: Path) -> None:
    code = "import sys; from vit_engine.engine import Engine; e = Engine.open(sys.argv[1])"
    done = gpu.run("-c", f"{code}; print(e.provider)", tiny_artefact)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cpu\n"
    assert "running on the CPU, since cuda cannot be used: " in done.stderr


def test_doctor_tells_of_a_gpu_that_computes_nothing(
    gpu: GpuBuild, libraries: str, tiny_artefact: Path
) -> None:
    done = gpu.run(
        *("-m", "vit_engine.commands.doctor", "--json", "-m", tiny_artefact),
        LD_LIBRARY_PATH=libraries,
    )
    assert done.returncode == 4, done.stderr
    report = json.loads(done.stdout)
    assert report["driver"]["gpus"][0]["name"] == "Stand-in GPU"
    states = {trial["provider"]: trial["state"] for trial in report["trials"]}
    assert states == {"cpu": "works", "cuda": "fails", "tensorrt": "absent", "openvino": "absent"}
    (problem,) = report["problems"]
    assert problem.startswith("cuda: cuda differs too much from the CPU: max |logit difference|")


def test_all_gpus_share_a_run(
    gpu: GpuBuild, libraries: str, artefact: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    settings = {"LD_LIBRARY_PATH": libraries, "STANDIN_GPUS": "3", "STANDIN_LOG": str(log)}
    line = ["-m", "vit_engine.commands.infer", EXAMPLES, "-m", artefact, "-b", "2"]
    done = gpu.run(*line, "--device", "all", **settings)
    assert done.returncode == 0, done.stderr
    paths = [json.loads(row)["path"] for row in done.stdout.splitlines()]
    assert paths == sorted(paths) and len(paths) == len([*EXAMPLES.glob("*.*")])
    turns = Counter(log.read_text().splitlines())
    assert min(turns[f"device {number}"] for number in range(3)) >= 5  # opened, and has run
    done = gpu.run(*line, "--device", "1,3", **settings)
    assert done.returncode == 4
    assert "there is no GPU 3; choose --device from 0 to 2" in done.stderr


PROCESSES = """
import sys
from vit_engine.options import EngineOptions
from vit_engine.server.engines.engine_processes import EngineProcesses

processes = EngineProcesses({"m": sys.argv[1]}, EngineOptions(devices=(0, 1)), hang_timeout=60)
before = processes.open()["m"].addresses
after = processes.open_anew("m").addresses
processes.retire_old("m")
processes.close()
print(*before, *after, len({*before.values(), *after.values()}))
"""


def test_a_server_has_an_engine_on_each_gpu(gpu: GpuBuild, libraries: str, artefact: Path) -> None:
    settings = {"LD_LIBRARY_PATH": libraries, "STANDIN_GPUS": "2"}
    done = gpu.run("-c", PROCESSES, artefact, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cuda:0", "cuda:1"] * 2 + ["4"]
