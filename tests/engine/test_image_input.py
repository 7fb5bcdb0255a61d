"""What may be given as an image: its meaning, memory that is used again, errors in their rows."""

import contextlib
import io
import mmap
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features

from support import EXAMPLES
from vit_engine.classifier import Classifier
from vit_engine.errors import ImageError
from vit_engine.sources.sample import MAX_BYTES, Sample

pytestmark = pytest.mark.usefixtures("bounded")

Pixels = NDArray[np.uint8]

PATH = EXAMPLES[1]
DATA = PATH.read_bytes()


def rgb(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((120, 100)))


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(vit: Classifier) -> list[int | None]:
    return [p.index for p in vit.classify(EXAMPLES)]


COLOUR = [rgb(path) for path in EXAMPLES]
RED = [np.repeat(pixels[..., :1], 3, axis=2) for pixels in COLOUR]
GREY = [np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")) for pixels in COLOUR]


# One image


class Path8:
    """A path whose name is bytes."""

    def __fspath__(self) -> bytes:
        return bytes(PATH)


class Named(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not its path"


def with_position_at_its_end() -> io.BytesIO:
    file = io.BytesIO()
    file.write(DATA)
    return file


def opened(stack: contextlib.ExitStack) -> dict[str, Any]:
    """What stands for the image at PATH."""
    file = stack.enter_context(PATH.open("rb"))
    temporary = tempfile.NamedTemporaryFile()  # noqa: SIM115
    stack.enter_context(temporary).write(DATA)
    copying, unbuffered = (
        stack.enter_context(subprocess.Popen(["cat", PATH], bufsize=size, stdout=subprocess.PIPE))
        for size in (-1, 0)
    )
    return {
        "str": str(PATH),
        "np.str_": np.str_(PATH),
        "subclass of str": Named(PATH),
        "Path": PATH,
        "PathLike of bytes": Path8(),
        "Sample": Sample(str(PATH)),
        "bytes": DATA,
        "np.bytes_": np.bytes_(DATA),
        "bytearray": bytearray(DATA),
        "memoryview": memoryview(DATA),
        "memoryview, in steps": memoryview(b"".join(bytes([b, 0]) for b in DATA))[::2],
        "BytesIO": io.BytesIO(DATA),
        "BytesIO at its end": with_position_at_its_end(),
        "file": file,
        "unbuffered": stack.enter_context(PATH.open("rb", buffering=0)),
        "pipe": copying.stdout,
        "unbuffered pipe": unbuffered.stdout,
        "temporary": temporary,
        "mmap": mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
        "PIL": stack.enter_context(Image.open(PATH)),
    }


def test_every_kind_of_image_in_a_list_and_alone(vit: Classifier) -> None:
    (wanted,) = vit.classify(PATH)
    named = {"str", "np.str_", "subclass of str", "Path", "PathLike of bytes", "Sample"}
    with contextlib.ExitStack() as stack:
        kinds = opened(stack)
        in_a_list = list(vit.classify(list(kinds.values())))
        kinds = opened(stack)
        for (kind, image), listed in zip(kinds.items(), in_a_list, strict=True):
            (alone,) = vit.classify(image)
            for found in (alone, listed):
                assert found.error is None, kind
                assert found.index == wanted.index, kind
                assert found.path == (str(PATH) if kind in named else None), kind
                assert type(found.path) in (str, type(None)), kind


def test_the_meaning_of_arrays(vit: Classifier) -> None:
    """Equal to the pixel to the PNG file of the same colours; alpha is dropped, as it is there."""
    colour = COLOUR[1]
    alpha = np.dstack([colour, np.zeros(colour.shape[:2], np.uint8)])
    grey = GREY[1][..., 0]
    for array, same in (
        (colour, colour),
        (np.asfortranarray(colour), colour),
        (colour[::-1], np.ascontiguousarray(colour[::-1])),
        (alpha, alpha),
        (alpha, colour),
        (grey, grey),
        (grey[::2, ::3], np.ascontiguousarray(grey[::2, ::3])),
        (grey[..., None], grey),
        (colour.view(np.ndarray)[:1, :1], np.ascontiguousarray(colour[:1, :1])),
    ):
        np.testing.assert_array_equal(vit.pixels(array), vit.pixels(png(same)))


# Runs of images


def test_an_array_of_four_dimensions_is_a_batch(vit: Classifier) -> None:
    wanted = [p.index for p in vit.classify(COLOUR)]
    batch = np.stack(COLOUR)
    assert [p.index for p in vit.classify(batch)] == wanted
    alpha = np.concatenate([batch, np.zeros_like(batch[..., :1])], axis=3)
    assert [p.index for p in vit.classify(alpha)] == wanted
    (alone,) = vit.classify(COLOUR[0])
    assert alone.index == wanted[0]
    of_floats = list(vit.classify(batch[:3] / 255))
    assert [p.error_code for p in of_floats] == ["format"] * 3
    assert [p.error.partition(" ")[0] for p in of_floats] == ["images[0]", "images[1]", "images[2]"]


class ByIndex:
    """An iterable of the old kind."""

    def __getitem__(self, index: int) -> Path:
        return EXAMPLES[index]


NAMES = [str(path) for path in EXAMPLES]
TABLE = pd.DataFrame({"path": NAMES, "image": COLOUR})


@pytest.mark.parametrize(
    "images",
    [
        lambda: NAMES,
        lambda: tuple(EXAMPLES),
        lambda: iter(EXAMPLES),
        lambda: dict.fromkeys(EXAMPLES).keys(),
        lambda: dict(enumerate(EXAMPLES)).values(),
        lambda: np.array(NAMES),
        lambda: np.array(EXAMPLES, object),
        lambda: TABLE["path"],
        lambda: TABLE["path"].astype("category"),
        lambda: TABLE.set_index(pd.Index(["read", "columns", *NAMES[2:]]))["path"],
        TABLE["path"].to_numpy,
        ByIndex,
    ],
    ids=[
        *("list", "tuple", "iterator", "keys", "values", "strings", "objects", "Series"),
        *("categories", "labels like methods", "column as array", "by index"),
    ],
)
def test_runs_of_paths(
    vit: Classifier, expected: list[int | None], images: Callable[[], Iterable[Any]]
) -> None:
    assert [p.path for p in vit.classify(images())] == NAMES
    assert [p.index for p in vit.classify(images())] == expected


def test_a_column_of_arrays(vit: Classifier) -> None:
    wanted = [p.index for p in vit.classify(COLOUR)]
    assert [p.index for p in vit.classify(TABLE["image"])] == wanted
    assert [p.index for p in vit.classify(TABLE["image"].to_numpy())] == wanted


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "of type NoneType: give an image, or a list"),
        (1.5, "of type float: give an image, or a list"),
        ({"a": PATH}, "of type dict: give"),
        ({PATH}, "of type set: give"),
        (TABLE, r"of type pandas\S*DataFrame: give"),
        (torch.zeros(3, 4, 4), r"of type torch.Tensor: .*permute\(1, 2, 0\)"),
        (torch.zeros(2, 3, 4, 4), r"of type torch.Tensor: .*permute\(1, 2, 0\)"),
    ],
)
def test_what_is_no_run_of_images_is_refused_at_the_call(
    vit: Classifier, images: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        vit.classify(images)


# Bad cells


class Faulty:
    """A file that cannot be read."""

    def read(self, size: int = -1) -> bytes:
        raise OSError("the disk is gone")


class Asynchronous:
    async def read(self, size: int = -1) -> bytes:
        return DATA


class Nameless:
    def __fspath__(self) -> str:
        raise RuntimeError("it has no name")


class RudeImage(Image.Image):
    def load(self) -> None:
        raise AssertionError


def closed_file() -> Any:
    with PATH.open("rb") as file:
        return file


def text_file() -> Any:
    return io.TextIOWrapper(io.BytesIO(DATA), "latin-1")


def released() -> memoryview:
    view = memoryview(DATA)
    view.release()
    return view


BAD = [
    (None, "NoneType"),
    (float("nan"), r"float \(nan\)"),
    (3, r"int \(3\)"),
    (True, r"bool \(True\)"),
    (np.float64("nan"), r"numpy.float64 \(nan\)"),
    (pd.NA, "NAType"),
    (pd.NaT, "NaTType"),
    ([PATH], "list"),
    ((), "tuple"),
    ({}, "dict"),
    (object(), "object"),
    (torch.zeros(3, 4, 4), r"torch.Tensor: .*permute\(1, 2, 0\)"),
    (Nameless(), "it has no name"),
    (Faulty(), "the disk is gone"),
    (Asynchronous(), r"Asynchronous, whose read\(\) gives coroutine"),
    (RudeImage(), "AssertionError"),
    (np.zeros((4, 4, 3)), r"float64 array of shape \(4, 4, 3\)"),
    (np.zeros((4, 4, 3), np.float16), "float16"),
    (np.zeros((4, 4, 3), bool), "bool"),
    (np.zeros((4, 4, 3), np.int8), "int8"),
    (np.zeros((4, 4, 3), np.uint16), "uint16"),
    (np.zeros((3, 4, 4), np.uint8)[:, :, :2], r"uint8 array of shape \(3, 4, 2\)"),
    (np.zeros((3, 40, 50), np.uint8), r"uint8 array of shape \(3, 40, 50\)"),
    (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
    (np.zeros(4, np.uint8), r"shape \(4,\)"),
    (np.uint8(4), r"numpy.uint8"),
    (np.array(4), r"shape \(\)"),
    (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\), without a pixel"),
    (np.zeros((4, 4, 0), np.uint8), r"shape \(4, 4, 0\)"),
    (np.array([PATH, None], object), "object array"),
    (np.array([str(PATH)]), "<U"),
    (np.zeros(3, "u1,u1,u1"), "array of shape"),
    (b"", "is empty"),
    (io.BytesIO(), "is empty"),
    ("", "not a regular file"),
    ("a\0b", "cannot be read"),
    ("\ud800", "cannot be read"),
]


@pytest.mark.parametrize("how", [list, iter, lambda cells: pd.Series(cells, dtype=object)])
def test_a_bad_cell_is_one_row(
    vit: Classifier, expected: list[int | None], how: Callable[[list[Any]], Iterable[Any]]
) -> None:
    made = [
        (closed_file(), "closed file"),
        (text_file(), r"TextIOWrapper, whose read\(\) gives str.*'rb'"),
        (released(), "released"),
    ]
    bad = BAD + made
    cells: list[Any] = []
    for cell, _ in bad:
        cells += [EXAMPLES[0], cell]
    found = list(vit.classify(how([*cells, EXAMPLES[1]])))
    assert len(found) == 2 * len(bad) + 1
    assert {p.index for p in found[:-1:2]} == {expected[0]}
    assert found[-1].index == expected[1]
    for at, (prediction, (cell, words)) in enumerate(zip(found[1::2], bad, strict=True)):
        assert prediction.topk == ()
        assert prediction.error_code in ("format", "decode", "empty", "missing", "not_regular"), (
            cell
        )
        with pytest.raises(ImageError, match=words):
            raise ImageError(prediction.error_code, prediction.error or "")
        if prediction.error_code == "format":
            assert f"images[{2 * at + 1}] is " in (prediction.error or "")
        assert "\n" not in (prediction.error or "")


@pytest.mark.parametrize(("cell", "words"), BAD)
def test_a_bad_image_has_no_pixels(vit: Classifier, cell: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        vit.pixels(cell)


def test_files_without_end_are_too_large(vit: Classifier) -> None:
    class Endless:
        given = 0

        def read(self, size: int = -1) -> bytes:
            part = bytes(min(size, 2**24))
            self.given += len(part)
            return part

    file = Endless()
    first, second = vit.classify([file, bytes(MAX_BYTES + 1)])
    assert (first.error_code, second.error_code) == ("too_large", "too_large")
    assert file.given == MAX_BYTES + 1


# Memory that is used again


def one_array(shape: tuple[int, ...]) -> Iterator[Pixels]:
    buffer = np.zeros((100, 120, *shape), np.uint8)
    for pixels in COLOUR:
        if shape in ((3,), (4,)):
            buffer[..., :3] = pixels
        else:
            buffer[...] = pixels[..., :1] if shape else pixels[..., 0]
        yield buffer


def one_image(mode: str) -> Iterator[Image.Image]:
    canvas = Image.new(mode, (120, 100))
    for pixels in COLOUR:
        canvas.paste(Image.fromarray(pixels).convert(mode))
        yield canvas


def one_buffer(view: Callable[[bytearray], object]) -> Iterator[object]:
    buffer = bytearray(2**16)
    for pixels in COLOUR:
        data = png(pixels)
        buffer[: len(data)] = data  # what is behind the image is of no account
        yield view(buffer)


def one_file() -> Iterator[io.BytesIO]:
    file = io.BytesIO()
    for pixels in COLOUR:
        file.seek(0)
        file.truncate()
        file.write(png(pixels))
        yield file


@pytest.mark.parametrize(
    ("reused", "still"),
    [
        (lambda: one_array((3,)), COLOUR),
        (lambda: one_array((4,)), COLOUR),
        (lambda: one_array((1,)), RED),
        (lambda: one_array(()), RED),
        (lambda: (buffer[:, ::-1] for buffer in one_array((3,))), [p[:, ::-1] for p in COLOUR]),
        (lambda: one_image("RGB"), COLOUR),
        (lambda: one_image("RGBX"), COLOUR),
        (lambda: one_image("L"), GREY),
        (lambda: one_buffer(lambda buffer: buffer), COLOUR),
        (lambda: one_buffer(memoryview), COLOUR),
        (one_file, COLOUR),
    ],
    ids=[
        *("RGB", "RGBA", "grey, 1 channel", "grey", "in steps", "PIL", "PIL RGBX", "PIL grey"),
        *("bytearray", "memoryview", "BytesIO"),
    ],
)
@pytest.mark.parametrize("batch", [1, 16])
def test_one_buffer_for_all_images(
    vit: Classifier, reused: Callable[[], Iterable[Any]], still: list[Pixels], batch: int
) -> None:
    """A camera's: read ahead, each image is labelled as it was when it was handed over."""
    wanted = [p.index for p in vit.classify(still, batch=batch)]
    assert len(set(wanted)) > 3
    assert [p.index for p in vit.classify(reused(), batch=batch)] == wanted


# PIL images that are opened, and not loaded yet


def damaged(kind: str, **options: Any) -> bytes:
    """An image whose header is sound: opening it tells nothing."""
    file = io.BytesIO()
    Image.fromarray(COLOUR[1]).save(file, kind, **options)
    data = file.getvalue()
    if kind == "AVIF":  # whose decoder forgives most
        return data[: len(data) // 2] + b"\xaa" * (len(data) // 2)
    third = len(data) // 3
    return data[:third] + b"\xff" * third + data[2 * third :]


def all_damaged() -> list[bytes]:
    kinds: list[tuple[str, dict[str, Any]]] = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("WEBP", {})]
    kinds += [("TIFF", {"compression": "tiff_lzw"})]
    kinds += [("AVIF", {})] * features.check("avif")
    return [damaged(kind, **options) for kind, options in kinds]


def cut_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR[1]).save(file, "JPEG")
    return file.getvalue()[:-500]


def test_an_image_is_loaded_while_the_generator_holds_it_open(
    vit: Classifier, expected: list[int | None]
) -> None:
    def images() -> Iterator[Image.Image]:
        for path in EXAMPLES:
            with Image.open(path) as image:
                yield image
            image.close()

    assert [p.index for p in vit.classify(images())] == expected


def test_one_opened_image_many_times_in_a_list(vit: Classifier, expected: list[int | None]) -> None:
    for _ in range(5):
        with Image.open(EXAMPLES[0]) as image:
            assert {p.index for p in vit.classify([image] * 16, batch=2)} == {expected[0]}


@pytest.mark.parametrize("how", [list, iter])
def test_what_an_opened_image_raises_is_its_row(
    vit: Classifier, expected: list[int | None], how: Callable[[list[Any]], Iterable[Any]]
) -> None:
    harmed = all_damaged()
    with contextlib.ExitStack() as stack:
        bad = [stack.enter_context(Image.open(io.BytesIO(data))) for data in harmed]
        cut = stack.enter_context(Image.open(io.BytesIO(cut_jpeg())))
        good = stack.enter_context(Image.open(EXAMPLES[0]))
        with Image.open(EXAMPLES[0]) as left:
            pass
        closed = Image.open(EXAMPLES[0])
        closed.close()
        found = list(vit.classify(how([*bad, good, cut, closed, left, EXAMPLES[0]])))
    *of_bad, of_good, of_cut, of_closed, of_left, last = found
    assert of_good.index == last.index == expected[0]
    assert [(p.error_code, p.error) for p in of_bad] == [
        (p.error_code, p.error) for p in vit.classify(harmed)
    ]
    assert all(p.error_code in ("decode", "truncated") for p in of_bad)
    assert of_cut.error_code == "truncated"
    for prediction in (of_closed, of_left):
        assert prediction.error_code == "decode"
        assert "closed" in (prediction.error or "")
