"""What several test files share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real weights and images; tests that want it skip where it is absent."""
    path = Path(os.environ.get("VIT_TEST_DATA", ROOT.parent / "shared/data"))
    if not (path / "deit-tiny-imagenet1k/model.safetensors").is_file():
        pytest.skip(f"no test data at {path} (set VIT_TEST_DATA)")
    return path
