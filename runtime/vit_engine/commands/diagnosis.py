"""Looks at all that the runtime needs of a machine, and tries each provider on a model."""

import pickle
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vit_engine
from vit_engine.errors import MachineError, ProviderError, UsageError, format_limit, one_line
from vit_engine.image_model import ImageModel
from vit_engine.machine import nvidia, processor
from vit_engine.machine.nvidia import Driver
from vit_engine.machine.processor import Cpu
from vit_engine.machine.worker import Channel, EndedError, Worker
from vit_engine.options import Compute, EngineOptions
from vit_engine.outputs.comparison import Comparison
from vit_engine.outputs.parity import BOUNDS, ROUNDED, check_parity, sample_pixels
from vit_engine.providers import availability, engine_cache
from vit_engine.providers.provider import Provider
from vit_engine.providers.sessions import EXECUTION_PROVIDERS
from vit_engine.providers.table import PROVIDERS

TRIAL_LIMIT_S = 900  # TensorRT builds an engine in it
TRIAL_RUNS = 10
MARGIN = 1.05
"""How much faster than the cpu provider another must be before it is named."""


@dataclass(frozen=True)
class Trial:
    """One provider: "works", "absent" or "fails"; then why, and what to do."""

    provider: str
    state: str
    detail: str
    fix: str | None = None
    compute: Compute | None = None  # where the provider leaves a choice
    milliseconds: float | None = None  # median, one image
    images_per_second: float | None = None  # in batches of SAMPLES, on a CPU
    agreement: float | None = None  # with the cpu provider, as Comparison's; None for values
    difference: float | None = None  # largest of a logit or number, as a share of their range

    @property
    def name(self) -> str:
        """The provider, and its arithmetic where that may be chosen."""
        return f"{self.provider} {self.compute}" if self.compute else self.provider


@dataclass(frozen=True)
class Report:
    """All that vit-doctor tells. `problems` are faults; a GPU that was never there is none."""

    version: str
    python: str
    system: str
    onnxruntime: str | None
    packages: tuple[str, ...]  # that own the onnxruntime module
    tested: tuple[str, ...]  # packages that models run with, with the versions that were tested
    built_with: tuple[str, ...]  # providers
    cpu: Cpu
    threads: int
    driver: Driver | None
    engine_cache: str
    trials: tuple[Trial, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...]


def examine(model: str, device: int) -> Report:
    """Look at everything, and run `model` on each provider that may be there."""
    owners = availability.distributions()
    driver, cpu = nvidia.driver(), processor.cpu()
    built_with: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    problems: list[str] = []
    version = None
    try:
        ort = availability.import_onnxruntime()
    except ProviderError as e:
        problems.append(str(e))
    else:
        version, available = str(ort.__version__), ort.get_available_providers()
        built_with = tuple(n for n, p in EXECUTION_PROVIDERS.items() if p in available)
        trials = tuple(
            _trial(provider, compute, model, device)
            for provider in reversed(PROVIDERS.values())
            for compute in _choices(provider)
        )
        problems += _problems(owners, trials, driver)
    return Report(
        version=vit_engine.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        onnxruntime=version,
        packages=tuple(owners),
        tested=tuple(availability.tested_versions()),
        built_with=built_with,
        cpu=cpu,
        threads=processor.usable_cores(),
        driver=driver,
        engine_cache=_engine_cache(),
        trials=trials,
        problems=tuple(problems),
        advice=(*advice_for(trials, cpu), *fastest(trials, model)),
    )


def _choices(provider: Provider) -> tuple[Compute | None, ...]:
    return provider.computes if len(provider.computes) > 1 else (None,)


def _trial(provider: Provider, compute: Compute | None, model: str, device: int) -> Trial:
    """Run the model in a process of its own: a driver's library may crash or hang."""
    name = provider.name
    options = EngineOptions(name, device=device if provider.is_gpu else 0, compute=compute)
    failed = partial(Trial, name, "fails", compute=compute)
    if found := provider.unavailable_reason(options):
        fix = None if found.fix.startswith(availability.NO_GPU) else found.fix
        return Trial(name, "absent", found.reason, fix, compute)
    try:
        with Worker(serve_trials, purpose="try a provider in") as child:
            child.wait_until_ready()
            child.ask(pickle.dumps((model, options)))
            trial: Trial = pickle.loads(child.answer(TRIAL_LIMIT_S))
            return trial
    except TimeoutError:
        return failed(f"no answer in {TRIAL_LIMIT_S} s")
    except EndedError as e:
        return failed(f"ended the process that tried it ({e})")
    except MachineError as e:
        return failed(str(e))


def serve_trials(channel: Channel) -> None:
    """Try what the parent asks for: the life of the child."""
    for request in channel.requests():
        model, options = pickle.loads(request)
        try:
            trial = try_provider(model, options)
        except Exception as e:  # noqa: BLE001  of libraries too, which raise nearly anything
            message = format_limit(e) or one_line(e, 1000)
            trial = Trial(options.provider, "fails", message, compute=options.compute)
        channel.answer(pickle.dumps(trial))


def try_provider(model: str, options: EngineOptions) -> Trial:
    """Run images on a provider, hold its outputs against the CPU's, and time it."""
    provider, compute = options.provider, options.compute
    on_cpu = not options.may_use_gpu
    start = time.perf_counter()
    try:
        # Of a GPU the answer's time alone: no large engine.
        vit = ImageModel.load(model, options, max_batch=None if on_cpu else 1)
    except UsageError as e:  # the artefact is not for this provider
        return Trial(provider, "absent", str(e), compute=compute)
    with vit:
        opened, run = time.perf_counter() - start, vit.engine.run
        contract = vit.contract
        images = sample_pixels(contract.input)
        logits = run(images)
        one = _median_time(run, images[:1])
        rate = len(images) / _median_time(run, images) if on_cpu else None
    with ImageModel.load(model, provider="cpu") as reference:
        expected = reference.engine.run(images)
    precision = contract.identity.precision
    check_parity(
        logits,
        expected,
        ROUNDED if precision == "int8" or compute == "bf16" else BOUNDS["fp16"],
        output=vit.output,
        name=provider,
        reference="the CPU",
        fix="use --provider cpu",
        known=contract.parity,
    )
    compared = Comparison(vit.output)
    compared.add(logits, expected)
    difference = compared.max_abs_diff / max(compared.range, 1e-12)
    message = [
        f"{contract.identity.model} {precision}: opened in {opened:.1f} s",
        f"{one * 1e3:.2f} ms an image",
    ]
    if rate is not None:
        message.append(f"{rate:,.{1 if rate < 100 else 0}f} images/s in batches of {len(images)}")
    if provider != "cpu":
        message.append(
            f"beside the cpu provider {compared}, {vit.output.element}s within "
            f"{difference:.1g} of their range"
        )
    return Trial(
        provider,
        "works",
        ", ".join(message),
        compute=compute,
        milliseconds=one * 1e3,
        images_per_second=rate,
        agreement=compared.agreement,
        difference=difference,
    )


def _median_time(run: Callable[[NDArray[Any]], object], images: NDArray[np.uint8]) -> float:
    """Return the seconds that a run takes, once it has run before."""
    run(images)
    times = []
    for _ in range(TRIAL_RUNS):
        start = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _engine_cache() -> str:
    try:
        return str(engine_cache.root().parent)
    except ProviderError as e:
        return str(e)


def _problems(owners: list[str], trials: tuple[Trial, ...], driver: Driver | None) -> Iterator[str]:
    has_gpu = driver is not None and bool(driver.gpus)
    if len(owners) > 1:
        line = availability.reinstall(owners, "gpu" if has_gpu else "cpu")
        yield f"{availability.overwritten(owners)}; {line}"
    wanted = {"cpu", "cuda"} if has_gpu else {"cpu"}
    faults: dict[str, list[str]] = {}  # what is wrong with a model is so on every provider
    for trial in trials:
        if trial.state == "fails" or (trial.state == "absent" and trial.provider in wanted):
            fix = f"; {trial.fix}" if trial.fix else ""
            faults.setdefault(f"{trial.detail}{fix}", []).append(trial.name)
    for fault, names in faults.items():
        yield f"{', '.join(names)}: {fault}"


def advice_for(trials: tuple[Trial, ...], cpu: Cpu) -> Iterator[str]:
    """Say which file to export for this machine, as the README does."""
    working = {trial.provider for trial in trials if trial.state == "works"}
    best = next((p.name for p in PROVIDERS.values() if p.is_gpu and p.name in working), None)
    if best:
        yield f"for this GPU: vit-export --fp16, vit-infer --provider {best}"
    int8 = "--int8 is up to 2.4 times" if cpu.int8 else "without VNNI --int8 is 1.3 times"
    yield (
        f"for this CPU: vit-export --fp16 labels as PyTorch does; {int8} as fast, and about one "
        "label in a hundred differs"
    )


def fastest(trials: tuple[Trial, ...], model: str) -> Iterator[str]:
    """Name the fastest way to run this model on this CPU, where the cpu provider is not."""
    rates = {trial: trial.images_per_second for trial in trials if trial.images_per_second}
    base = next((rate for trial, rate in rates.items() if trial.provider == "cpu"), None)
    best = max(rates, key=lambda trial: rates[trial], default=None)
    if base is None or best is None or rates[best] < MARGIN * base:
        return
    option = f" --compute {best.compute}" if best.compute else ""
    yield (
        f"for this model on this CPU: vit-infer -m {shlex.quote(model)} --provider "
        f"{best.provider}{option}, {rates[best] / base:.2f} times the images of --provider cpu"
    )
