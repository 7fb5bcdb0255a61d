"""What counts as an image before it is read: by the name of its file, or by its first bytes."""

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
)
"""Names that folders are searched for, in lower case."""

APPLE_DOUBLE = b"\0\x05\x16\x07"
"""How the files begin that macOS leaves beside others, as `._NAME`: no images, whatever NAME is."""

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


def is_image(head: bytes) -> bool:
    """Tell from the first 16 bytes of a file whether it has the signature of a known format."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1", b"msf1"))
    )
