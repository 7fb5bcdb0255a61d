"""A decoder process that hangs, dies or runs out of memory costs one image, and no other."""

import importlib.util
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import ROOT, is_gone, wait_until
from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import ImageError, MachineError
from vit_engine.images import decoder_process
from vit_engine.images.decode import image_from_bytes
from vit_engine.images.decode_pool import DecodeJob
from vit_engine.images.decoder_process import DecodeOptions, DecoderProcess, SharedPixels
from vit_engine.machine import worker
from vit_engine.sources import signatures
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.sample import Limits, Sample

EXAMPLES = [Sample(str(path)) for path in sorted((ROOT / "examples").iterdir())[:4]]
PRE = Preprocessing(
    (64, 64), "squash", "bilinear", None, "centre", (0, 0, 0), (0.5,) * 3, (0.5,) * 3
)


def square(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "olive").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def slow() -> Sample:
    """A real image that takes a second or more to decode."""
    return Sample("slow.png", data=square(9400))


def decoded(samples, decode_options=None, meanwhile=None):
    """Decode in one process; return the jobs and the pixels."""
    decode_options = decode_options or DecodeOptions(PRE)
    with SharedPixels(len(samples), 64, 64) as shared:
        decoder = DecoderProcess(shared, decode_options)
        try:
            jobs = [DecodeJob(item, slot) for slot, item in enumerate(samples)]
            if meanwhile:
                threading.Thread(target=meanwhile, args=(decoder,)).start()
            decoder.decode(jobs)
            decoder.decode([again := DecodeJob(EXAMPLES[0], 0)])
            assert again.error is None
            return jobs, shared.array.copy()
        finally:
            decoder.close()


def codes(jobs):
    return [job.error and job.error.code for job in jobs]


def test_pixels_are_those_of_this_process():
    jobs, pixels = decoded(EXAMPLES)
    assert codes(jobs) == [None] * 4
    for job in jobs:
        np.testing.assert_array_equal(pixels[job.slot], DecodeOptions(PRE).pixels(job.image)[0])


def test_errors_keep_their_code_and_words():
    jobs, _ = decoded([EXAMPLES[0], Sample("absent.jpg"), Sample("x", data=b"text"), EXAMPLES[1]])
    assert codes(jobs) == [None, "missing", "format", None]
    assert "No such file" in str(jobs[1].error)


def test_a_decoder_that_takes_too_long_is_ended(slow):
    samples = [EXAMPLES[0], slow, slow, EXAMPLES[1]]
    jobs, pixels = decoded(samples, DecodeOptions(PRE, time_limit=0.3))
    assert codes(jobs) == [None, "timeout", "timeout", None]
    np.testing.assert_array_equal(pixels[3], DecodeOptions(PRE).pixels(EXAMPLES[1])[0])


def test_a_decoder_that_dies_is_replaced(slow):
    def kill(decoder):
        wait_until(decoder._pixels.array[0].any)
        time.sleep(0.1)  # the first image is answered, the second under way
        os.kill(decoder._worker._child.pid, signal.SIGSEGV)

    jobs, pixels = decoded([EXAMPLES[0], slow, EXAMPLES[1]], meanwhile=kill)
    assert codes(jobs) == [None, "crash", None]
    assert "SIGSEGV" in str(jobs[1].error)
    np.testing.assert_array_equal(pixels[2], DecodeOptions(PRE).pixels(EXAMPLES[1])[0])


def test_a_decoder_that_dies_between_two_images_costs_none():
    with SharedPixels(2, 64, 64) as shared:
        decoder = DecoderProcess(shared, DecodeOptions(PRE))
        for _ in range(2):
            decoder._worker.kill()
            wait_until(lambda: not decoder._worker.is_alive())
            jobs = [DecodeJob(EXAMPLES[0], 0), DecodeJob(EXAMPLES[1], 1)]
            decoder.decode(jobs)
            assert codes(jobs) == [None, None]
        assert decoder.restarts == 2
        decoder.close()
        decoder.decode([job := DecodeJob(EXAMPLES[0], 0)])  # closed: nothing is started
        assert job.error is None and decoder.restarts == 2


def test_memory_is_limited():
    jobs, _ = decoded(
        [Sample("x.png", data=square(9400)), EXAMPLES[0]], DecodeOptions(PRE, memory=3 * 10**8)
    )
    assert codes(jobs) == ["too_large", None]
    assert "memory" in str(jobs[0].error)


def test_closing_ends_a_decode_under_way(slow):
    def close(decoder):
        time.sleep(0.3)
        decoder.cancel()

    with SharedPixels(1, 64, 64) as shared:
        decoder = DecoderProcess(shared, DecodeOptions(PRE))
        threading.Thread(target=close, args=(decoder,)).start()
        jobs = [DecodeJob(slow, 0) for _ in range(1000)]
        decoder.decode(jobs)  # would take a quarter of an hour
        assert jobs[-1].error is None
        decoder.close()


def test_children_end_with_a_parent_that_is_killed():
    script = f"""if True:
        import sys, time
        sys.path.append({str(ROOT / "tests")!r})
        from test_decoder_process import *
        shared = SharedPixels(1, 64, 64)
        decoder = DecoderProcess(shared, DecodeOptions(PRE))
        print(decoder._worker._child.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: is_gone(child))


def test_a_decoder_killed_while_it_starts_is_started_again(monkeypatch: pytest.MonkeyPatch):
    started = []

    class KilledAtFirst(subprocess.Popen):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            started.append(self)
            if len(started) <= 2:
                self.kill()

    monkeypatch.setattr(worker.subprocess, "Popen", KilledAtFirst)
    with SharedPixels(1, 64, 64) as shared:
        decoder = DecoderProcess(shared, DecodeOptions(PRE))
        job = DecodeJob(Sample(str(ROOT / "examples/star-01.png")), 0)
        decoder.decode([job])
        decoder.close()
    assert job.error is None
    assert len(started) == 3


def test_a_decoder_that_never_starts_is_no_images_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoder_process, "serve", lambda channel: None)  # not to be imported
    words = r"a process to decode images in did not start \(exit code 1\)"
    with SharedPixels(1, 64, 64) as shared, pytest.raises(MachineError, match=words):
        DecoderProcess(shared, DecodeOptions(PRE))


STUB = """
import io
from PIL import BmpImagePlugin, Image

def opened(file, name):
    return BmpImagePlugin.BmpImageFile(io.BytesIO(file.read()[32:]), name)

def register_heif_opener(thumbnails):
    Image.register_open("HEIF", opened, lambda head: head[4:8] == b"ftyp")
"""


@pytest.mark.parametrize("plugin", ["none", "stub", "real"])
def test_heic_is_decoded_in_a_process_where_its_plugin_is(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In none of the caller's; the stub for pillow-heif reads a bitmap behind HEIC's first box."""
    file = io.BytesIO()
    if plugin == "real":
        pytest.importorskip("pillow_heif").register_heif_opener()
        Image.new("RGB", (70, 50), "olive").save(file, "HEIF")
    else:
        file.write(b"\0\0\0\x20ftypheic".ljust(32, b"\0"))
        Image.new("RGB", (70, 50), "olive").save(bitmap := io.BytesIO(), "BMP")
        file.write(bitmap.getvalue())
    if plugin == "stub":
        (tmp_path / "pillow_heif.py").write_text(STUB)
        monkeypatch.syspath_prepend(tmp_path)
    if plugin == "none" and importlib.util.find_spec("pillow_heif"):
        pytest.skip("pillow-heif is installed")
    (tmp_path / "a.heic").write_bytes(file.getvalue())
    signatures.has_plugin.cache_clear()
    try:
        with pytest.raises(ImageError, match="is HEIC, which is read") as told:
            image_from_bytes(file.getvalue())
        assert ("only with isolated=True" in str(told.value)) == (plugin != "none")
        wanted = (
            [item.path for item in samples_from_sources([str(tmp_path)])]
            if plugin != "none"
            else []
        )
        assert len(wanted) == (plugin != "none")
        (_, job), pixels = decoded([EXAMPLES[1], Sample(str(tmp_path / "a.heic"))])
        if plugin == "none":
            assert job.error is not None and "[heic]" in str(job.error)
        else:
            assert job.error is None and np.abs(pixels[1] - (128.0, 128, 0)).max() < 9
    finally:
        signatures.has_plugin.cache_clear()


@pytest.mark.slow
def test_the_limit_of_pixels_can_be_raised() -> None:
    wide = Sample("wide.png", data=square(9500))
    assert decoded([wide])[0][0].error.code == "too_large"
    raised = DecodeOptions(PRE, limits=Limits(max_pixels=100_000_000))
    assert raised.memory_for_one > raised.memory
    (_, job), pixels = decoded([EXAMPLES[1], wide], raised)
    assert job.error is None and (pixels[1] == (128, 128, 0)).all()
