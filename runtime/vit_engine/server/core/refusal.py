"""Why a request gets no labels: a status, a code for programs, words for people."""


class RefusalError(Exception):
    """A request that is not answered as it wished; `retry_after` in seconds."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


def bad_request(message: str) -> RefusalError:
    """Return the refusal of a request that cannot be understood."""
    return RefusalError(400, "malformed", message)
