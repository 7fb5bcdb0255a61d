"""A real Chromium that looks at pages; where there is none, what wants it skips."""

import shutil
import subprocess
from pathlib import Path

import pytest


def chromium(profile: Path, *more: str) -> list[str]:
    """Return the command line of a headless Chromium with a profile of its own."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no chromium to look at the page with (apt-get install chromium)")
    off = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
    flags = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in off)]
    return [program, *flags, f"--user-data-dir={profile}", *more]


def document(page: Path, profile: Path, *options: str) -> str:
    """Load a page, and return the document that its script made."""
    line = chromium(profile, "--dump-dom", *options, page.as_uri())
    return subprocess.run(line, capture_output=True, text=True, timeout=90, check=True).stdout
