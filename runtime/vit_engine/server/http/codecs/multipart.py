"""Files of a multipart/form-data body, with their names, in memory."""

import math

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from vit_engine.server.core.refusal import RefusalError, bad_request

_FIELDS = 100  # without a filename, which are passed over


def files_of(body: bytes, content_type: str, *, maximum: int) -> list[tuple[str, bytes]]:
    """Return (name, content) of each file in order; fields without a filename are passed over.

    RefusalError for a body that is none, and for more than `maximum` files.
    """
    files: list[tuple[str, bytes]] = []
    fields, ended = 0, False

    def add(file: File) -> None:
        if len(files) == maximum:
            raise RefusalError(
                413, "too_many", f"the body has more than {maximum} files, the limit"
            )
        file.file_object.seek(0)
        files.append(((file.file_name or b"").decode("utf-8", "replace"), file.file_object.read()))

    def pass_over(_: Field) -> None:
        nonlocal fields
        fields += 1
        if fields > _FIELDS:
            raise RefusalError(
                413, "too_many", f"the body has more than {_FIELDS} fields that are no files"
            )

    def end() -> None:
        nonlocal ended
        ended = True

    kind, options = parse_options_header(content_type)
    if not (boundary := options.get(b"boundary")):
        raise bad_request("multipart/form-data without a boundary in Content-Type")
    try:
        config = {"MAX_MEMORY_FILE_SIZE": math.inf}
        parser = FormParser(kind.decode(), pass_over, add, end, boundary, config=config)
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise bad_request(f"the body is no multipart/form-data ({e})") from None
    if not ended:
        raise bad_request("the multipart body is cut short")
    return files
