"""Long and rough: kills, signals, a hundred thousand files, fuzzed images; minutes in all."""

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import EXAMPLES, ROOT
from vit_engine.errors import ImageError
from vit_engine.images.decode import image_from_bytes
from vit_engine.images.preprocess import rgb_from_image

pytestmark = pytest.mark.slow

PROGRAM = str(Path(sys.executable).with_name("vit-infer"))
COMMAND = [PROGRAM, "-m", "demo", "--provider", "cpu", "-q"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A thousand files, every tenth of them bad."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(1000):
        source = EXAMPLES[i % len(EXAMPLES)]
        path = folder / f"{i:04}{source.suffix}"
        if i % 10 == 7:
            path.write_bytes(source.read_bytes()[: 50 * i])
        else:
            shutil.copy(source, path)
    return folder


@pytest.fixture(scope="module")
def clean(folder, tmp_path_factory) -> tuple[bytes, float]:
    """The rows of an undisturbed run, and how many seconds it took."""
    out = tmp_path_factory.mktemp("clean") / "rows.jsonl"
    start = time.monotonic()
    assert subprocess.run([*COMMAND, folder, "-o", out], check=False, timeout=300).returncode == 3
    return out.read_bytes(), time.monotonic() - start


def run_for(seconds: float, line: list, number: int, ends: set[int]) -> None:
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as run:
        try:
            run.wait(seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(number)
        assert run.wait(20) in ends


@pytest.mark.alone  # killed at a moment of the time that it took before
def test_rows_survive_15_kills(folder, clean, tmp_path):
    """Killed at 15 random moments and resumed each time, the rows are those of a clean run."""
    expected, seconds = clean
    out = tmp_path / "rows.jsonl"
    moments = random.Random(4)
    line = [*COMMAND, folder, "-o", out, "--resume"]
    partial, state = tmp_path / "rows.jsonl.partial", tmp_path / "rows.jsonl.partial.state"
    kept = [0]
    longest = 0.7 + seconds / 3  # follows the machine, whose speed may change
    for _ in range(15):
        run_for(moments.uniform(0.05, longest), line, signal.SIGKILL, {-9, 3})
        if out.exists():
            assert out.read_bytes() == expected
            out.unlink()
            out.with_name("rows.jsonl.partial.state").unlink(missing_ok=True)
            longest /= 1.2
        elif state.exists():
            synced = json.loads(state.read_text())
            assert expected.startswith(partial.read_bytes()[: synced["size"]])
            kept.append(synced["rows"])
            longest *= 1.2 if kept[-1] == kept[-2] else 1
        else:
            longest *= 1.2
    assert subprocess.run(line, check=False, timeout=300).returncode == 3
    assert out.read_bytes() == expected
    assert len(set(kept[1:])) > 2  # some kills did come in the middle


@pytest.mark.alone  # killed at a moment of the time that it took before
def test_rows_survive_8_terminations(folder, clean, tmp_path):
    expected, seconds = clean
    out = tmp_path / "rows.jsonl"
    moments = random.Random(5)
    line = [*COMMAND, folder, "-o", out, "--resume"]
    for _ in range(8):
        # Before Python has installed a handler, the signal ends it as any process.
        run_for(moments.uniform(0.3, 0.7 + seconds / 3), line, signal.SIGTERM, {143, -15, 3})
        if out.exists():
            assert out.read_bytes() == expected
            out.unlink()
            out.with_name("rows.jsonl.partial.state").unlink(missing_ok=True)
    assert subprocess.run(line, check=False, timeout=300).returncode == 3
    assert out.read_bytes() == expected


def test_100_000_files_take_no_more_memory_than_1_000(tmp_path):
    """Hard links to a damaged image: what is measured is discovery and rows, not the model."""
    peaks = {}
    for count in (1000, 100_000):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for i in range(count):
            if i % 30_000 == 0:  # some file systems allow 65,000 links to a file
                source = tmp_path / f"source{count}-{i}"
                source.write_bytes(b"\xff\xd8\xff")
            os.link(source, folder / f"image-{i:06}.jpg")
        with subprocess.Popen(
            [*COMMAND, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as run:
            assert run.stdout
            rows = sum(1 for _ in run.stdout)
            _, status, usage = os.wait4(run.pid, 0)
            run.returncode = os.waitstatus_to_exitcode(status)
        assert (rows, run.returncode) == (count, 3)
        peaks[count] = usage.ru_maxrss / 1024
    print(f"peak MiB: {peaks}")
    assert peaks[100_000] < peaks[1000] + 40  # the names of one folder, some 200 bytes each


def test_fuzzed_images_decode_or_fail_with_a_code():
    """Thirty seconds of damaged images through the decoder, under an address space limit."""
    seed = time.time_ns()
    code = f"""if True:
        import resource, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT / "tests")!r}]
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)
        from test_endurance import fuzz
        print(fuzz({seed}, 30))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    print(done.stdout)


def fuzz(seed: int, seconds: float) -> dict[str, int]:
    """Damage real images of every format at random; return how often each outcome came."""
    rng = random.Random(seed)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    seeds = [path.read_bytes() for path in EXAMPLES]
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        seeds.append(file.getvalue())
    outcomes: dict[str, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 2, 8, 64))):
            place = rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))
            damage = rng.randrange(4)
            if damage == 0:
                data[place] = rng.randrange(256)
            elif damage == 1:
                data[place] ^= 1 << rng.randrange(8)
            elif damage == 2:
                data[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
            else:
                data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        try:
            outcome = rgb_from_image(image_from_bytes(bytes(data))).mode
        except ImageError as e:
            outcome = e.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 * 2**20  # KiB
    return outcomes
