"""How `make docs` makes a site of the repository's pages, by Sphinx and MyST."""

import tomllib
from pathlib import Path

from pygments.lexers.python import PythonLexer
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
MENUS = {
    "README": (
        *("docs/models", "docs/export", "docs/infer", "docs/evaluate", "docs/embeddings"),
        *("docs/python", "docs/serve", "docs/artefact", "docs/deployment", "deploy/README"),
        *("docs/platforms", "docs/benchmarks", "benchmarks/results/README", "benchmarks/NOTES"),
        *("CONTRIBUTING", "docs/releasing", "SECURITY", "CHANGELOG"),
    ),
    "benchmarks/results/README": ("*",),
}
"""By page, the pages below it, relative to it."""
LEXERS = {"csv": TextLexer, "table": TextLexer, "triton": PythonLexer, "vectors": PythonLexer}
"""Of the fences that only our tests know."""

project = "vit-engine"
author = "the vit-engine authors"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "deploy/*.md", "benchmarks/**.md"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Give pages their menus, and Pygments the languages of our own fences."""
    for name, lexer in LEXERS.items():
        app.add_lexer(name, lexer)
    app.connect("source-read", add_menu)


def add_menu(_: Sphinx, page: str, source: list[str]) -> None:
    """Append the page's menu, which GitHub would show as text, to its source."""
    if page in MENUS:
        menu = "\n".join(MENUS[page])
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{menu}\n```\n"
