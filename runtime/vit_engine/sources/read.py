"""From an item to the bytes of its image, wherever they lie."""

from vit_engine.sources.downloads import bytes_from_url, is_url
from vit_engine.sources.files import bytes_from_path
from vit_engine.sources.item import LIMITS, Item, Limits
from vit_engine.sources.stores import bytes_from_store, is_store


def bytes_from_item(
    item: Item, *, limits: Limits = LIMITS, private_redirects: bool = False
) -> bytes:
    """Read or download what an item names; `ImageError` where that cannot be.

    `private_redirects` is that of `bytes_from_url`.
    """
    if item.error is not None:
        raise item.error
    if item.data is not None:
        return item.data
    if item.span is not None:
        return bytes_from_path(
            item.span.file, limits=limits, part=(item.span.start, item.span.size)
        )
    if is_url(item.path):
        return bytes_from_url(item.path, limits=limits, private_redirects=private_redirects)
    if is_store(item.path):
        return bytes_from_store(item.path, limits=limits)
    return bytes_from_path(item.path, limits=limits)
