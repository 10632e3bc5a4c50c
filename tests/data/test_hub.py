"""The hub's readers against a server on this machine that speaks the hub's file protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.config.loading import load
from tasks.curation import curate
from tasks.data import hub
from tasks.data.sources import AMAZON
from tasks.data.splits import SPLITS, read_split
from tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("without_prefect")

ONE, TWO = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """Datasets by commit, and what is to go wrong: statuses to answer with before the true answer, and bytes after
    which a download is cut."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.head = ONE
        self.trouble: list[int] = []
        self.cut_after: int | None = None
        self.asked: Counter = Counter()
        self.ranges: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """/api/datasets/REPO/revision/REV, and /datasets/REPO/resolve/REV/PATH with ranges."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.asked[self.command] += 1
        if self.server.trouble:
            status = self.server.trouble.pop(0)
            return self.send(status, b"{}", **({"Retry-After": "0"} if status == 429 else {}))
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/"):
            repo, _, revision = path.removeprefix("/api/datasets/").partition("/revision/")
            if repo == "gated/data":
                return self.send(401, b"{}", **{"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            commit = self.server.head if revision == "main" else revision
            if repo not in (AMAZON, "some/data"):
                return self.send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
            if commit not in self.server.files:
                return self.send(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": name} for name in self.server.files[commit]]
            return self.send(200, json.dumps({"id": repo, "sha": commit, "siblings": files}).encode())
        owner, _, rest = path.partition("/resolve/")
        if owner == "/gated/model":
            message = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model gated/model is restricted"}
            return self.send(401, b"{}", **message)
        if owner == "/absent/model":
            return self.send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        commit, _, name = rest.partition("/")
        content = self.server.files.get(self.server.head if commit == "main" else commit, {}).get(name)
        if content is None:
            code = "EntryNotFound" if commit in self.server.files else "RevisionNotFound"
            return self.send(404, b"", **{"X-Error-Code": code})
        return self.deliver(content, commit)

    def deliver(self, content: bytes, commit: str) -> None:
        names = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start = 0
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            names["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if wanted else 200)
        for name, value in {**names, "Content-Length": str(len(content) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            cut, self.server.cut_after = self.server.cut_after, None
            self.wfile.write(content[start:] if cut is None else content[start : start + cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": self.server.head, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def products(start: int, count: int) -> bytes:
    names = ("kettle", "pot", "pan", "lid", "cup", "jug")
    titles = {n: f"{names[n % 6]} " * 3 + " ".join(f"{n}{c}" for c in "abcdefg") for n in range(start, start + count)}
    rows = [{"parent_asin": f"B{n}", "title": title, "price": 5 + n} for n, title in titles.items()]
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one dataset of two categories at commit ONE, and no waiting between tries."""
    from huggingface_hub import constants

    with Hub() as server:
        server.files[ONE] = {
            "README.md": b"about",
            "raw/meta_categories/meta_Appliances.jsonl": products(0, 60),
            "raw/meta_categories/meta_Automotive.jsonl": products(60, 60),
        }
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hub, "WAIT", 0.01)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


FILE = "raw/meta_categories/meta_Appliances.jsonl"


def test_a_file_is_fetched_once_and_pinned(server: Hub) -> None:
    """Under its commit, byte for byte; a second time without a question, even where the hub is gone."""
    file = hub.fetch("some/data", FILE, ONE)
    assert file.read_bytes() == server.files[ONE][FILE] and ONE in str(file)
    asked = server.asked.total()
    server.files.clear()
    assert hub.fetch("some/data", FILE, ONE) == file and server.asked.total() == asked


def test_a_cut_download_goes_on_where_it_stopped(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is asked for by a range; the whole is checked against the hub's own digest."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    server.cut_after = 1000
    assert hub.fetch("some/data", FILE, ONE).read_bytes() == server.files[ONE][FILE]
    assert server.ranges and server.ranges[0].startswith("bytes=1000-")


def test_a_download_that_was_killed_goes_on_in_the_next_process(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk is kept, and only the rest is fetched."""
    content = server.files[ONE][FILE]
    whole = hub._download

    def killed(_url: str, part: Path, _size: int | None) -> None:
        part.write_bytes(content[:700])
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "_download", killed)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch("some/data", FILE, ONE)
    monkeypatch.setattr(hub, "_download", whole)
    assert hub.fetch("some/data", FILE, ONE).read_bytes() == content
    assert server.ranges == ["bytes=700-"]


def test_a_damaged_download_is_not_used(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest is not the hub's: said, and fetched again by the next command."""
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_download", lambda _url, part, _size: part.write_bytes(b"garbage"))
        with pytest.raises(UserError, match="arrived damaged"):
            hub.fetch("some/data", FILE, ONE)
    assert hub.fetch("some/data", FILE, ONE).read_bytes() == server.files[ONE][FILE]


@pytest.mark.parametrize("trouble", [[429], [503, 500, 429]])
def test_a_busy_hub_is_asked_again(server: Hub, trouble: list[int]) -> None:
    """429 and errors of the server pass."""
    server.trouble = list(trouble)
    assert hub.snapshot("some/data").commit == ONE
    assert server.asked["GET"] == len(trouble) + 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hub.snapshot("no/data"), "has not got the dataset no/data, or not for this account"),
        (lambda: hub.snapshot("gated/data"), "gated, accept its terms"),
        (lambda: hub.snapshot("some/data", TWO), f"no revision {TWO}"),
        (lambda: hub.fetch("some/data", "none.jsonl", ONE), "has not got none.jsonl of some/data"),
        (lambda: hub.matching(hub.snapshot("some/data"), "*.csv"), "holds no file .*Its files begin: README.md"),
    ],
)
def test_a_final_answer_is_not_asked_for_again(server: Hub, call: Callable[[], object], message: str) -> None:
    """401 and 404 say what is wrong and what to do, after one question."""
    with pytest.raises(UserError, match=message):
        call()
    assert max(server.asked.values()) == 1


def test_a_hub_that_stays_busy_or_away_is_said(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five tries, with what to do."""
    server.trouble = [429] * hub.TRIES
    with pytest.raises(UserError, match=r"answered 429.*goes on where this one stopped"):
        hub.snapshot("some/data")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        hub.snapshot("some/data")


def test_amazon_is_curated_by_category_at_its_commit(server: Hub, tmp_path: Path, at: Callable) -> None:
    """Ids and categories are the corpus's own; curated again without a network."""
    words = [*at(tmp_path), "data.source=amazon", f"data.revision={ONE}", "data.categories=[Appliances,Automotive]"]
    words += ["data.near=null", "data.part_numbers=keep"]
    dataset = curate(load("conf/smoke.yaml", words))
    items = [item for split in SPLITS for item in read_split(dataset, split)]
    assert len(items) == 120
    assert {item.id: item.category for item in items}["B70"] == "Automotive"
    server.shutdown()
    assert curate(load("conf/smoke.yaml", words)).digest == dataset.digest


def test_a_category_that_is_not_there_is_named(server: Hub, tmp_path: Path, at: Callable) -> None:
    """Instead of a corpus that lacks it."""
    words = [*at(tmp_path), "data.source=amazon", f"data.revision={ONE}", "data.categories=[Appliances,Kettles]"]
    with pytest.raises(UserError, match=r"meta_Kettles\.jsonl of McAuley-Lab"):
        curate(load("conf/smoke.yaml", words))
    assert server.asked.total() < 10


def test_a_branch_that_moved_is_curated_again(server: Hub, tmp_path: Path, at: Callable) -> None:
    """A branch is resolved to its commit first; other content is another dataset, a pinned commit stays."""
    words = [*at(tmp_path), "data.source=hub", "data.repo=some/data", "data.files=raw/*", "data.near=null"]
    words += ["data.part_numbers=keep"]
    first = curate(load("conf/smoke.yaml", words))
    assert curate(load("conf/smoke.yaml", words)).path == first.path
    server.files[TWO] = {**server.files[ONE], FILE: products(200, 60)}
    server.head = TWO
    assert curate(load("conf/smoke.yaml", words)).digest != first.digest
    pinned = load("conf/smoke.yaml", [*words, f"data.revision={ONE}"])
    assert curate(pinned).digest == first.digest
    asked = server.asked.total()
    assert curate(pinned, "recall").digest == first.digest and server.asked.total() == asked


def test_the_hub_needs_a_name(tmp_path: Path, at: Callable) -> None:
    """And says so before it asks anything."""
    with pytest.raises(UserError, match=r"data\.repo is not set"):
        curate(load("conf/smoke.yaml", [*at(tmp_path), "data.source=hub"]))


@pytest.mark.parametrize("base", ["gated/model", "absent/model"])
def test_a_model_that_is_closed_or_not_there_is_said_with_the_remedy(
    base: str, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tokenizer, the config and the model alike, in one message: log in, or take another."""
    from huggingface_hub import constants

    from tasks.models.language.base_model import load_config, load_model, load_tokenizer
    from tasks.models.language.hardware import Hardware, settings

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = "{endpoint}/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace("{endpoint}", constants.ENDPOINT))
    for load_it in (load_tokenizer, load_config, lambda base: load_model(base, settings(Hardware("cpu"), None, {}))):
        with pytest.raises(UserError, match=rf"finetune.base: {base} cannot be loaded .*hf auth login"):
            load_it(base)
    assert server.asked.total() > 0
