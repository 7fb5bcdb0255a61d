"""The stages of gpu.py, each run in a process of its own: paths in, one JSON document out."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_variants import VARIANTS, session_of_variant
from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.providers.buckets import BucketSession, buckets_up_to

Result = dict[str, Any]
Logits = NDArray[np.float32]

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TURN_S = 0.7
"""Seconds of each measurement, after a warm-up of a third of that."""


def speed(model: str, provider: str, graphs: str) -> Result:
    """Engine throughput by batch, through `run` and `submit`; latency and memory."""
    before = used_memory()
    start = time.perf_counter()
    rows = []
    with Engine.open(
        model, provider=provider, max_batch=BATCHES[-1], cuda_graphs=graphs == "graphs"
    ) as engine:
        opened = time.perf_counter() - start
        for batch in BATCHES:
            pixels = noise(model, batch)
            times = timed(partial(engine.run, pixels))
            rate = pipelined(engine, pixels)
            rows.append({"batch": batch, "run": spread(times, batch), "submit_images_s": rate})
        memory = used_memory() - before
    return {"opened_s": opened, "rows": rows, "memory_mib": memory}


def variants(model: str) -> Result:
    """The attention operators and settings that might be faster on CUDA, at batch 1 and 64."""
    contract = read_contract(Path(model))
    expected = None
    found: Result = {}
    for name, (attention, options, settings) in VARIANTS.items():
        try:
            session = session_of_variant(model, attention, options, settings)
            runner = BucketSession(
                session, contract, device=("cuda", 0), buckets=buckets_up_to(64), graphs=True
            )
            pixels = noise(model, 64)
            logits = runner.run(pixels)
            expected = logits if expected is None else expected
            rows = []
            for n in (1, 64):
                times = timed(partial(runner.run, pixels[:n]))
                rows.append({"batch": n, "run": spread(times, n)})
            difference = float(np.abs(logits - expected).max())
            found[name] = {"max_difference": difference, "rows": rows}
            runner.close()
        except Exception as e:  # noqa: BLE001  one that the library refuses is a row with its words
            found[name] = {"failed": " ".join(str(e).split())[:300]}
    return found


def check(half: str, whole: str, provider: str) -> Result:
    """The engine's logits against fp32 on the CPU, from buffers that others have used."""
    pixels = pictures(half, 48)
    with Engine.open(whole, provider="cpu") as reference:
        expected = reference.run(pixels)
    with Engine.open(half, provider=provider, max_batch=16) as engine:
        single = np.concatenate([engine.run(image[None]) for image in pixels])
        wrong = mixed_up(engine, pixels, single)
        everything = engine.run(pixels)
    reach = float(np.ptp(expected))
    apart = np.abs(expected[:, None] - expected[None]).max(2) + np.eye(len(pixels)) * reach
    return {
        "images": len(pixels),
        "max_difference": float(np.abs(everything - expected).max()),
        "range": reach,
        "nearest_answers_differ_by": float(apart.min()),
        "top1_agreement": float((everything.argmax(1) == expected.argmax(1)).mean()),
        "batches_with_another_answer": wrong,
        "ok": bool(np.abs(everything - expected).max() < 1e-2 * reach and not wrong),
    }


def photographs(model: str, whole: str, folder: str, provider: str) -> Result:
    """Top-1 agreement and logits on real photographs against fp32 on the CPU."""
    from PIL import Image

    from vit_engine.images.preprocess import pixels_from_image

    contract = read_contract(Path(model))
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    pixels = np.stack(
        [pixels_from_image(Image.open(p), contract.preprocessing) for p in paths[:200]]
    )
    with Engine.open(whole, provider="cpu") as reference:
        expected = reference.run(pixels)
    with Engine.open(model, provider=provider, max_batch=64) as engine:
        found = engine.run(pixels)
    return {
        "images": len(pixels),
        "top1_agreement": float((found.argmax(1) == expected.argmax(1)).mean()),
        "max_difference": float(np.abs(found - expected).max()),
        "range": float(np.ptp(expected)),
    }


def memory(model: str) -> Result:
    """What happens when the GPU fills up: the same labels from smaller batches."""
    import torch

    pixels = pictures(model, 1024)
    with Engine.open(model, provider="cuda", max_batch=64) as engine:
        expected = engine.run(pixels)
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - 2**31, dtype=torch.uint8, device="cuda")  # leaves 2 GiB
    with Engine.open(model, provider="cuda", max_batch=1024) as engine:
        found = engine.run(pixels)
        batch = engine.max_batch
    del hog
    same = bool((found.argmax(1) == expected.argmax(1)).all())
    return {"batch_before": 1024, "batch_after": batch, "same_labels": same, "ok": same}


def pytorch(folder: str, mode: str) -> Result:
    """Eager or compiled fp16 PyTorch; its input is on the GPU already, which favours it."""
    import torch
    import transformers

    model = transformers.ViTForImageClassification.from_pretrained(
        folder, dtype=torch.float16, attn_implementation="sdpa"
    )
    model.eval().cuda()
    run: Any = model
    if mode != "eager":
        run = torch.compile(model, dynamic=False, mode=None if mode == "default" else mode)
    rows = []
    size: Any = model.config.image_size
    # Compiling takes a minute a shape: the two that decide, and the largest where it is cheap.
    for batch in BATCHES if mode == "eager" else (1, 64, 256)[: 2 if mode != "default" else 3]:
        pixels = torch.randn(batch, 3, size, size, dtype=torch.float16, device="cuda")

        def once(pixels: Any = pixels) -> None:
            run(pixel_values=pixels)
            torch.cuda.synchronize()

        with torch.inference_mode():
            rows.append({"batch": batch, "run": spread(timed(once), batch)})
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {"torch": torch.__version__, "rows": rows, "memory_mib": peak}


def ceiling() -> Result:
    """The fp16 products a GPU really reaches: a large one, and the model's own at batch 64."""
    import torch

    shapes = {
        "8192x8192x8192": (8192, 8192, 8192),
        "fc1 of ViT-B at batch 64": (64 * 197, 768, 3072),
        "fc2 of ViT-B at batch 64": (64 * 197, 3072, 768),
        "fc1 of ViT-B at batch 1": (197, 768, 3072),
    }
    found = {}
    for name, (m, k, n) in shapes.items():
        a = torch.randn(m, k, dtype=torch.float16, device="cuda")
        b = torch.randn(k, n, dtype=torch.float16, device="cuda")

        def once(a: Any = a, b: Any = b) -> None:
            for _ in range(20):
                a @ b
            torch.cuda.synchronize()

        found[name] = 20 * 2 * m * k * n / statistics.median(timed(once)) / 1e12
    return {"tflops": found}


def profile(model: str, batch: str) -> Result:
    """Where the GPU's time goes, by kernel, without CUDA graphs."""
    import torch

    pixels = noise(model, int(batch))
    with Engine.open(model, provider="cuda", max_batch=int(batch), cuda_graphs=False) as engine:
        for _ in range(5):
            engine.run(pixels)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
            for _ in range(10):
                engine.run(pixels)
    rows = [
        {"kernel": e.key[:120], "calls": e.count // 10, "microseconds": e.device_time_total / 10}
        for e in record.key_averages()
    ]
    rows.sort(key=lambda row: -row["microseconds"])
    total = sum(row["microseconds"] for row in rows)
    return {"batch": int(batch), "microseconds": total, "kernels": rows[:20]}


STAGES: dict[str, Callable[..., Result]] = {
    f.__name__: f for f in (speed, variants, check, photographs, memory, pytorch, ceiling, profile)
}


def noise(model: str, count: int) -> NDArray[np.uint8]:
    """Return seeded random images of the model's size."""
    given = read_contract(Path(model)).input
    shape = (count, given.height, given.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def pictures(model: str, count: int) -> NDArray[np.uint8]:
    """Return seeded images of coarse coloured cells, whose logits differ plainly."""
    given = read_contract(Path(model)).input
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    rows, columns = (
        np.arange(given.height) * 4 // given.height,
        np.arange(given.width) * 4 // (given.width),
    )
    return coarse[:, rows][:, :, columns]


def timed(once: Callable[[], object]) -> list[float]:
    """Return the seconds of each call within TURN_S, after a warm-up."""
    for limit in (TURN_S / 3, TURN_S):
        times: list[float] = []
        end = time.perf_counter() + limit
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            once()
            times.append(time.perf_counter() - start)
    return times


def spread(times: list[float], batch: int) -> Result:
    """Return milliseconds of a batch (p50, p90, p99), and images a second at the median."""
    p50, p90, p99 = (float(p) for p in np.percentile(times, (50, 90, 99)) * 1e3)
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "images_s": batch / p50 * 1e3}


def pipelined(engine: Engine, pixels: NDArray[np.uint8]) -> float:
    """Return images a second with the copies of one batch under the compute of another."""
    end = time.perf_counter() + TURN_S
    start, done = time.perf_counter(), 0
    waiting = [engine.submit(pixels) for _ in range(engine.in_flight + 1)]
    while waiting:
        waiting.pop(0).result()
        done += len(pixels)
        if time.perf_counter() < end:
            waiting.append(engine.submit(pixels))
    return done / (time.perf_counter() - start)


def mixed_up(engine: Engine, pixels: NDArray[np.uint8], expected: Logits) -> int:
    """Count batches that got other images' answers, asked by threads in all sizes at once."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        for _ in range(100):
            picked = order.integers(0, len(pixels), int(order.integers(1, 17)))
            found = engine.run(pixels[picked])
            near = np.abs(found[:, None] - expected[None]).max(2).argmin(1)
            wrong.extend([1] * int((near != picked).any()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(wrong)


def used_memory() -> float:
    """Return the MiB of GPU 0 that are in use, by anyone; 0 where nvidia-smi is missing."""
    line = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0.0


if __name__ == "__main__":
    # What a library prints on stdout goes to stderr: stdout is the result's.
    result_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(STAGES[sys.argv[1]](*sys.argv[2:]), result_file)
