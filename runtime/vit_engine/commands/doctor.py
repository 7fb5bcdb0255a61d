"""vit-doctor: what this machine can run, and the line to paste for what it cannot."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from vit_engine.artefact import metadata
from vit_engine.cli import exit_codes
from vit_engine.cli.parser import Parser, whole_number
from vit_engine.commands.diagnosis import Report, examine
from vit_engine.errors import MachineError
from vit_engine.machine import processor
from vit_engine.machine.nvidia import Driver


def main() -> int:
    """Run vit-doctor; returns the exit code."""
    parser = Parser(
        "vit-doctor",
        description="Tell what this machine can run, and how to fix what it cannot.",
        epilog="exit codes: 0 done, nothing is wrong; 1 unforeseen; 2 bad usage, or no artefact; 4 "
        "a part of the machine or the artefact does not work; 130/143 interrupted",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_model(default=metadata.DEMO, message="artefact to try (default: the bundled demo)")
    parser.add_argument(
        "--device",
        type=whole_number("the number of a GPU", minimum=0),
        default=0,
        metavar="N",
        help="GPU to try (default %(default)s)",
    )
    arguments = parser.parse()
    metadata.read_contract(metadata.path_from_name(arguments.model))  # or nothing can be tried
    report = examine(arguments.model, arguments.device)
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(text(report)) + "\n")
    return MachineError.exit_code if report.problems else 0


def text(report: Report) -> Iterator[str]:
    """Yield the report's lines for a person."""
    yield f"vit-engine {report.version}, Python {report.python}, {report.system}"
    yield ""
    packages = ", ".join(report.packages) or "not installed"
    built = f", built with {', '.join(report.built_with)}" if report.built_with else ""
    yield _row("ONNX Runtime", packages + built)
    for n, package in enumerate(report.tested):
        yield _row("" if n else "Versions", package)
    cpu = report.cpu
    features = ", ".join(processor.CPU_FEATURES[f] for f in cpu.features) or "no vector extensions"
    yield _row("CPU", f"{cpu.name}: {features}")
    limits = [f"{cpu.affinity} of {cpu.cores} cores"]
    if cpu.quota is not None:
        limits.append(f"a quota of {cpu.quota:g}")
    limits.append(f"{_gib(cpu.memory)} memory")
    if cpu.memory_limit is not None:
        limits.append(f"limited to {_gib(cpu.memory_limit)}")
    yield _row("", f"{', '.join(limits)}; {report.threads} compute threads")
    yield from _driver_rows(report.driver)
    yield _row("Engine cache", report.engine_cache)
    yield ""
    for trial in report.trials:
        yield f"{trial.name:<15}{trial.state:<8}{trial.detail}"
        if trial.fix:
            yield f"{'':<23}to fix it: {trial.fix}"
    if report.problems or report.advice:
        yield ""
    yield from (f"problem: {problem}" for problem in report.problems)
    yield from report.advice


def _driver_rows(driver: Driver | None) -> Iterator[str]:
    if driver is None:
        yield _row("NVIDIA", "no driver (libcuda.so.1)")
        return
    supports = ".".join(map(str, driver.cuda))
    state = f": {driver.problem}" if driver.problem else ""
    yield _row("NVIDIA", f"driver {driver.version or '?'}, CUDA up to {supports}{state}")
    for n, gpu in enumerate(driver.gpus):
        capability = ".".join(map(str, gpu.capability))
        yield _row("", f"GPU {n}: {gpu.name}, {_gib(gpu.memory)}, compute capability {capability}")


def _row(name: str, value: str) -> str:
    return f"{name:<14}{value}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    sys.exit(exit_codes.start("vit-doctor", "vit_engine.commands.doctor"))
