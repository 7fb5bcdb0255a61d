"""The demo, open on the CPU."""

from collections.abc import Iterator

import pytest

from vit_engine.classifier import Classifier


@pytest.fixture(scope="package")
def vit() -> Iterator[Classifier]:
    with Classifier.load("demo", provider="cpu") as classifier:
        yield classifier
