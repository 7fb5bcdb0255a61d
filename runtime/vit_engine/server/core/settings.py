"""What a server allows and how long it waits; the defaults of vit-serve."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of one server. Times are seconds, sizes bytes; `keys` empty means no key is asked."""

    max_body: int = 16 * 2**20
    max_files: int = 32  # of one multipart body
    max_pixels: int = 50_000_000
    max_images: int = 1024  # that wait or run, of each model
    max_held: int = 256 * 2**20  # of bodies at once
    decode_time: float = 5.0
    body_time: float = 10.0
    header_time: float = 10.0
    keep_alive: float = 75.0
    deadline: float = 30.0
    drain: float = 5.0
    hang_timeout: float = 60.0  # a batch that runs longer will not end
    origins: tuple[str, ...] = ()  # of pages elsewhere that may call (CORS)
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None  # besides local names, in the header Host; None for any
    log_requests: bool = False


SETTINGS = Settings()
