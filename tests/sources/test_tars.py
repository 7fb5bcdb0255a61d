"""A tar that is damaged, hostile or empty costs its own rows: what is before damage is labelled."""

import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from support import ROOT, Run, children
from vit_engine.cli.progress import format_skipped
from vit_engine.errors import ImageError, UsageError
from vit_engine.sources.archives import gunzipped, tar_members, tars
from vit_engine.sources.archives.gunzipped import Gunzipped
from vit_engine.sources.archives.tar_members import MAX_NAME, TarMembers
from vit_engine.sources.archives.tars import items_from_tar, members_of
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.sample import LIMITS, Limits, Sample

BLOCK = 512
END = bytes(2 * BLOCK)
GNU_TAR = shutil.which("tar")

_FILE = io.BytesIO()
Image.new("RGB", (9, 7), "teal").save(_FILE, "PNG")
PNG = _FILE.getvalue()
CODES = {
    *("missing", "empty", "permission", "not_regular", "format", "truncated", "too_large"),
    *("decode", "timeout", "crash"),
}


def header(name: str, size: int | bytes = 0, kind: bytes = b"0", link: str = "") -> bytes:
    """A header of GNU tar's format; a size of bytes is written as it is."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.linkname = 0 if isinstance(size, bytes) else size, link
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    if isinstance(size, bytes):
        block[124:136] = size
    return summed(block)


def summed(block: bytes | bytearray) -> bytes:
    """The header with the checksum that it should have."""
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    return bytes(block[:148]) + b"%06o\0 " % total + bytes(block[156:])


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: str, data: bytes = PNG) -> bytes:
    return header(name, len(data)) + padded(data)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    """A PAX header with the records."""
    data = b""
    for keyword, value in records:
        length = len(keyword) + len(value) + 3
        length += len(str(length + len(str(length))))
        data += b"%d %s=%s\n" % (length, keyword, value)
    return header("PaxHeaders/x", len(data), b"x") + padded(data)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


@pytest.fixture(params=["tar", "tar.gz"])
def written(request, tmp_path) -> Callable[[bytes], str]:
    """Write a tar as it is, or gzipped; return its path."""

    def write(data: bytes) -> str:
        path = tmp_path / f"shard.{request.param}"
        path.write_bytes(data if request.param == "tar" else gzip.compress(data, mtime=0))
        return str(path)

    return write


def walked(
    path: str,
    *,
    all_files: bool = False,
    limits: Limits = LIMITS,
    report_progress: Callable[[], None] = lambda: None,
) -> Iterator[Sample]:
    """What the child does, in this process."""
    return members_of(
        TarMembers(
            path,
            all_files=all_files,
            limits=limits,
            skipped=Counter(),
            report_progress=report_progress,
        )
    )


def through_child(path: str, *, all_files: bool = False) -> Iterator[Sample]:
    return items_from_tar(path, all_files=all_files, skipped=Counter())


def rows(path: str, find: Callable[..., Iterator[Sample]] = walked, **options):
    """(name, code) of each item, None for the archive's own; the bytes of sound ones are read."""
    found = []
    for item in find(path, **options):
        try:
            code = "" if bytes_from_item(item) == PNG else "other bytes"
        except ImageError as e:
            code = e.code
        found.append((item.path.removeprefix(path)[1:] or None, code))
    return found


def words(path: str) -> list[str]:
    return [str(i.error) for i in walked(path) if i.error]


A, B, C = member("a.png"), member("b.png"), member("c.png")

CASES = (
    (A + B + C + END, "a b c"),
    (A + flipped(B, 3) + C + END, "a decode"),
    (flipped(A, 3) + B + C + END, "format"),
    # Of a header nothing is left; with blocks of zeros an archive ends, but for what is appended.
    (A + bytes(BLOCK) + B[BLOCK:] + C + END, "a decode"),
    (A + END + B + END + C + END, "a b c"),
    (A + END + b"what a buffer held" * 100, "a"),
    (A + END + bytes(2**17) + B, "a"),
    (A + B, "a b"),
    # Cut short.
    (A + B[:-1], "a b truncated"),
    (A + B[: BLOCK + 10], "a b:truncated truncated"),
    (A + B[:100], "a truncated"),
    (A + pax((b"path", b"x.png")), "a decode"),
    (A + header("b.png", b"07777777777\0"), "a b:too_large truncated"),
    # Sizes that are none.
    (A + header("b.png", b"\x80\0\0\0\x3f" + bytes(7)) + C + END, "a decode"),
    (A + header("b.png", b"\xff" * 12) + C + END, "a decode"),
    (A + header("b.png", b"what       \0") + C + END, "a decode"),
    (A + pax((b"size", b"-1")) + B + C + END, "a decode"),
    (A + pax((b"size", b"9" * 17)) + B + C + END, "a decode"),
    # PAX headers and long names.
    (A + pax((b"path", b"long.png"), (b"mtime", b"1.5")) + B + C + END, "a long c"),
    (A + pax((b"path", b"")) + B + C + END, "a decode c"),
    (A + pax((b"path", b"a" * MAX_NAME + b".png")) + B + C + END, "a too_large c"),
    (A + header("", 6, b"L") + padded(b"l.png\0") + B + C + END, "a l c"),
    (A + pax((b"path", b"no.png")) * 3000 + B + C + END, "a decode"),
    # Types.
    (A + header("d.png", 0, b"5") + B + END, "a b"),
    (A + header("v.png", 0, b"V") + B + END, "a b"),
    (A + header("b.png", len(PNG), b"7") + padded(PNG) + C + END, "a b c"),
    (A + header("b.png", len(PNG), b"Z") + padded(PNG) + C + END, "a b c"),
    (A + header("m.png", len(PNG), b"M") + padded(PNG) + C + END, "a m:format c"),
    (A + header("p.png", 0, b"6") + B, "a p:not_regular b"),
    (A + header("n.png", 0, b"3") + B, "a n:not_regular b"),
    # Links.
    (A + header("l.png", 0, b"1", "a.png") + B + END, "a l b"),
    (A + B + header("l.png", 0, b"1", "a.png") + header("m.png", 0, b"1", "l.png"), "a b l m"),
    (header("l.png", 0, b"1", "a.png") + A + END, "l:missing a"),
    (A + header("l.png", 0, b"1", "/etc/passwd") + B + END, "a l:missing b"),
    (member("d/./a.png") + header("d/e/s.png", 0, b"2", "../a.png") + B, "d/./a d/e/s b"),
    (A + header("d/s.png", 0, b"2", "a.png") + B + END, "a d/s:missing b"),
    (member("a.bin") + header("l.png", 0, b"1", "a.bin") + END, "l"),
    (A + pax((b"linkpath", b"a.png")) + header("l.png", 0, b"1", "?") + END, "a l"),
    (A + header("", 6, b"K") + padded(b"a.png\0") + header("l.png", 0, b"1", "?") + END, "a l"),
    # Sparse members.
    (A + header("s.png", len(PNG), b"S") + padded(PNG) + C + END, "a s:format c"),
    (A + pax((b"GNU.sparse.map", b"0,1")) + B + C + END, "a b:format c"),
    (A + pax((b"GNU.sparse.map", b"x")) + B + C + END, "a decode"),
    # None of these is a tar archive, or none with an image.
    (b"?" * 5000, "format"),
    (PNG, "format"),
    (b"?", "format"),
    (b"", "empty"),
    (END, ""),
    (member("a.txt", b"text") + header("d", 0, b"5") + END, ""),
)  # fmt: skip
"""Archives, and the names in them, with a code where there is an error; none is the archive's."""


@pytest.mark.parametrize(
    ("data", "expected"), CASES, ids=[f"{i}: {case[1]}" for i, case in enumerate(CASES)]
)
def test_damage_is_a_row_and_what_is_before_it_is_kept(data, expected, written):
    wanted = []
    for word in expected.split():
        name, colon, code = word.partition(":")
        wanted.append((None, name) if not colon and name in CODES else (f"{name}.png", code))
    assert rows(written(data)) == wanted


@pytest.mark.parametrize("all_files", [False, True])
def test_the_child_says_what_the_readers_say(written, all_files):
    data = (
        A + header("l.png", 0, b"1", "a.png") + C + member("._c.png")
        + header("m.png", 0, b"1", "no") + pax((b"path", b"\xe9 \xe2\x98\x83\n.png")) + B + C[:-1]
    )  # fmt: skip
    path = written(data)
    found = rows(path, through_child, all_files=all_files)
    assert found == rows(path, all_files=all_files)
    assert ("\udce9 ☃\n.png", "") in found and len(found) == 7


def test_errors_say_where_and_what(written):
    (damage,) = words(written(A + flipped(B, 3) + C + END))
    assert damage.startswith(f"the header at byte {len(A)} is damaged (")
    assert words(written(A + header("l.png", 0, b"1", "no\nsuch") + END)) == [
        "is a hard link to no\\nsuch, which is not before it in the tar"
    ]
    assert words(written(A + header("s.png", 0, b"S") + END)) == [
        "is stored as a sparse file, which is not read; make the tar without --sparse"
    ]


def test_empty_archives_are_refused_where_nothing_else_is_given(written):
    """Exit 2, as for a folder; among other sources an archive without an image is a row."""
    empty = written(member("a.txt", b"text") + member("._a.png") + END)
    expected = r"no image in this tar .* --all-files .*; passed over: 1 AppleDouble"
    with pytest.raises(UsageError, match=expected):
        samples_from_sources([empty])
    found = list(samples_from_sources([empty, empty]))
    assert [(item.path, item.error.code) for item in found] == [(empty, "empty")] * 2
    assert re.search(expected, str(found[1].error))
    text = written(member("a.png", b"text") + END)
    with pytest.raises(UsageError, match=r"no file with an image's signature in this tar$"):
        samples_from_sources([text], all_files=True)
    for damaged in (A + b"damage", b"damage"):
        assert next(samples_from_sources([written(damaged)]))
    assert next(samples_from_sources(["absent.tar"])).error


def test_what_is_passed_over_is_counted(written):
    data = (
        member("._a.png") + A + member("d/._a.png") + member("a.cls", b"7") + member("a.heic")
        + header("._l.png", 0, b"1", "a.png") + member(".ipynb_checkpoints/b.png") + END
    )  # fmt: skip
    path = written(data)
    skipped = Counter[str]({"AppleDouble": 1})
    (item,) = samples_from_sources([path], skipped=skipped)
    assert bytes_from_item(item) == PNG
    assert skipped == {
        "AppleDouble": 4, "HEIC (extra heic)": 1, "in .ipynb_checkpoints": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("end", "said"),
    [(END, ""), (bytes(BLOCK), ""), (b"", "; 1 tar ends without the mark of the end, and may")],
)
def test_a_tar_cut_between_members_is_told(end, said, written):
    skipped = Counter[str]()
    assert len(list(samples_from_sources([written(A + B + end)], skipped=skipped))) == 2
    assert format_skipped(skipped).startswith(said) and bool(format_skipped(skipped)) == bool(said)


def test_all_files_are_told_by_their_content(written):
    data = (
        member("a") + header("l", 0, b"1", "a") + member("b.png", b"text") + member("no", b"x" * 99)
        + header("m", 0, b"1", "no") + header("p", 0, b"6") + header("p.png", 0, b"6") + member("c")
    )  # fmt: skip
    expected = [("a", ""), ("l", ""), ("p.png", "not_regular"), ("c", "")]
    assert rows(written(data), all_files=True) == expected


def test_members_past_the_limit_are_rows(written, monkeypatch):
    monkeypatch.setattr(tars, "LIMITS", Limits(max_bytes=len(PNG)))
    path = written(A + member("big.png", PNG + b"?") + B + END)
    expected = [("a.png", ""), ("big.png", "too_large"), ("b.png", "")]
    assert rows(path, through_child) == rows(path, through_child, all_files=True) == expected


def test_a_tar_that_is_none_to_be_read_is_a_row(tmp_path):
    os.mkfifo(tmp_path / "fifo.tar")
    (tmp_path / "folder.tar").mkdir()
    for name, code in [("absent", "missing"), ("fifo", "not_regular"), ("folder", "not_regular")]:
        assert rows(f"{tmp_path}/{name}.tar", through_child) == [(None, code)]
    assert rows("nul\0.tar", through_child) == [(None, "missing")]


# What gzip has to say.


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda z: z, ["a", "b"]),
        (lambda z: z[:-1], ["a", "b", "truncated"]),
        (lambda z: z[:-8], ["a", "b", "truncated"]),
        (lambda z: z[:20], ["truncated"]),
        (lambda z: flipped(z, len(z) - 7), ["a", "b", "decode"]),  # the checksum
        (lambda z: flipped(z, len(z) - 2), ["a", "b", "decode"]),  # the length
        (lambda z: z + bytes(100_000), ["a", "b"]),
        (lambda z: z + b"garbage", ["a", "b", "decode"]),
        (lambda z: z + bytes(100_000) + b"garbage", ["a", "b", "decode"]),
        (lambda z: z + gzip.compress(b""), ["a", "b"]),
        (lambda z: gzip.compress(b"") + z, ["a", "b"]),
        (lambda z: z + gzip.compress(b"behind")[:-1], ["a", "b", "truncated"]),
        (lambda z: b"\x1f\x8b", ["truncated"]),
        (lambda z: b"\x1f\x8b" + b"?" * 99, ["decode"]),
    ],
)
def test_gzip_is_held_to_its_checksum_length_and_end(change, expected, tmp_path):
    path = tmp_path / "shard.tgz"
    path.write_bytes(change(gzip.compress(A + B + END, mtime=0)))
    wanted = [(None, n) if n in CODES else (f"{n}.png", "") for n in expected]
    assert rows(str(path)) == wanted


def test_gzip_members_in_a_row_are_one_stream(tmp_path):
    data = A + B + C + END
    path = tmp_path / "shard.tar.gz"
    path.write_bytes(b"".join(gzip.compress(data[i : i + 99]) for i in range(0, len(data), 99)))
    assert rows(str(path)) == [("a.png", ""), ("b.png", ""), ("c.png", "")]


def test_a_bomb_is_unpacked_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(gunzipped, "BOMB_SIZE", 2**22)
    # Python 3.12 and newer read so much of a file at once, which is little beside a true bomb.
    monkeypatch.setattr(gzip, "READ_BUFFER_SIZE", 2**13, raising=False)
    noise = gzip.compress(random.Random(0).randbytes(2**22))
    alike = gzip.compress(A * 20_000)
    bomb = gzip.compress(bytes(2**26))
    path = tmp_path / "x.gz"
    for data, fault in [
        (alike, None), (noise + gzip.compress(bytes(2**22 - 1)), None),
        (bomb, "bomb"), (alike + bomb, "bomb"), (noise + bomb, "bomb"),
    ]:  # fmt: skip
        path.write_bytes(data)
        with io.FileIO(path) as file:
            stream = Gunzipped(file, lambda: None)
            stream.read_to_end()
        assert (stream.fault is not None) == bool(fault)
        assert stream.tell() < len(A) * 20_000 + 2**24
        assert fault is None or stream.fault.code == "too_large"
    inside = gzip.compress(header("z.bin", 2**25))
    path.write_bytes(gzip.compress(A) + inside + bomb + gzip.compress(B))
    assert rows(str(path)) == [("a.png", ""), (None, "too_large")]


# The child.


@pytest.mark.parametrize(
    ("serve", "code", "said"),
    [
        (children.abort, "crash", "SIGABRT"),
        (children.leave, "crash", "exit code 7"),
        (children.hang, "timeout", "nothing came for 0.5 s"),
    ],
)
def test_a_child_that_fails_costs_its_archive(serve, code, said, written, monkeypatch):
    monkeypatch.setattr(tars, "serve", serve)
    monkeypatch.setattr(tars, "TIME_LIMIT", 0.5 if code == "timeout" else 60.0)
    (item,) = through_child(written(A))
    assert item.error.code == code and said in str(item.error)


def test_the_child_ends_with_who_reads(tmp_path):
    def children() -> set[str]:
        task = f"/proc/self/task/{threading.get_native_id()}/children"
        return set(Path(task).read_text().split())

    before = children()
    path = tmp_path / "shard.tar.gz"
    path.write_bytes(gzip.compress(A + member("b.png", bytes(10**7)) + END))
    samples = through_child(str(path))
    assert next(samples).path.endswith("a.png")
    assert len(children() - before) == 1
    samples.close()
    assert children() == before
    list(through_child(str(path)))
    assert children() == before


def test_progress_is_told_while_a_member_is_passed_over(tmp_path):
    """The child gives signs of life by it, so that a long search is not taken for a hang."""
    path, calls = tmp_path / "shard.tar.gz", []
    path.write_bytes(gzip.compress(A + header("x.bin", 2**25) + bytes(2**25) + B))
    found = walked(str(path), report_progress=lambda: calls.append(1))
    assert len(list(found)) == 2
    assert len(calls) > 32


def test_links_of_a_gzipped_tar_are_unpacked_again_so_often(tmp_path, monkeypatch):
    path = tmp_path / "shard.tar.gz"
    links = [header(f"{i}.png", 0, b"1", "a.png") for i in range(4)]
    path.write_bytes(gzip.compress(A + links[0] + B + b"".join(links[1:]) + END))
    expected = [("a.png", ""), ("0.png", ""), ("b.png", "")]
    assert rows(str(path)) == [*expected, ("1.png", ""), ("2.png", ""), ("3.png", "")]
    monkeypatch.setattr(tar_members, "READ_AGAIN", 2 * (BLOCK + len(PNG)))
    expected += [("1.png", ""), ("2.png", "too_large"), ("3.png", "too_large")]
    assert rows(str(path)) == rows(str(path), all_files=True) == expected


def test_links_to_members_long_ago_are_rows(written, monkeypatch):
    monkeypatch.setattr(tar_members, "REMEMBERED", 3)
    links = [header(f"{name}.png", 0, b"1", f"{name[0]}.png") for name in ("a1", "c1", "a2", "b2")]
    assert rows(written(A + B + C + b"".join(links))) == [
        ("a.png", ""), ("b.png", ""), ("c.png", ""),
        ("a1.png", ""), ("c1.png", ""), ("a2.png", "missing"), ("b2.png", "missing"),
    ]  # fmt: skip


@pytest.mark.skipif(GNU_TAR is None, reason="needs GNU tar")
@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))],
)
def test_sparse_members_of_gnu_tar_are_told_by_their_names(options, tmp_path):
    assert GNU_TAR
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "z.png").write_bytes(PNG)
    with (tmp_path / "holes.png").open("wb") as file:
        for i in range(40):
            file.seek(i * 2**20)
            file.write(b"island")
        file.truncate(2**26)
    tar = [GNU_TAR, "-C", tmp_path, "-Scf", tmp_path / "x.tar", *options]
    subprocess.run([*tar, "a.png", "holes.png", "z.png"], check=True)
    assert (tmp_path / "x.tar").stat().st_size < 2**22, "the file system has no holes"
    assert rows(f"{tmp_path}/x.tar") == [("a.png", ""), ("holes.png", "format"), ("z.png", "")]


# Memory.


def peak_memory(statement: str, *arguments: str) -> list[int]:
    """MiB that a process and the largest of its children take for a statement."""
    script = f"""if True:
        import resource, sys
        from vit_engine.sources.archives.tars import items_from_tar
        def peak():  # not ru_maxrss, which carries the peak of the process that started this one
            lines = open("/proc/self/status").read().splitlines()
            return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) // 1024
        before = peak()
        {statement}
        print(peak() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, check=True, timeout=500,
    )  # fmt: skip
    return [int(n) for n in done.stdout.split()]


LIST = "list(items_from_tar(sys.argv[1], all_files=False, skipped={}))"


@pytest.mark.slow
def test_claims_take_no_memory(written):
    claims = (
        *(header("x", 2**33, b"x"), header("", 2**33, b"L"), header("", 2**33, b"K")),
        pax((b"size", b"9" * 18)) + header("x.png", 1),
        pax(*((b"a%d" % i, b"b") for i in range(10**5))) + A,
        pax((b"GNU.sparse.map", b"0,1," * 10**5), (b"GNU.sparse.size", b"9" * 18)) + A,
        header("x.png", 2**33),
    )
    here, child = peak_memory(LIST, written(A + b"".join(claims) + bytes(2**20)))
    assert here < 16 and child < 1024


def zeros(size: int) -> bytes:
    """Gzip data of so many zeros, made in no time."""
    piece, rest = divmod(size, 2**26)
    return gzip.compress(bytes(2**26)) * piece + gzip.compress(bytes(rest))


@pytest.mark.slow
def test_large_members_wait_their_turn(tmp_path):
    """60 MB that would be 60 GB: what is unpacked at a time is bounded, and so is the time."""
    path = tmp_path / "shard.tar.gz"
    big = zeros(200 * 2**20)
    members = [gzip.compress(header(f"{i}.png", 200 * 2**20)) + big for i in range(300)]
    path.write_bytes(gzip.compress(A) + b"".join(members) + gzip.compress(B))
    label = """from vit_engine.classifier import Classifier
        with Classifier.load("demo", provider="cpu") as vit:
            items = items_from_tar(sys.argv[1], all_files=False, skipped={})
            found = [p.error_code for batch in vit.stream(items) for p in batch.predictions]
            assert found[0] is None and found[-1] == "too_large" and len(found) < 20, found"""
    peak, child = peak_memory(label, str(path))
    assert peak < 700 and child < 1024


# What a user sees.


def test_vit_infer_labels_what_is_sound_and_ends_with_3(written, run_command: Run):
    examples = sorted((ROOT / "examples").glob("*.png"))[:2]
    first, second = (member(path.name, path.read_bytes()) for path in examples)
    path = written(first + second + flipped(B, 3) + END)
    done = run_command("vit-infer", path, "-m", "demo", "--provider", "cpu", "-k", "1")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3
    assert [(row["path"], row["label"], row["error_code"]) for row in found] == [
        (f"{path}/{examples[0].name}", examples[0].name.partition("-")[0], None),
        (f"{path}/{examples[1].name}", examples[1].name.partition("-")[0], None),
        (path, None, "decode"),
    ]


# Any damage at all.


def sound_tar(random: random.Random) -> tuple[bytes, list[int]]:
    """A tar of any format with images, links, long names; where the entry of each image ends."""
    file, ends = io.BytesIO(), []
    form = random.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for i in range(random.randint(2, 6)):
            name = f"{i}.png"
            if random.random() < 0.2:
                name = "long/" * 25 + name
            if random.random() < 0.2 and form != tarfile.USTAR_FORMAT:
                name = "é☃" + name
            entry = tarfile.TarInfo(name)
            entry.mtime = random.choice([0, 1.5, 1e9])
            content = b"\x89PNG\r\n\x1a\n" + random.randbytes(random.choice([0, 9, 504, 505, 3000]))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            ends.append(file.tell())
            if random.random() < 0.3:
                text = tarfile.TarInfo(f"{i}.txt")
                text.size = 5
                tar.addfile(text, io.BytesIO(b"hello"))
            if random.random() < 0.3:
                link = tarfile.TarInfo(f"link-{i}.png")
                link.type, link.linkname = (
                    random.choice([tarfile.LNKTYPE, tarfile.SYMTYPE]),
                    name[-90:],
                )
                tar.addfile(link)
                ends.append(file.tell())
    return file.getvalue(), ends


_FIELDS = (
    *((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)),
    *((386, 96), (482, 13)),
)


def damaged(data: bytes, random: random.Random, *, sums: bool) -> tuple[bytes, int]:
    """Change a file in some way, a tar's headers with their checksums too if `sums`.

    Return it, and how many bytes of its beginning are as they were.
    """
    headers = [i for i in range(0, len(data) - BLOCK, BLOCK) if data[i + 257 : i + 262] == b"ustar"]
    if sums and headers and random.random() < 0.4:
        at, (start, size) = random.choice(headers), random.choice(_FIELDS)
        values = (bytes(size), b"\xff" * size, b"7" * size, b"-1".ljust(size), b"\x80".ljust(size))
        value = random.choice((random.randbytes(size), *values))[:size]
        header = data[at : at + start] + value + data[at + start + size : at + BLOCK]
        return data[:at] + summed(header) + data[at + BLOCK :], at
    at, size = random.randrange(len(data)), random.choice([1, 9, BLOCK, 3 * BLOCK])
    at -= random.choice([0, at % BLOCK])
    instead = random.choice([b"", bytes(size), random.randbytes(size)])
    return data[:at] + instead + data[at + random.choice([0, size, len(data)]) :], at


def seen(path: Path, data: bytes) -> list[tuple[str, str | None, bytes | None]]:
    """What is found in an archive, and the property of all of it."""
    path.write_bytes(data)
    found = []
    for item in walked(str(path)):
        try:
            found.append((item.path, None, bytes_from_item(item)))
        except ImageError as e:
            assert e.code in CODES and str(e).isprintable() and len(str(e)) < 500
            found.append((item.path, e.code, None))
    return found


def listed_by_gnu_tar(path: str) -> list[str]:
    """The regular members with an image's name."""
    assert GNU_TAR
    tar = [GNU_TAR, "--quoting-style=literal", "-f", path]
    names, kinds = (
        subprocess.run([*tar, option], capture_output=True, check=False).stdout.split(b"\n")
        for option in ("-t", "-tv")
    )
    pairs = zip(names, kinds, strict=True)
    return [os.fsdecode(n) for n, kind in pairs if kind[:1] == b"-" and n.endswith(b".png")]


def fuzzed(inputs: int, seed: int, path: Path, *, sums: bool = True, gnu: bool = False) -> None:
    """Damage sound archives, once or more: what lies before the damage is found as it was.

    With `gnu`, what GNU tar lists and we do not is told by an error.
    """
    randoms = random.Random(seed)
    sound = []
    for _ in range(20):
        data, ends = sound_tar(randoms)
        data = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
        sound.append((data, ends, seen(path, data)))
        assert len(ends) == len(sound[-1][2])
    for i in range(inputs):
        data, ends, before = randoms.choice(sound)
        changed, intact = damaged(data, randoms, sums=sums)
        while randoms.random() < 0.3 and changed:
            changed, first = damaged(changed, randoms, sums=sums)
            intact = min(intact, first)
        found = seen(path, changed)
        kept = 0 if path.suffix == ".gz" else sum(end <= intact for end in ends)
        assert found[:kept] == before[:kept], f"input {i} of seed {seed}"
        if gnu:
            ours = {name.removeprefix(f"{path}/") for name, _, _ in found}
            silent = all(code is None for _, code, _ in found)
            assert not silent or ours.issuperset(listed_by_gnu_tar(str(path))), f"input {i}"


def test_damage_of_any_kind(tmp_path):
    fuzzed(400, 0, tmp_path / "shard.tar")
    fuzzed(200, 0, tmp_path / "shard.tar.gz")


@pytest.mark.skipif(GNU_TAR is None, reason="needs GNU tar")
def test_what_gnu_tar_lists_is_a_row_or_told(tmp_path):
    fuzzed(100, 0, tmp_path / "shard.tar", sums=False, gnu=True)


@pytest.mark.slow
def test_damage_of_any_kind_at_length(tmp_path):
    fuzzed(10_000, 1, tmp_path / "shard.tar")
    fuzzed(2_000, 1, tmp_path / "shard.tar.gz")
    fuzzed(1_000, 1, tmp_path / "shard.tar", sums=False, gnu=True)
