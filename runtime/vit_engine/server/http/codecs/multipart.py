"""Files of a multipart/form-data body, with their names, in memory."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vit_engine.server.http.refusal import RefusalError, malformed

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


def files_of(body: bytes, content_type: str, *, most: int) -> list[tuple[str, bytes]]:
    """Return (name, content) of each file in order; fields without a filename are passed over.

    RefusalError for a body that is none, and for more than `most` files.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise malformed("multipart/form-data without a boundary in Content-Type")
    reader = _Reader(most)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise malformed(f"the body is no multipart/form-data ({e})") from None
    if not reader.ended:
        raise malformed("the multipart body is cut short")
    return reader.files


class _Reader:
    """Collects the parts that a parser finds."""

    def __init__(self, most: int) -> None:
        self.files: list[tuple[str, bytes]] = []
        self.ended = False
        self._most = most
        self._name, self._value, self._headers = b"", b"", dict[bytes, bytes]()
        self._parts: list[bytes] | None = None
        self._filename = ""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._end_all,
        }

    def _begin(self) -> None:
        self._headers = {}

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"filename")
        self._parts = None if name is None else []
        if name is not None:
            self._filename = name.decode("utf-8", "replace")
            if len(self.files) == self._most:
                raise RefusalError(
                    413, "too_many", f"the body has more than {self._most} files, the limit"
                )

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._parts is not None:
            self._parts.append(data[start:end])

    def _end(self) -> None:
        if self._parts is not None:
            self.files.append((self._filename, b"".join(self._parts)))
            self._parts = None

    def _end_all(self) -> None:
        self.ended = True
