"""What tests of models behind an API share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import KEY, Endpoint, completion, send, serving


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Endpoint]:
    """One that answers "$20"; a cache and a key of the test's own."""
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEST_KEY", KEY)
    with serving(lambda handler, _asked, _attempt: send(handler, completion("$20"))) as endpoint:
        yield endpoint
