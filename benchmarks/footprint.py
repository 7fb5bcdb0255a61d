"""What the runtime costs to have and to start: install size, and time to the first label.

    python benchmarks/footprint.py

Makes a fresh environment with the `cpu` extra alone, so it needs the package index.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
REPEATS = 9


def main() -> None:
    """Print the figures, one a line."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        binaries = Path(folder, "bin")
        bare = size_of(Path(folder))
        install = ["install", "--quiet", "--constraint", "constraints.txt", ".[cpu]"]
        subprocess.run([binaries / "pip", *install], check=True, cwd=ROOT)
        print(f"installed by vit-engine[cpu]: {(size_of(Path(folder)) - bare) / 1e6:.0f} MB")
        listed = subprocess.run(
            [binaries / "pip", "list", "--format=freeze"],
            check=True,
            capture_output=True,
            text=True,
        )
        names = {line.partition("==")[0] for line in listed.stdout.split()}
        print("packages:", *sorted(names - {"pip", "setuptools"}))
        image = min((ROOT / "examples").iterdir())
        seconds = [first_label(binaries / "vit-infer", image) for _ in range(REPEATS)]
    print(
        f"from process start to first label, vit-infer -m demo: median {median(seconds):.2f} s, "
        f"{min(seconds):.2f} to {max(seconds):.2f} s over {REPEATS} runs"
    )


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def first_label(program: Path, image: Path) -> float:
    """Return the seconds from starting the program to its first row."""
    start = time.perf_counter()
    with subprocess.Popen(
        [program, "-m", "demo", image], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        row = process.stdout.readline()
        seconds = time.perf_counter() - start
    assert process.returncode == 0, process.returncode
    assert b'"label"' in row, row
    return seconds


if __name__ == "__main__":
    main()
