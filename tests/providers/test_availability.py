"""Where a model runs, and the words of refusal when it cannot run there."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

from support import ROOT, Run
from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ProviderError, UsageError
from vit_engine.machine import libraries, nvidia, processor
from vit_engine.machine.installation import pip_install
from vit_engine.providers import availability
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session, placements

GPU = nvidia.has_gpu()


def python(code: str, *arguments: str | Path, path: Path | None = None) -> tuple[int, str, str]:
    """Run code in a fresh interpreter; its exit code, stdout and stderr."""
    begin = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    line = [sys.executable, "-c", begin + code, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(GPU, reason="there is a GPU, on which these may run")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there(
    run_command: Run, tiny_artefact: Path, tmp_path: Path, provider: str
) -> None:
    output = tmp_path / "rows.jsonl"
    images = ROOT / "examples"
    for extra in ([images], [images, "-o", output], ["--build-only"]):
        done = run_command("vit-infer", "-m", tiny_artefact, "--provider", provider, *extra)
        assert done.returncode == 4
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"vit-infer: provider {provider} cannot run here: ")
        assert "pip install" in line or "--provider cpu" in line
    assert not output.exists()


def test_the_summary_names_what_ran(run_command: Run, tiny_artefact: Path) -> None:
    done = run_command("vit-infer", ROOT / "examples/star-01.png", "-m", tiny_artefact)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith(" on cuda" if GPU else " on cpu")


@pytest.mark.parametrize(
    ("provider", "device", "words"),
    [
        ("vulkan", 0, "provider 'vulkan' is not one of auto, tensorrt, cuda, openvino, cpu"),
        ("cpu", 1, "device 1: GPUs count from 0, and the cpu provider has none"),
        ("cuda", -1, "device is -1"),
    ],
)
def test_choices_that_make_no_sense(
    tiny_artefact: Path, provider: str, device: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Engine.open(tiny_artefact, provider=provider, device=device)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_int8_is_for_the_cpu(tiny_artefact: Path, tmp_path: Path, provider: str) -> None:
    model = onnx.load(tiny_artefact)
    (entry,) = model.metadata_props
    document = json.loads(entry.value)
    document["identity"]["precision"] = "int8"
    document["content_sha256"] = None
    entry.value = json.dumps(document)
    path = tmp_path / "int8.onnx"
    onnx.save(model, path)
    with pytest.raises(UsageError, match=f"is int8, which {provider} has no operators for"):
        Engine.open(path, provider=provider)
    with Engine.open(path) as engine:
        assert engine.provider == "cpu"


def test_no_onnxruntime_names_the_extra(tiny_artefact: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from vit_engine.commands import start_infer\n"
        "sys.argv = ['vit-infer', '-m', sys.argv[1], '--build-only']\n"
        "sys.exit(start_infer())"
    )
    rc, out, err = python(code, tiny_artefact)
    assert (rc, out) == (4, "")
    assert f"ONNX Runtime is not installed; {pip_install('cpu')}" in err


def test_the_installed_distribution_is_found() -> None:
    (owner,) = availability.distributions()
    name, _, version = owner.partition(" ")
    assert metadata.version(name) == version


@pytest.mark.parametrize(
    ("below", "told"),
    [("99", "(tested: 0.1 or newer, below 99)"), ("0.2", "(NOT tested: 0.1 or newer, below 0.2)")],
)
def test_the_versions_tested_stand_beside_those_installed(
    below: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = [
        f"numpy<{below},>=0.1",
        f"onnxruntime-gpu[cuda,cudnn]<{below},>=0.1; extra == 'gpu'",  # one that is not installed
        f"pytest<{below},>=0.1; extra == 'dev'",  # no model runs on it
        "onnxruntime; extra == 'cpu'",
    ]
    monkeypatch.setattr(availability.metadata, "requires", lambda _: requirements)
    assert availability.tested_versions() == [f"numpy {np.__version__} {told}"]


def test_placements_name_every_node(tiny_artefact: Path) -> None:
    spec = SessionSpec(tiny_artefact, read_contract(tiny_artefact))
    (found,) = placements(open_session(spec, {"cpu": {}})).items()
    assert found[0] == "CPUExecutionProvider"
    assert "Attention" in found[1]


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_a_session_that_opened_elsewhere_is_refused(tiny_artefact: Path) -> None:
    # Past the look for what is missing: ONNX Runtime itself only warns, and takes the CPU.
    spec = SessionSpec(tiny_artefact, read_contract(tiny_artefact))
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(
            ProviderError,
            match=r"provider cuda cannot run here: .*CPUExec.* does not load; .*install",
        ),
    ):
        open_session(spec, {"cuda": {}})


def test_libraries_are_loaded_or_told_to_be_absent() -> None:
    assert libraries.load("libm.so.6") is None
    assert "cannot open shared object file" in str(libraries.load("libnvnothing.so.3"))


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_tensorrt_is_found_in_its_package(tmp_path: Path) -> None:
    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").touch()

    def write(name: str, number: int) -> None:
        source = tmp_path / "library.c"
        source.write_text(f"int getInferLibVersion(void) {{ return {number}; }}\n")
        line = ["cc", "-shared", f"-Wl,-soname,{name}", str(source), "-o", str(package / name)]
        subprocess.run(line, check=True, timeout=60)

    code = (
        "from vit_engine.machine import libraries\n"
        "print(libraries.load('libnvinfer.so.10') is None)\n"
    )
    write("libnvinfer.so.11", 110000)
    _, out, err = python(code, path=tmp_path)
    assert out.split() == ["False"], err
    write("libnvinfer.so.10", 101401)
    rc, out, err = python(code + "print(libraries.tensorrt_version())", path=tmp_path)
    assert rc == 0, err
    assert out.split() == ["True", "10.14.1"]


def test_limits_of_the_machine() -> None:
    cpu = processor.cpu()
    assert cpu.affinity <= cpu.cores
    assert 1 <= processor.usable_cores() <= cpu.affinity
    assert cpu.memory > 2**28
    assert set(cpu.features) <= set(processor.CPU_FEATURES)


def test_the_features_of_an_arm64_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    core = "processor\t: {}\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16 sve\nCPU part\t: 0xd40"
    info = "\n\n".join(core.format(number) for number in range(2))
    monkeypatch.setattr(processor, "_text", lambda path: info if path.name == "cpuinfo" else "")
    cpu = processor.cpu()
    assert cpu.features == ("asimdhp", "asimddp", "i8mm", "bf16", "sve")
    assert cpu.int8


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_limit_of_the_groups_above_counts(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice of systemd or a pod bounds what is below it, whose own files say nothing."""
    if version == 2:
        files = {
            "/proc/self/cgroup": "0::/a.slice/pod/c",
            "/sys/fs/cgroup/a.slice/cpu.max": "150000 100000",
            "/sys/fs/cgroup/a.slice/pod/cpu.max": "400000 100000",
            "/sys/fs/cgroup/a.slice/pod/c/cpu.max": "max 100000",
            "/sys/fs/cgroup/a.slice/memory.max": "2097152",
            "/sys/fs/cgroup/a.slice/pod/c/memory.max": "max",
        }
    else:
        files = {
            "/proc/self/cgroup": "4:memory:/pod/c\n2:cpu,cpuacct:/pod/c\n0::/",
            "/sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "150000",
            "/sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000",
            "/sys/fs/cgroup/cpu/pod/c/cpu.cfs_quota_us": "-1",
            "/sys/fs/cgroup/cpu/pod/c/cpu.cfs_period_us": "100000",
            "/sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "2097152",
            "/sys/fs/cgroup/memory/pod/c/memory.limit_in_bytes": "9223372036854771712",
        }
    monkeypatch.setattr(processor, "_text", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    cpu = processor.cpu()
    assert (cpu.quota, cpu.memory_limit, processor.usable_cores()) == (1.5, 2097152, 2)


def test_onnxruntime_keeps_no_records_of_its_use(tiny_artefact: Path, tmp_path: Path) -> None:
    """Its telemetry would leave a database and a device number in the home folder."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = Path(sys.executable).with_name("vit-infer")
    line = [program, ROOT / "examples/star-01.png", "-m", tiny_artefact]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    left = [p.relative_to(tmp_path).parts[:2] for p in tmp_path.rglob("*") if p.is_file()]
    assert set(left) <= {("cache", "vit-engine")}
