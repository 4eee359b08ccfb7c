"""What tests of recorded data share."""

import pytest

from tests.fakes.play_store import open_store


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "play") as opened:
        yield opened
