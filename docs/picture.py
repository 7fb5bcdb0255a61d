"""Renders docs/contact-sheet.png, the README's picture: python docs/picture.py.

What `vit-infer --html` writes of examples/ with the demo model, in Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/contact-sheet.png"
WINDOW = "1040,695"
"""Width and height in pixels: the head of the page and two rows of images."""

COLOURS = 128


def main() -> None:
    """Label the examples and take a picture of the page."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("there is no chromium to render the page with (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "sheet.html"
        infer = [sys.executable, "-m", "vit_engine.commands.infer", "examples/", "-m", "demo"]
        options = ["-k", "3", "--html", str(page), "-o", f"{page}.csv"]
        subprocess.run([*infer, *options], cwd=ROOT, check=True)
        shot = Path(folder) / "sheet.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WINDOW}"]
        subprocess.run(
            [browser, *options, f"--screenshot={shot}", page.as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )
        with Image.open(shot) as image:  # a palette: a third of the bytes
            image.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
