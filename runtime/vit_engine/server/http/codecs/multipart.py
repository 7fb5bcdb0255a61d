"""Files and fields of a multipart/form-data body, with their names, in memory."""

import math

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from vit_engine.server.core.refusal import RefusalError, bad_request

_FIELDS = 100  # without a filename


def files_and_fields(
    body: bytes, content_type: str, *, maximum: int
) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """Return (name, content) of each file in order, and of each field without a filename.

    RefusalError for a body that is none, and for more than `maximum` files.
    """
    files: list[tuple[str, bytes]] = []
    fields: list[tuple[str, str]] = []
    ended = False

    def add(file: File) -> None:
        if len(files) == maximum:
            raise RefusalError(
                413, "too_many", f"the body has more than {maximum} files, the limit"
            )
        file.file_object.seek(0)
        files.append(((file.file_name or b"").decode("utf-8", "replace"), file.file_object.read()))

    def add_field(field: Field) -> None:
        if len(fields) == _FIELDS:
            raise RefusalError(
                413, "too_many", f"the body has more than {_FIELDS} fields that are no files"
            )
        name, value = field.field_name or b"", field.value or b""
        fields.append((name.decode("utf-8", "replace"), value.decode("utf-8", "replace")))

    def end() -> None:
        nonlocal ended
        ended = True

    kind, options = parse_options_header(content_type)
    if not (boundary := options.get(b"boundary")):
        raise bad_request("multipart/form-data without a boundary in Content-Type")
    try:
        config = {"MAX_MEMORY_FILE_SIZE": math.inf}
        parser = FormParser(kind.decode(), add_field, add, end, boundary, config=config)
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise bad_request(f"the body is no multipart/form-data ({e})") from None
    if not ended:
        raise bad_request("the multipart body is cut short")
    return files, fields
