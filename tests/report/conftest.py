"""What the tests of the report share."""

from __future__ import annotations

import pytest

from tasks.report.board import Leaderboard
from tests.report.boards import full_board


@pytest.fixture(scope="session")
def board() -> Leaderboard:
    """A board with every kind of row."""
    return full_board()
