"""The Python API beyond classify: arrays, URLs when asked for, other processes, other threads."""

import asyncio
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support import EXAMPLES, children
from vit_engine.classifier import Classifier
from vit_engine.errors import ImageError, UsageError
from vit_engine.images import decoder_process
from vit_engine.sources.sample import Sample


def test_logits_are_those_of_the_engine(vit: Classifier) -> None:
    pixels = np.stack([vit.pixels(path) for path in EXAMPLES])
    expected = np.concatenate([vit.engine.run(part) for part in np.array_split(pixels, 4)])
    found = vit.logits(EXAMPLES, batch=3)
    assert (found.dtype, found.shape) == (np.float32, (len(EXAMPLES), 16))
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert vit.logits(EXAMPLES[0]).shape == (1, 16)
    assert vit.logits([]).shape == (0, 16)
    assert [p.index for p in vit.classify(EXAMPLES)] == list(found.argmax(1))


def test_a_call_gives_one_prediction_or_a_list(vit: Classifier) -> None:
    first, second = vit.classify(EXAMPLES[:2], top_k=2)
    assert vit(EXAMPLES[0], top_k=2).label == first.label
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
                       for path in EXAMPLES[:2]])  # fmt: skip
    assert vit(pixels[0]).label == first.label
    for several in (EXAMPLES[:2], iter(EXAMPLES[:2]), pixels):
        assert [p.label for p in vit(several)] == [first.label, second.label]
    assert vit([]) == []
    assert vit(b"no image").error_code == "format"


def test_probabilities_are_the_scores_of_classify(vit: Classifier) -> None:
    found = vit.probabilities(EXAMPLES)
    assert (found.dtype, found.shape) == (np.float64, (len(EXAMPLES), 16))
    np.testing.assert_allclose(found.sum(1), 1)
    for row, prediction in zip(found, vit.classify(EXAMPLES, top_k=16), strict=True):
        for score in prediction.topk:
            assert row[score.index] == pytest.approx(score.score, abs=1e-3)
    assert vit.probabilities([]).shape == (0, 16)


def test_arrays_name_the_image_that_cannot_be_read(vit: Classifier, tmp_path: Path) -> None:
    images = [EXAMPLES[0], EXAMPLES[1], tmp_path / "absent.jpg", EXAMPLES[2]]
    for method in (vit.logits, vit.probabilities):
        with pytest.raises(ImageError, match=r"images\[2\], .*absent\.jpg, cannot be read") as told:
            method(images, batch=2)
        assert told.value.code == "missing"
    with pytest.raises(ImageError, match=r"images\[0\] is not an image"):
        vit.logits(b"no image")
    with pytest.raises(UsageError, match="batch"):
        vit.logits(images, batch=0)


@pytest.fixture
def url() -> Iterator[str]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(EXAMPLES[0].read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a.jpg"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_strings_are_paths_unless_urls_are_asked_for(vit: Classifier, url: str) -> None:
    for name in (url, url.upper(), "s3://bucket/a.jpg", "file:///etc/passwd"):
        (prediction,) = vit.classify(name)
        assert (prediction.path, prediction.error_code) == (name, "missing")
        assert prediction.error and "give urls=True" in prediction.error
        with pytest.raises(ImageError, match="give urls=True"):
            vit.pixels(name)
        with pytest.raises(ImageError, match="give urls=True"):
            vit.logits([name])
    label = EXAMPLES[0].stem.partition("-")[0]
    for isolated in (False, True):
        (prediction,) = vit.classify(url, urls=True, isolated=isolated)
        assert (prediction.path, prediction.label) == (url, label)
    assert next(vit.classify(Sample(url))).label == label  # who makes an item has said so
    assert vit.logits(url, urls=True).argmax() == vit.probabilities(url, urls=True).argmax()
    assert vit.pixels(url, urls=True).shape == (64, 64, 3)


def test_isolated_images_are_those_of_this_process(vit: Classifier, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(EXAMPLES[0].read_bytes()[:500])
    opened = Image.open(EXAMPLES[4])
    images = [
        *EXAMPLES[:4], tmp_path / "bad.jpg", EXAMPLES[5].read_bytes(), opened, object(),
        np.asarray(Image.open(EXAMPLES[6]).convert("RGB")), io.BytesIO(EXAMPLES[7].read_bytes()),
        tmp_path / "absent.jpg", b"",
    ]  # fmt: skip
    here, there = (list(vit.classify(images, batch=5, isolated=i)) for i in (False, True))
    assert [p.path for p in here] == [p.path for p in there]
    assert [p.index for p in here] == [p.index for p in there]
    assert [(p.error_code, p.error) for p in here] == [(p.error_code, p.error) for p in there]


@pytest.mark.slow
def test_a_crash_and_a_hang_cost_their_own_image(
    vit: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "serve", children.decode_hostile)
    images = [EXAMPLES[0], b"crash", EXAMPLES[1], b"hang", EXAMPLES[2]]
    found = list(vit.classify(images, isolated=True, timeout=3))
    assert [p.error_code for p in found] == [None, "crash", None, "timeout", None]
    assert [p.label for p in found if p.label] == [
        path.stem.partition("-")[0] for path in EXAMPLES[:3]
    ]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeouts_that_are_none(vit: Classifier, timeout: float) -> None:
    with pytest.raises(UsageError, match="a number of seconds above 0"):
        vit.classify(EXAMPLES, isolated=True, timeout=timeout)
    with pytest.raises(UsageError, match="needs isolated=True"):
        vit.classify(EXAMPLES, timeout=3)


def test_an_iteration_may_be_left(vit: Classifier) -> None:
    for isolated in (False, True):
        predictions = vit.classify(EXAMPLES * 20, isolated=isolated, batch=4)
        assert next(predictions).label
        predictions.close()  # type: ignore[attr-defined]
    assert next(vit.classify(EXAMPLES[0])).label


def test_asynchronous_use(vit: Classifier) -> None:
    async def main() -> list[str | None]:
        async def label(path: Path) -> str | None:
            prediction = await asyncio.to_thread(lambda: next(vit.classify(path)))
            return prediction.label

        return await asyncio.gather(*map(label, EXAMPLES))

    assert asyncio.run(main()) == [path.stem.partition("-")[0] for path in EXAMPLES]
