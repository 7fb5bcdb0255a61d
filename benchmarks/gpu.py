"""Builds, checks and measures the CUDA and TensorRT path on an NVIDIA GPU, in under 8 minutes.

    python benchmarks/gpu.py [--data DEIT_FOLDER IMAGES] [-o RESULT.json]

ViT-B/16 with seeded random weights for speed (weights do not change it), in FP16; parity on random
images, and on photographs where --data names a DeiT or ViT checkpoint and a folder of them. Each
stage has a process and a time limit of its own; what fails is a row with its reason. Needs the
extras gpu and export, and no network.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comparison import machine

HERE = Path(__file__).resolve().parent
BUDGET_S = 470.0
AIMS = {"latency_ms": 0.7, "images_s": 13000.0}
"""Batch 1, and the best of batch 64 and above; for an H200."""

Row = dict[str, Any]


CHECKS = ("check cuda", "check tensorrt", "photographs cuda", "full memory")
"""Stages whose numbers are right or wrong, rather than fast or slow."""


class Bench:
    """Runs stages within one budget and keeps the result on disk after each."""

    def __init__(self, output: Path, budget: float) -> None:
        self.output, self.end = output, time.monotonic() + budget
        self.result: Row = {
            "schema": 1,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.card(threads=1),
            "stages": {},
        }

    def stage(self, name: str, limit: float, *command: str | Path) -> Row:
        """Run one stage; its JSON, or {"failed": why}."""
        left = self.end - time.monotonic()
        start = time.monotonic()
        print(f"{name} ... ", end="", flush=True)
        if left < 5:
            found: Row = {"failed": "no time left"}
        else:
            found = _ran([str(part) for part in command], min(limit, left))
        found["seconds"] = round(time.monotonic() - start, 1)
        print(found.get("failed") or found.get("absent") or f"{found['seconds']} s", flush=True)
        self.result["stages"][name] = found
        self.output.write_text(json.dumps(self.result, indent=1) + "\n")
        return found


def main() -> int:
    """Run every stage; 0 if all that can run here ran and was right, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", nargs=2, type=Path, metavar=("CHECKPOINT", "IMAGES"))
    parser.add_argument("--model", default="ViT-B/16", help="ViT-B/16 (default) or ViT-Ti/16")
    parser.add_argument("-o", "--output", type=Path, help="default: benchmarks/results/gpu-NAME")
    arguments = parser.parse_args()
    name = (machine.gpu() or "none").split(",")[0].lower().replace(" ", "-")
    output = arguments.output or HERE / "results" / f"gpu-{name}.json"
    bench = Bench(output, BUDGET_S)
    with tempfile.TemporaryDirectory() as scratch:
        run_all(bench, Path(scratch), arguments.model, arguments.data)
    bench.result["verdict"] = verdict(bench.result["stages"])
    output.write_text(json.dumps(bench.result, indent=1) + "\n")
    print("\n".join(table(bench.result)))
    print(f"written: {output}")
    stages = bench.result["stages"].values()
    return 1 if any("failed" in s or s.get("ok") is False for s in stages) else 0


def run_all(bench: Bench, scratch: Path, model: str, data: list[Path] | None) -> None:
    """Run the stages, what decides most first."""
    python, stages = sys.executable, HERE / "gpu_stages.py"
    half, whole, folder = scratch / "fp16.onnx", scratch / "fp32.onnx", scratch / "checkpoint"
    bench.stage("doctor", 60, python, "-m", "vit_engine.commands.doctor", "--json")
    bench.stage("weights", 60, python, "-m", "comparison.random_vit", model, folder)
    exporter: list[str | Path] = [python, "-m", "vit_export.cli"]
    for path in (half, whole):
        export = [*exporter, folder, "--no-verify", f"--{path.stem}"]
        bench.stage(f"export {path.stem}", 60, *export, "-o", path)

    def run(label: str, limit: float, stage: str, *options: str | Path) -> None:
        bench.stage(label, limit, python, stages, stage, *options)

    run("check cuda", 60, "check", half, whole, "cuda")
    run("speed cuda, graphs", 60, "speed", half, "cuda", "graphs")
    run("speed cuda, no graphs", 60, "speed", half, "cuda", "plain")
    run("ceiling", 40, "ceiling")
    run("eager fp16", 60, "pytorch", folder, "eager")
    run("attention", 60, "variants", half)
    run("profile at 64", 40, "profile", half, "64")
    run("profile at 1", 40, "profile", half, "1")
    if data:
        checkpoint, images = data
        real = [scratch / "real-fp16.onnx", scratch / "real-fp32.onnx"]
        for path in real:
            precision = path.stem.removeprefix("real-")
            export = [*exporter, checkpoint, "--no-verify", f"--{precision}"]
            bench.stage(f"export real {precision}", 60, *export, "-o", path)
        run("photographs cuda", 60, "photographs", *real, images, "cuda")
    run("full memory", 40, "memory", half)
    run("torch.compile fp16", 90, "pytorch", folder, "default")
    run("torch.compile fp16, max-autotune", 150, "pytorch", folder, "max-autotune")
    run("check tensorrt", 150, "check", half, whole, "tensorrt")
    run("speed tensorrt", 150, "speed", half, "tensorrt", "plain")


def verdict(stages: Row) -> Row:
    """Hold what was measured against AIMS and torch.compile; None for what was not measured."""
    ours = rates(stages.get("speed cuda, graphs", {}))
    tensorrt = rates(stages.get("speed tensorrt", {}))
    tuned = rates(stages.get("torch.compile fp16, max-autotune", {}))
    best = max((r for b, r in (*ours.items(), *tensorrt.items()) if b >= 64), default=None)
    latency = min((1e3 / r[1] for r in (ours, tensorrt) if 1 in r), default=None)
    return {
        "latency_ms": latency,
        "images_s": best,
        "latency_met": latency is not None and latency < AIMS["latency_ms"],
        "images_met": best is not None and best > AIMS["images_s"],
        "ahead_of_max_autotune": best > tuned[64] if best and 64 in tuned else None,
    }


def rates(stage: Row) -> dict[int, float]:
    """Return images a second by batch; the pipelined rate where there is one."""
    return {
        row["batch"]: max(row["run"]["images_s"], row.get("submit_images_s", 0.0))
        if row["batch"] > 1
        else row["run"]["images_s"]
        for row in stage.get("rows", ())
    }


def table(result: Row) -> list[str]:
    """Return the measurements for a person."""
    stages = result["stages"]
    lines = ["", result["machine"]["gpu"] or "no GPU", "", f"{'images a second':<36}"]
    for name, stage in stages.items():
        if found := rates(stage):
            cells = "  ".join(f"{batch}: {rate:,.0f}" for batch, rate in found.items())
            lines.append(f"  {name:<34}{cells}")
    for name, row in stages.get("attention", {}).items():
        if isinstance(row, dict):
            cells = row.get("failed") or "  ".join(f"{b}: {r:,.0f}" for b, r in rates(row).items())
            lines.append(f"  {name:<34}{cells}")
    for name, rate in stages.get("ceiling", {}).get("tflops", {}).items():
        lines.append(f"  {name:<34}{rate:,.0f} TFLOP/s")
    checks = [name for name in CHECKS if name in stages]
    lines += [f"{name}: {json.dumps(stages[name])}" for name in checks]
    failed = [f"failed: {name}: {s['failed']}" for name, s in stages.items() if "failed" in s]
    failed += [f"absent: {name}: {s['absent']}" for name, s in stages.items() if "absent" in s]
    return [*lines, *failed, f"verdict: {json.dumps(result.get('verdict'))}"]


def _ran(command: list[str], limit: float) -> Row:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False, cwd=HERE
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {limit:.0f} s"}
    if done.returncode and not done.stdout.startswith("{"):
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        absent = "is not there: " in words[0]
        return {"absent" if absent else "failed": words[0][:400]}
    try:
        found: Row = json.loads(done.stdout)
    except ValueError:
        found = {"said": done.stderr.strip()[-400:]}
    if done.stderr.strip():
        found.setdefault("stderr", done.stderr.strip()[-1000:])
    return found


if __name__ == "__main__":
    sys.exit(main())
