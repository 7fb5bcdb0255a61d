"""The map in CONTRIBUTING.md says what the packages say, and the lives lead through real files."""

import re

import pytest

from support import ROOT
from support.house import FOLDERS, with_map

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_map_is_made_of_the_docstrings() -> None:
    assert with_map(PAGE) == PAGE, "run: python tests/support/house.py"


@pytest.mark.parametrize("life", ["An image", "A weight", "A request"])
def test_a_life_leads_through_files_that_are_there(life: str) -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"- **{life}** "))
    files = re.findall(r"`([^`]+\.py)`", line)
    assert len(files) > 9
    for path in files:
        assert any((folder / path).is_file() for folder in (*FOLDERS.values(), ROOT)), path
