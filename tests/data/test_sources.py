"""Where raw rows come from: an entry in SOURCES is all that a new source takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.config.experiment import Data
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.files import shards
from tasks.data.files.shards import Shard
from tasks.data.sources import SOURCES, Source
from tasks.digests import data_digest

pytestmark = pytest.mark.usefixtures("without_prefect")


def test_a_new_source_is_one_entry(tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read a file of its own kind, and its dataset is called as the file is."""
    feed = tmp_path / "feed.list"
    feed.write_text("\n".join(f"Kettle {number} of brushed steel = {number + 5}" for number in range(120)))

    def cut(data: Data, _seed: int, folder: Path) -> Iterator[Shard]:
        pairs = (line.split(" = ") for line in Path(str(data.path)).read_text().splitlines())
        return shards.spill(({"title": title, "price": price} for title, price in pairs), folder, str(data.path))

    source = Source(shards=cut, identity=lambda data, _seed: data_digest(Path(str(data.path))))
    monkeypatch.setitem(SOURCES, "list", source)
    words = [*at(tmp_path), "data.source=list", f"data.path={feed}", "data.near=null"]
    dataset = curate(load("conf/files.yaml", words))
    assert dataset.name == "feed-list" and sum(dataset.rows.values()) == 120
