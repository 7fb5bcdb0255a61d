"""A server of the demo, for tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from support.running_server import Server, running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running("demo") as started:
        yield started
