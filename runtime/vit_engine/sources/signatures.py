"""What counts as an image before it is read: by the name of its file, or by its first bytes."""

import functools
import importlib.util

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
)
"""Names that folders are searched for, in lower case."""

_RAW = "camera raw"

UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".psd", ".psb"), "Photoshop"),
    ".svg": "SVG",
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "Netpbm"),
    ".tga": "TGA",
    ".exr": "OpenEXR",
    ".dcm": "DICOM",
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2"), _RAW),
}
"""Names of images that are not read, in lower case, and their formats."""

PLUGINS = {"HEIC": ("pillow_heif", "heic"), "JPEG XL": ("pillow_jxl", "jxl")}
"""Modules by which Pillow reads formats that it does not know itself, and the extras with them."""

HEAD = 128
"""Bytes at the start of a file that tell its format."""

_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)

_UNREAD_SIGNATURES = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"FUJIFILMCCD-RAW": _RAW,
}

# ISO/IEC 23008-12 and the AV1 Image File Format: brands of HEVC images, of AV1 images, of either.
_HEIC = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"MiHE", b"MiHB")
)
_AVIF = frozenset((b"avif", b"avis"))
_EITHER = frozenset((b"mif1", b"msf1"))


@functools.cache
def has_plugin(unread: str | None) -> bool:
    """Tell whether a format that is not read by Pillow alone is read all the same."""
    return unread in PLUGINS and importlib.util.find_spec(PLUGINS[unread][0]) is not None


def is_image(head: bytes) -> bool:
    """Tell from the first HEAD bytes of a file whether it has the signature of a known format."""
    if head[4:8] == b"ftyp":
        return head[8:12] in _AVIF | _EITHER and not _is_heic(head)
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def unread_format(head: bytes) -> str | None:
    """Return the format of an image that is not read, from the first HEAD bytes; None for others.

    HEIC is known by any of its brands: phones write `mif1` first, as AVIF files do too.
    """
    if head[4:8] == b"ftyp":
        return "HEIC" if _is_heic(head) else _RAW if head[8:12] == b"crx " else None
    return next(
        (name for start, name in _UNREAD_SIGNATURES.items() if head.startswith(start)), None
    )


def _is_heic(head: bytes) -> bool:
    """Tell HEIC from AVIF by the brands of the `ftyp` box: the major one, then the compatible."""
    major, size = head[8:12], int.from_bytes(head[:4], "big")
    compatible = {head[i : i + 4] for i in range(16, min(size, HEAD, len(head)), 4)}
    if major in _HEIC:
        return True
    return not (major in _AVIF or compatible & _AVIF) and not compatible.isdisjoint(_HEIC)
