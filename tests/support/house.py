"""The rooms of both packages, in the order in which they may import, and the map made of them.

`python tests/support/house.py` writes the map into CONTRIBUTING.md.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"vit_engine": ROOT / "runtime/vit_engine", "vit_export": ROOT / "export/vit_export"}

RUNTIME = (
    "commands",
    "cli",
    "server",
    "cluster",
    "evaluation",
    "rows",
    "classifier",
    "embedder",
    "text_embedder",
    "image_model",
    "engine",
    "providers",
    "options",
    "images",
    "sources",
    "outputs",
    "artefact",
    "machine",
    "errors",
)
"""The rooms and single files of vit_engine, from the top down: imports go down, never up."""

EXPORTER = (
    "cli",
    "export_options",
    "hf_folder",
    "triton",
    "text_artefact",
    "artefact",
    "verify",
    "reference",
    "zero_shot",
    "eager",
    "quantization",
    "graph",
    "checkpoints",
    "packages",
    "families",
    "files",
    "samples",
)
"""The same of vit_export."""

START, END = "<!-- the map: python tests/support/house.py -->\n", "<!-- the map ends -->\n"


def row(path: Path, home: Path) -> str:
    """Return a row of a table: a package or module, and the first paragraph of its docstring."""
    module = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    first = " ".join(text.partition("\n\n")[0].split()).rstrip(".")
    name = path.relative_to(home).as_posix() + ("/" if path.is_dir() else "")
    return f"| `{name}` | {first} |\n"


def map_of_the_house() -> str:
    """Return the two tables of rooms."""
    tables = []
    for package, rooms in (("vit_engine", RUNTIME), ("vit_export", EXPORTER)):
        home = FOLDERS[package]
        paths = (home / room if (home / room).is_dir() else home / f"{room}.py" for room in rooms)
        body = "".join(row(path, home) for path in paths)
        tables.append(f"{row(home, ROOT)}| --- | --- |\n{body}\n")
    return "".join(tables)


def with_map(page: str) -> str:
    """Return CONTRIBUTING.md's text with the map of today."""
    before, rest = page.split(START)
    return f"{before}{START}\n{map_of_the_house()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    contributing = ROOT / "CONTRIBUTING.md"
    contributing.write_text(with_map(contributing.read_text()))
