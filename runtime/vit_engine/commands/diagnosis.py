"""Looks at all that the runtime needs of a machine, and tries each provider on a model."""

import contextlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import vit_engine
from vit_engine.artefact.integrity import check_integrity
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError, ProviderError
from vit_engine.machine import libraries, nvidia, processor
from vit_engine.machine.nvidia import Driver
from vit_engine.machine.processor import Cpu
from vit_engine.parity import BOUNDS, check_parity, sample_pixels
from vit_engine.providers import engine_cache, obstacles
from vit_engine.providers.provider import Provider
from vit_engine.providers.sessions import EXECUTION_PROVIDERS
from vit_engine.providers.table import PROVIDERS

TRIAL_LIMIT_S = 900  # TensorRT builds an engine in it
TRIAL_RUNS = 10


@dataclass(frozen=True)
class Wanted:
    """A library that providers are linked to, and what was found for it."""

    name: str
    by: tuple[str, ...]
    path: str | None
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class Trial:
    """One provider: "works", "absent" or "fails"; then why, and what to do."""

    provider: str
    state: str
    detail: str
    cure: str | None = None
    milliseconds: float | None = None  # median, one image


@dataclass(frozen=True)
class Report:
    """All that vit-doctor tells. `problems` are faults; a GPU that was never there is none."""

    version: str
    python: str
    system: str
    onnxruntime: str | None
    packages: tuple[str, ...]  # that own the onnxruntime module
    built_with: tuple[str, ...]  # providers
    cpu: Cpu
    threads: int
    driver: Driver | None
    libraries: tuple[Wanted, ...]
    engine_cache: str
    artefact: str | None  # what reading all of it says; None where it cannot be read
    trials: tuple[Trial, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...]


def examine(model: str, device: int) -> Report:
    """Look at everything, and run `model` on each provider that may be there."""
    owners = obstacles.distributions()
    driver, cpu = nvidia.driver(), processor.cpu()
    built_with: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    problems: list[str] = []
    version = None
    try:
        ort = obstacles.import_onnxruntime()
    except ProviderError as e:
        problems.append(str(e))
    else:
        version, available = str(ort.__version__), ort.get_available_providers()
        built_with = tuple(n for n, p in EXECUTION_PROVIDERS.items() if p in available)
        trials = tuple(_trial(p, model, device) for p in reversed(PROVIDERS.values()))
        problems += _problems(owners, trials, driver)
    artefact, fault = _artefact(model)
    if fault and not any(fault in problem for problem in problems):
        problems.append(fault)
    return Report(
        version=vit_engine.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        onnxruntime=version,
        packages=tuple(owners),
        built_with=built_with,
        cpu=cpu,
        threads=processor.usable_cores(),
        driver=driver,
        libraries=tuple(_wanted(built_with)),
        engine_cache=_engine_cache(),
        artefact=artefact,
        trials=trials,
        problems=tuple(problems),
        advice=tuple(_advice(trials, cpu)),
    )


def _trial(provider: Provider, model: str, device: int) -> Trial:
    """Run the model in a process of its own: a driver's library may crash or hang."""
    name = provider.name
    if found := provider.obstacle(device):
        cure = None if found.cure == obstacles.NO_GPU_CURE else found.cure
        return Trial(name, "absent", found.reason, cure)
    line = [sys.executable, "-m", "vit_engine.commands.doctor", "--trial", name, "-m", model]
    line += ["--device", str(device if provider.kind == "gpu" else 0)]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=TRIAL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Trial(name, "fails", f"no answer in {TRIAL_LIMIT_S} s")
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Trial(name, "fails", words[0].removeprefix("vit-doctor: "))
    return Trial(**json.loads(done.stdout))


def try_provider(model: str, provider: str, device: int) -> Trial:
    """Label images on a provider, hold the logits against the CPU's, and time one image."""
    start = time.perf_counter()
    with Engine.open(model, provider=provider, device=device, max_batch=1) as engine:
        opened = time.perf_counter() - start
        contract = engine.contract
        images = sample_pixels(contract.input)
        logits = engine.run(images)
        times = []
        for _ in range(TRIAL_RUNS):
            start = time.perf_counter()
            engine.run(images[:1])
            times.append((time.perf_counter() - start) * 1e3)
    with Engine.open(model, provider="cpu") as reference:
        expected = reference.run(images)
    check_parity(
        logits,
        expected,
        BOUNDS["fp16"],
        score=contract.output.score,
        name=provider,
        reference="the CPU",
        cure="use --provider cpu",
        known=contract.parity,
    )
    name = f"{contract.identity.model} {contract.identity.precision}"
    milliseconds = statistics.median(times)
    detail = f"{name}: opened in {opened:.1f} s, {milliseconds:.2f} ms an image"
    return Trial(provider, "works", detail, milliseconds=milliseconds)


def _wanted(built_with: tuple[str, ...]) -> Iterator[Wanted]:
    """Yield what the GPU providers are linked to, each library once."""
    by: dict[str, list[str]] = {}
    for provider in reversed(built_with):
        library = obstacles.provider_library(provider)
        if library.exists():
            for name in libraries.wanted(library):
                by.setdefault(name, []).append(provider)
    if "cuda" in built_with:
        for name in obstacles.OPTIONAL_LIBRARIES:
            by.setdefault(name, []).append("cuda, optional")
    for name, users in by.items():
        found = libraries.load(name)
        yield Wanted(name, tuple(users), found.path, found.version, found.problem)


def _engine_cache() -> str:
    try:
        folder = engine_cache.root()
    except ProviderError as e:
        return str(e)
    engines = [p for p in folder.glob(f"*/{engine_cache.SEAL}") if p.is_file()]
    size = 0
    with contextlib.suppress(OSError):
        size = sum(f.stat().st_size for e in engines for f in e.parent.iterdir())
    return f"{folder}: {len(engines)} TensorRT engines, {size / 1e6:.0f} MB"


def _artefact(model: str) -> tuple[str | None, str | None]:
    """Return what the report says of the artefact's content, and its fault."""
    path = path_from_name(model)
    try:
        contract = read_contract(path)
    except ArtefactError:  # as each trial says
        return None, None
    if contract.content_sha256 is None:
        return f"{model}: has no sha256 of its content to be held against", None
    try:
        check_integrity(path, contract)
    except ArtefactError as e:
        return f"{model}: damaged or altered", str(e)
    return f"{model}: whole, as it was exported", None


def _problems(owners: list[str], trials: tuple[Trial, ...], driver: Driver | None) -> Iterator[str]:
    has_gpu = driver is not None and bool(driver.gpus)
    if len(owners) > 1:
        line = obstacles.reinstall(owners, "gpu" if has_gpu else "cpu")
        yield f"{obstacles.overwritten(owners)}; {line}"
    wanted = {"cpu", "cuda"} if has_gpu else {"cpu"}
    for trial in trials:
        if trial.state == "fails" or (trial.state == "absent" and trial.provider in wanted):
            cure = f"; {trial.cure}" if trial.cure else ""
            yield f"{trial.provider}: {trial.detail}{cure}"


def _advice(trials: tuple[Trial, ...], cpu: Cpu) -> Iterator[str]:
    working = {trial.provider for trial in trials if trial.state == "works"}
    best = next((p.name for p in PROVIDERS.values() if p.kind == "gpu" and p.name in working), None)
    if best:
        yield f"for this GPU: vit-export --fp16, vit-infer --provider {best}"
    if cpu.int8:
        yield "for this CPU: vit-export --int8 is the fastest, --fp16 labels as PyTorch does"
    else:
        yield (
            "for this CPU: vit-export --fp16; without int8 instructions --int8 is faster by "
            "a third, and labels less exactly"
        )
