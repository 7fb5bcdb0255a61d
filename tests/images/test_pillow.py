"""Pillow's settings, plugins and warnings belong to the process, and decide nothing here."""

import contextlib
import io
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin, features

from support import ROOT
from vit_engine.classifier import Classifier
from vit_engine.errors import ImageError
from vit_engine.images.decode import image_from_bytes
from vit_engine.images.pillow import SETTINGS, AlteredPillowError
from vit_engine.images.preprocess import rgb_from_image

pytestmark = pytest.mark.usefixtures("bounded")

EXAMPLES = sorted((ROOT / "examples").iterdir())

Rows = dict[str, tuple[int | None, float | None, str | None]]


def encoded() -> dict[str, bytes]:
    """One image in every format, and with what makes a decoder look at settings of its own."""
    with Image.open(EXAMPLES[1]) as image:
        rgb = image.convert("RGB").resize((120, 100))
    words = PngImagePlugin.PngInfo()
    words.add_text("comment", "word " * 1000, zip=True)
    options: dict[str, dict[str, Any]] = {
        "JPEG": {},
        "PNG": {"pnginfo": words},
        "BMP": {},
        "GIF": {"transparency": 0},
        "TIFF": {"compression": "tiff_lzw"},
        "WEBP": {},
        "AVIF": {},
    }
    found = {}
    for kind, given in options.items():
        if kind != "AVIF" or features.check("avif"):
            file = io.BytesIO()
            rgb.save(file, kind, **given)
            found[kind] = file.getvalue()
    return found


ENCODED = encoded()


@pytest.fixture(scope="module")
def vit() -> Iterator[Classifier]:
    with Classifier.load("demo", provider="cpu") as classifier:
        yield classifier


def rows(vit: Classifier, *, opened: bool = True) -> Rows:
    """What becomes of images that are whole, and of those that end too early, in every form."""
    parts = {}
    for kind, data in ENCODED.items():
        parts |= {f"{kind}, whole": data, f"{kind}, half": data[: len(data) // 2]}
        parts |= {f"{kind}, less its end": data[:-200]}
    forms: dict[str, tuple[list[str], Iterable[Any]]] = {"bytes": (list(parts), parts.values())}
    if opened:
        for form in (list, iter):
            images = {}
            for name, data in parts.items():
                with warnings.catch_warnings(action="ignore"), contextlib.suppress(OSError):
                    images[name] = Image.open(io.BytesIO(data))  # where it can even be opened
            forms[form.__name__] = (list(images), form(list(images.values())))
    found: Rows = {}
    for form, (names, given) in forms.items():
        for name, p in zip(names, vit.classify(given), strict=True):
            found[f"{name}, {form}"] = (p.index, p.score and round(p.score, 5), p.error_code)
    return found


@pytest.fixture(scope="module")
def untouched(vit: Classifier) -> Rows:
    found = rows(vit)
    for name, (index, _, code) in found.items():
        assert (index is None) == ("whole" not in name), name
        assert (code is None) == ("whole" in name), name
    return found


def test_half_images_that_others_let_pass(
    vit: Classifier, untouched: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pixels = vit.pixels(ENCODED["JPEG"])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert len(taken_by_pillow()) > 3  # what the setting does
    found = rows(vit)
    assert {name: found[name] for name in untouched} == untouched
    assert not [n for n, (index, *_) in found.items() if index is not None and "whole" not in n]
    path = tmp_path / "cut.jpg"
    path.write_bytes(ENCODED["JPEG"][:-100])
    cut, whole = vit.classify([path, EXAMPLES[0]])
    assert (cut.path, cut.error_code) == (str(path), "truncated")
    assert (whole.path, whole.error) == (str(EXAMPLES[0]), None)
    np.testing.assert_array_equal(vit.pixels(ENCODED["JPEG"]), pixels)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def taken_by_pillow() -> list[str]:
    """The formats of which Pillow alone loads half a file."""
    accepted = []
    for kind, data in ENCODED.items():
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            Image.open(io.BytesIO(data[: len(data) // 2])).load()
            accepted.append(kind)
    return accepted


def test_a_later_frame_that_might_be_half_is_refused(
    vit: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file's bytes would give the first one."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    image = Image.open(file)
    image.seek(1)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (refused,) = vit.classify(image)
    assert "LOAD_TRUNCATED_IMAGES is True" in (refused.error or "")
    monkeypatch.undo()
    (labelled,) = vit.classify(image)
    assert labelled.error is None


def test_without_a_process_to_go_to_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(AlteredPillowError, match=r"PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True"):
        image_from_bytes(ENCODED["JPEG"])
    with pytest.raises(AlteredPillowError):
        rgb_from_image(Image.open(io.BytesIO(ENCODED["JPEG"])))


def test_a_setting_that_changes_meanwhile_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread sets it while an image is loaded."""
    load = ImageFile.ImageFile.load

    def slow_load(image: ImageFile.ImageFile) -> Any:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", slow_load)
    with pytest.raises(AlteredPillowError):
        image_from_bytes(ENCODED["JPEG"][:-100])


def test_the_settings_are_those_that_pillow_ships() -> None:
    shipped = subprocess.run(
        [sys.executable, "-I", "-c", SHIPPED], capture_output=True, text=True, check=True
    )
    found = dict(json.loads(shipped.stdout))
    named = {s for settings in SETTINGS.values() for s in settings}
    assert {f"{s.module.__name__}.{s.name}": s.shipped for s in named} == found


SHIPPED = """
import json
from PIL import Image, ImageFile, PngImagePlugin
print(json.dumps([
    ["PIL.ImageFile.LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES],
    ["PIL.Image.MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS],
    ["PIL.PngImagePlugin.MAX_TEXT_CHUNK", PngImagePlugin.MAX_TEXT_CHUNK],
    ["PIL.PngImagePlugin.MAX_TEXT_MEMORY", PngImagePlugin.MAX_TEXT_MEMORY],
]))
"""


def fail(*file: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("Image.MAX_IMAGE_PIXELS", None),
        ("Image.MAX_IMAGE_PIXELS", 100),
        ("Image.MAX_IMAGE_PIXELS", 10**12),
        ("PngImagePlugin.MAX_TEXT_CHUNK", 10),
        ("PngImagePlugin.MAX_TEXT_MEMORY", 10),
        ("GifImagePlugin.LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_ALWAYS),
        ("ImageFile.MAXBLOCK", 64),
        ("Image.OPEN", {}),
        ("Image.ID", []),
        ("Image.OPEN", dict.fromkeys(ENCODED, (fail, None))),
    ],
)
def test_settings_and_plugins_of_others(
    vit: Classifier,
    untouched: Rows,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: object,
) -> None:
    monkeypatch.setattr(f"PIL.{setting}", value)
    found = rows(vit, opened=False)
    assert len(found) == 3 * len(ENCODED)
    assert found == {name: untouched[name] for name in found}


def test_every_plugin_of_pillow(vit: Classifier, untouched: Rows) -> None:
    before = dict(Image.OPEN)
    Image.init()
    assert len(Image.OPEN) > 20
    try:
        assert rows(vit) == untouched
        ppm = io.BytesIO()
        Image.open(EXAMPLES[0]).convert("RGB").save(ppm, "PPM")
        (refused,) = vit.classify([ppm])
        assert refused.error_code == "format"
    finally:
        for name in set(Image.OPEN) - set(before):
            del Image.OPEN[name]
            Image.ID.remove(name)


def test_the_limit_on_pixels_is_for_opened_images_and_arrays_too(
    vit: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Pillow's own turned off: a bomb of a few bytes is refused before it is loaded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    file = io.BytesIO()
    Image.new("1", (30_000, 10_000)).save(file, "PNG")
    for images in (
        [file.getvalue()],
        [file],
        [Image.open(file)],
        iter([Image.open(file)]),
        [np.broadcast_to(np.uint8(0), (30_000, 10_000))],
    ):
        assert [p.error_code for p in vit.classify(images)] == ["too_large"]


# Warnings


def exif(orientation: int) -> bytes:
    """A TIFF header with a maker's name of 64 KiB that is not there, and an orientation."""
    name = b"\x0f\x01\x02\x00\xff\xff\x00\x00\xff\xff\x00\x00"
    turned = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    return b"Exif\0\0II*\0\x08\0\0\0\x02\0" + name + turned + bytes(4)


def warned() -> dict[str, bytes]:
    """Images that are sound, and that Pillow warns of."""
    with Image.open(EXAMPLES[1]) as image:
        rgb = image.convert("RGB").resize((120, 100))
    palette = rgb.quantize(8)
    found = {}
    for name, kind, of, options in (
        ("palette", "PNG", palette, {"transparency": bytes(range(0, 240, 30))}),
        ("upright", "JPEG", rgb, {"exif": exif(1)}),
        ("turned", "JPEG", rgb, {"exif": exif(6)}),
    ):
        file = io.BytesIO()
        of.save(file, kind, **options)
        found[name] = file.getvalue()
    return found


def strictly(data: bytes) -> Image.Image:
    """Pillow alone, with warnings as errors."""
    image = Image.open(io.BytesIO(data))
    image.getexif()
    return image.convert("RGB")


@pytest.mark.parametrize("how", [list, iter, "bytes"])
def test_a_warning_is_no_error(vit: Classifier, how: Any) -> None:
    def given() -> Iterable[Any]:
        images = list(warned().values())
        with warnings.catch_warnings(action="ignore"):  # opening is the caller's
            return images if how == "bytes" else how([Image.open(io.BytesIO(i)) for i in images])

    with warnings.catch_warnings(action="ignore"):
        wanted = list(vit.classify(given()))
    with warnings.catch_warnings(action="error", record=True) as told:
        found = list(vit.classify(given()))
    assert found == wanted
    assert all(p.error is None for p in found)
    assert not told
    with warnings.catch_warnings(action="always", record=True) as told:
        assert list(vit.classify(given())) == wanted
    assert not told
    turned, upright = (vit.pixels(warned()[name]) for name in ("turned", "upright"))
    assert not np.array_equal(turned, upright)  # the rest of the EXIF has been read


def test_the_warnings_of_others_stay_theirs(vit: Classifier) -> None:
    """Of Pillow's too, in any thread, while ours are at work."""
    data = warned()
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            assert not [p for p in vit.classify(list(data.values())) if p.error]

    before = len(warnings.filters)
    thread = threading.Thread(target=use)
    thread.start()
    try:
        for _ in range(200):
            for image in data.values():
                with pytest.raises(UserWarning):
                    strictly(image)
    finally:
        stop.set()
        thread.join()
    assert len(warnings.filters) <= before + 1


def test_a_filter_that_comes_later_changes_nothing(vit: Classifier) -> None:
    with warnings.catch_warnings():
        for _ in range(20):
            for action in ("error", "always", "default"):
                warnings.simplefilter(action)  # type: ignore[arg-type]
                assert not [p for p in vit.classify(list(warned().values())) if p.error]
        assert len(warnings.filters) < 20


def test_a_damaged_image_fails_alike_under_any_filter() -> None:
    for data in ENCODED.values():
        refusals = []
        for action in ("ignore", "error"):
            with warnings.catch_warnings(action=action), pytest.raises(ImageError) as refusal:
                image_from_bytes(data[:-200])
            refusals.append((refusal.value.code, str(refusal.value)))
        assert refusals[0] == refusals[1]
