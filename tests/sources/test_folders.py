"""Folders and patterns lead to the same files in the same order, however the folders are made."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import slow_case
from vit_engine.errors import ImageError, UsageError
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.folders import globbed, in_words, is_pattern, walked
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.signatures import HEAD, is_image, unread_format


def paths(*sources, **options) -> list[str]:
    return [sample.path for sample in samples_from_sources(sources, **options)]


def below(folder: Path, *sources, **options) -> list[str]:
    return [p.removeprefix(f"{folder}/") for p in paths(*sources, **options)]


def touch(folder: Path, *names: str, data: bytes = b"data") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    touch(
        tmp_path, *("b.jpg", "a/2.PNG", "a/10.webp", "a/deep/x.tiff", ".h/y.gif", "c.txt", "a.jpeg")
    )
    return tmp_path


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder 2,100 folders deep, deeper than Python's stack and than a path can be long."""
    here = os.open(tmp_path, os.O_RDONLY)
    for level in range(2100):
        for name in ("x.png", "y.txt") if level in (0, 1500, 2099) else ():
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.mkdir("d", dir_fd=here)
        here, old = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.close(here)
    yield tmp_path, ["d/" * 1500 + "x.png", "x.png"]
    # Python's own clean-up of the folder would recurse as deep.
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jp*g", ["a.jpeg", "b.jpg"]),
        ("a/*", ["a/10.webp", "a/2.PNG"]),
        ("*/*.PNG", ["a/2.PNG"]),
        ("**/*.tiff", ["a/deep/x.tiff"]),
        ("**/?*.[jt]*", ["a.jpeg", "a/deep/x.tiff", "b.jpg", "c.txt"]),
        ("a/**/x.tiff", ["a/deep/x.tiff"]),
        (".h/*", [".h/y.gif"]),
        (".*/*", [".h/y.gif"]),
        ("**", ["a.jpeg", "a/10.webp", "a/2.PNG", "a/deep/x.tiff", "b.jpg", "c.txt"]),
        ("**/**/**/x.*", ["a/deep/x.tiff"]),
        ("**/a/**/deep/**/x.*", ["a/deep/x.tiff"]),
        ("*/../[b]*", ["a/../b.jpg"]),
        ("./a//*.PNG", ["./a/2.PNG"]),
        ("[!ab]*", ["c.txt"]),
    ],
)
def test_globs_give_files_in_order(tree, pattern, expected, monkeypatch):
    monkeypatch.chdir(tree)
    assert paths(pattern) == expected
    if not pattern.startswith("."):
        assert below(tree, f"{tree}/{pattern}") == expected


@pytest.mark.parametrize("pattern", ["[.jpg", "a[", "[]", "[!]x", "a[b/c]d", "no[thing"])
def test_a_bracket_that_is_not_closed_is_no_pattern(tree, pattern, monkeypatch):
    monkeypatch.chdir(tree)
    assert not is_pattern(pattern)
    (sample,) = samples_from_sources([pattern])
    with pytest.raises(ImageError, match="No such file"):
        bytes_from_item(sample)
    touch(tree, pattern)
    assert paths(pattern) == [pattern]
    assert paths(f"**/{pattern}") == [pattern]


@pytest.mark.parametrize("pattern", ["*\0", "a/\0/*", "\0*/x", "**/" + "x" * 256, "x" * 5000 + "*"])
def test_patterns_that_no_name_can_match_are_refused(tree, pattern):
    with pytest.raises(UsageError, match="no file matches this pattern"):
        samples_from_sources([f"{tree}/{pattern}"])


def test_names_may_be_anything(tmp_path, monkeypatch):
    names = sorted(
        ["x" * 251 + ".jpg", "new\nline.jpg", " .jpg", "-", "-x.jpg", "\x1b[31m.jpg", "*.jpg",
         "[a].jpg", os.fsdecode(b"\xff\xfe.jpg"), "\u202egpj.jpg", "\u00e9.jpg", "e\u0301.jpg"],
    )  # fmt: skip
    touch(tmp_path, *names)
    assert below(tmp_path, str(tmp_path)) == [n for n in names if n != "-"]
    assert below(tmp_path, f"{tmp_path}/*") == names
    assert below(tmp_path, f"{tmp_path}/[*].jpg") == ["*.jpg"]
    monkeypatch.chdir(tmp_path)
    assert all(bytes_from_item(i) == b"data" for i in samples_from_sources(["*"]))


@pytest.mark.slow
def test_very_deep_folders_are_searched(deep):
    folder, expected = deep
    for source in (str(folder), f"{folder}/**/*.png", f"{folder}/**/x.png"):
        samples = list(samples_from_sources([source]))
        assert [i.path for i in samples if not i.error] == [f"{folder}/{path}" for path in expected]
        # The next path down is too long for the system; a row says so.
        (last,) = (i for i in samples if i.error)
        assert "File name too long" in str(last.error) and len(last.path) >= 4096


def test_a_pattern_of_very_many_parts(tree):
    assert below(tree, f"{tree}/" + "**/" * 5000 + "x.tiff") == ["a/deep/x.tiff"]
    assert below(tree, f"{tree}/" + "**/*/" * 2 + "x.tiff") == ["a/deep/x.tiff"]
    with pytest.raises(UsageError, match="no file matches"):
        samples_from_sources([f"{tree}/" + "**/*/" * 1000 + "x.tiff"])


def test_patterns_do_not_multiply(tmp_path):
    """Each folder is searched once, in however many ways a pattern may lead to it."""
    names = ["a/" * n + "x.jpg" for n in range(1, 25)]
    touch(tmp_path, *names)
    found = below(tmp_path, f"{tmp_path}/" + "**/a/" * 10 + "**/x.jpg")
    assert sorted(found) == sorted(names[9:])


def test_links_to_folders_are_followed_on_demand_and_loops_end(tree):
    (tree / "a/loop").symlink_to("..")
    (tree / "a/file.jpg").symlink_to("../b.jpg")
    (tree / "a/broken.jpg").symlink_to("absent")
    (tree / "a/self.jpg").symlink_to("self.jpg")
    without = below(tree, str(tree / "a"))
    assert without == [
        "a/10.webp", "a/2.PNG", "a/broken.jpg", "a/deep/x.tiff", "a/file.jpg", "a/self.jpg",
    ]  # fmt: skip
    followed = below(tree, str(tree / "a"), follow_links=True)
    assert set(followed) == {*without, "a/loop/.h/y.gif", "a/loop/a.jpeg", "a/loop/b.jpg"}
    assert len(followed) == len(set(followed))
    assert below(tree, f"{tree}/a/*/*.jpg") == ["a/loop/b.jpg"]
    assert below(tree, f"{tree}/**/b.jpg") == ["b.jpg"]


def test_what_is_no_regular_file_is_a_row_and_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"x.{suffix}" for suffix in ("csv", "jpg", "parquet", "tar", "tgz")]
    for name in names:
        os.mkfifo(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("y.csv")
    names.append("y.csv")
    Path("z.csv").symlink_to("/dev/zero")
    names.append("z.csv")
    samples = list(samples_from_sources(["*"]))
    assert [i.path for i in samples] == names
    for sample in samples:
        with pytest.raises(ImageError, match="not a regular file") as e:
            bytes_from_item(sample)
        assert e.value.code == "not_regular"
    for name in ("x.csv", "x.parquet", "y.csv", "z.csv"):
        with pytest.raises(UsageError, match="not a regular file"):
            samples_from_sources([name])


@pytest.mark.parametrize("source", ["", "/*.png", "/*/*.png", "/**/*.png", "/*/x.png", "/**/x.png"])
def test_a_folder_that_cannot_be_listed_is_a_row(source):
    code = """if True:
        import os, sys
        from vit_engine.sources.find import samples_from_sources
        if os.getuid() == 0:
            os.setuid(65534)
        for item in samples_from_sources([sys.argv[1] + sys.argv[2]]):
            print(item.path.removeprefix(sys.argv[1]), item.error and item.error.code)
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "shut").mkdir(mode=0)
        Path(folder, "z").mkdir()
        Path(folder, "z/x.png").write_bytes(b"data")
        Path(folder, "x.png").write_bytes(b"data")
        done = subprocess.run(
            [sys.executable, "-c", code, folder, source],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    shut, top, low = "/shut/ permission\n", "/x.png None\n", "/z/x.png None\n"
    expected = {"/*.png": top, "/*/*.png": shut + low, "/*/x.png": shut + low}
    assert done.stdout == expected.get(source, shut + top + low)


@pytest.mark.parametrize("source", ["", "/**/*.jpg", "/*/*.jpg"])
def test_a_folder_that_goes_away_is_a_row(tmp_path, source):
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in "abc" for i in range(2)))
    samples = samples_from_sources([f"{tmp_path}{source}"])
    first = next(samples)
    shutil.rmtree(tmp_path / "b")
    found = [(i.path.removeprefix(f"{tmp_path}/"), i.error and i.error.code) for i in samples]
    assert first.path.endswith("/a/0.jpg")
    assert found == [("a/1.jpg", None), ("b/", "missing"), ("c/0.jpg", None), ("c/1.jpg", None)]


def test_what_was_listed_before_a_disk_failed_is_kept(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "b.jpg")
    real = os.scandir

    class Failing:
        def __init__(self, path):
            self._entries = real(path)
            self._left = 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._entries.close()

        def __iter__(self):
            return self

        def __next__(self):
            if not self._left:
                raise OSError(5, "Input/output error")
            self._left -= 1
            return next(self._entries)

    monkeypatch.setattr(os, "scandir", Failing)
    for source in (str(tmp_path), f"{tmp_path}/*"):
        error, kept = samples_from_sources([source])
        assert error.error is not None and "Input/output error" in str(error.error)
        assert kept.path.endswith(".jpg") and kept.error is None


# --- what is passed over, and told -----------------------------------------------------------


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    brands = major + b"\0\0\0\0" + b"".join(compatible)
    return (len(brands) + 8).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x08meta" + b"heic"


def test_what_folders_hold_besides_is_counted(tmp_path):
    touch(
        tmp_path,
        *("a.jpg", "._a.jpg", "b/IMG_1.HEIC", "b/IMG_2.heif", "b/c.jpg", "b/._x.txt", "b/d.NEF"),
        *(".ipynb_checkpoints/a-checkpoint.jpg", ".ipynb_checkpoints/n.ipynb", "n.ipynb"),
        *("b/.ipynb_checkpoints/z/c.jpg", "e.svg"),
    )
    counts: Counter[str] = Counter()
    assert below(tmp_path, str(tmp_path), skipped=counts) == ["a.jpg", "b/c.jpg"]
    assert counts == {
        "AppleDouble": 1,
        "HEIC (extra heic)": 2,
        "in .ipynb_checkpoints": 2,
        "camera raw (not supported)": 1,
        "SVG (not supported)": 1,
    }
    assert in_words(counts).startswith(
        "2 in .ipynb_checkpoints, 2 HEIC (extra heic), 1 AppleDouble"
    )
    checkpoints = str(tmp_path / ".ipynb_checkpoints")  # which was named itself
    assert below(tmp_path, checkpoints) == [".ipynb_checkpoints/a-checkpoint.jpg"]
    assert below(tmp_path, f"{tmp_path}/*.jpg") == ["a.jpg"]
    assert below(tmp_path, f"{tmp_path}/._a.jpg") == ["._a.jpg"]


def test_a_folder_of_what_is_not_read_is_refused_with_its_count(tmp_path):
    touch(tmp_path, "1.heic", "2.HEIC", "3.jxl")
    words = "no image in this folder .*; passed over: 2 HEIC .extra heic., 1 JPEG XL"
    with pytest.raises(UsageError, match=words):
        samples_from_sources([str(tmp_path)])


def test_content_counts_where_all_files_are_searched(tmp_path):
    touch(tmp_path, "1", data=ftyp(b"heic"))
    touch(tmp_path, "2.jpg", data=ftyp(b"mif1", b"mif1", b"heic"))
    touch(tmp_path, "3.heic", "4", data=b"\xff\xd8\xff")
    touch(tmp_path, "._4.jpg", data=b"\0\x05\x16\x07")
    touch(tmp_path, "5.jpg", data=b"")
    touch(tmp_path, ".ipynb_checkpoints/4", data=b"\xff\xd8\xff")
    counts: Counter[str] = Counter()
    assert below(tmp_path, str(tmp_path), all_files=True, skipped=counts) == ["3.heic", "4"]
    assert counts == {"HEIC (extra heic)": 2, "in .ipynb_checkpoints": 1}


@pytest.mark.parametrize(
    ("data", "image", "unread"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), False, "HEIC"),
        (ftyp(b"mif1", b"mif1", b"heic"), False, "HEIC"),
        (ftyp(b"msf1", b"msf1", b"hevc"), False, "HEIC"),
        (ftyp(b"heix"), False, "HEIC"),
        (ftyp(b"heim"), False, "HEIC"),
        (ftyp(b"heis"), False, "HEIC"),
        (ftyp(b"hevc", b"heic"), False, "HEIC"),
        (ftyp(b"hevx"), False, "HEIC"),
        (ftyp(b"mif1", *[b"miaf"] * 20, b"heic"), False, "HEIC"),
        (ftyp(b"avif", b"mif1", b"miaf"), True, None),
        (ftyp(b"avis", b"avif", b"msf1"), True, None),
        (ftyp(b"mif1", b"avif", b"miaf"), True, None),
        (ftyp(b"mif1", b"miaf"), True, None),  # which of the two, the decoder will tell
        (ftyp(b"mp42", b"isom"), False, None),
        (ftyp(b"crx ", b"isom"), False, "camera raw"),
        (b"\xff\x0a\0\0", False, "JPEG XL"),
        (b"8BPS\0\1", False, "Photoshop"),
        (b"\xff\xd8\xff\xe0", True, None),
        (b"", False, None),
        (b"\0\0\0\x18ftyp", False, None),
    ],
)
def test_formats_are_known_by_their_first_bytes(data, image, unread):
    for head in (data, data[:HEAD]):
        assert (is_image(head), unread_format(head)) == (image, unread)


# --- fuzzing ---------------------------------------------------------------------------------


def matches(parts: list[str], names: list[str]) -> bool:
    """What a pattern means, by the book: Python's own matching of each name."""
    from fnmatch import fnmatchcase

    part, *rest = parts
    name, *further = names
    shown = not name.startswith(".")
    if part == "**":
        if not rest:
            return all(not n.startswith(".") for n in names)
        return matches(rest, names) or bool(further and shown and matches(parts, further))
    if not fnmatchcase(name, part) or not (shown or part.startswith(".")):
        return False
    return matches(rest, further) if rest and further else not rest and not further


@pytest.mark.parametrize("inputs", [300, slow_case(10_000)])
def test_fuzzed_patterns(inputs, tmp_path, monkeypatch):
    draw = random.Random(inputs)
    names = ["a", "b", "ab", ".c", "a.jpg", "b.jpg", "[x]", "x", "\n", "]", "!"]
    files = set()
    for _ in range(120):
        path = "/".join(draw.choices(names, k=draw.randint(1, 5)))
        try:
            touch(tmp_path, path)
        except OSError:  # a file is where a folder is to be
            continue
        files.add(path)
    monkeypatch.chdir(tmp_path)
    bits = [
        *"ab.*?[]!-^\\",
        "**",
        "[ab]",
        "[!a]",
        ".jpg",
        "[[]",
        "[z-a]",
        "(",
        "{1}",
        "\udcff",
        "\n",
    ]
    parts = ["**", "**", "**", "*", "*", "?", "[ab]*", *names]
    found_some = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(inputs):
            pattern = "/".join(
                draw.choice(parts) if draw.random() < 0.8 else "".join(draw.choices(bits, k=3))
                for _ in range(draw.randint(1, 5))
            ).replace("//", "/").strip("/")  # fmt: skip
            split = [p for p in pattern.split("/") if p]
            if not split or {".", ".."} & set(split):
                continue
            found = [path for path, e in globbed("/".join(split)) if e is None]
            assert len(found) == len(set(found)), pattern
            assert set(found) == {f for f in files if matches(split, f.split("/"))}, split
            found_some += bool(found)
    assert found_some > inputs / 10
    assert {p for p, _ in walked(".", all_files=False, follow_links=False, skipped=Counter())} == {
        f"./{f}" for f in files if f.endswith(".jpg")
    }
