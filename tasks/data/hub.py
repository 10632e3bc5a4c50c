"""Files of the Hugging Face hub: pinned to a commit, fetched once, and resumed where a download was cut.

The client's own settings hold: HF_ENDPOINT, HF_TOKEN, HF_HOME. Only the network is tried again; an answer such as 401
or 404 is final.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from filelock import FileLock

from tasks.errors import UserError
from tasks.progress import Progress

TRIES = 5
WAIT = 1.0  # seconds after the first failure, doubled after each further one
T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Snapshot(NamedTuple):
    """A hub dataset at one commit, with the paths of its files, sorted."""

    repo: str
    commit: str
    files: list[str]


def snapshot(repo: str, revision: str | None = None) -> Snapshot:
    """The files of a dataset at a commit, branch or tag.

    Raises:
        UserError: there is no such dataset or revision, it is closed to this account, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with _mendable(f"the dataset {repo}", revision):
        info = _patiently(lambda: HfApi(endpoint=_endpoint()).dataset_info(repo, revision=revision or "main"))
    return Snapshot(repo, str(info.sha), sorted(file.rfilename for file in info.siblings or []))


def matching(found: Snapshot, pattern: str) -> list[str]:
    """The files of a snapshot whose path fits a glob.

    Raises:
        UserError: none does.
    """
    files = [file for file in found.files if fnmatch(file, pattern)]
    if not files:
        known = ", ".join(found.files[:10]) or "none"
        raise UserError(f"The dataset {found.repo} holds no file {pattern}. Its files begin: {known}.")
    return files


def fetch(repo: str, path: str, revision: str = "main", repo_type: str = "dataset") -> Path:
    """A file of the hub on this disk; what an earlier, cut download left is gone on with.

    Raises:
        UserError: it is not there, closed to this account, or not what the hub said it would be.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    folder = Path(constants.HF_HUB_CACHE) / "pricewright" / repo_type / repo
    kept = folder / revision / path
    if COMMIT.fullmatch(revision) and kept.is_file():
        return kept
    with _mendable(f"{path} of {repo}", revision):
        url = hf_hub_url(repo, path, repo_type=repo_type, revision=revision, endpoint=_endpoint())
        metadata = _patiently(lambda: get_hf_file_metadata(url, endpoint=_endpoint()))
        target = folder / (metadata.commit_hash or revision) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            # The etag in the name: a part of another version is never gone on with.
            part = target.with_name(f"{target.name}.{re.sub(r'[^0-9a-zA-Z]', '', metadata.etag or '')[:16]}.part")
            if not target.is_file():
                _patiently(lambda: _download(url, part, metadata.size))
                _check(part, metadata.etag or "", path)
                part.rename(target)
    return target


def _download(url: str, part: Path, size: int | None) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    done = part.stat().st_size if part.is_file() else 0
    with part.open("ab") as file, Progress(f"downloading {part.name.split('.')[0]}", size, "bytes", done) as progress:

        class Bar:  # what the client calls a progress bar
            def update(self, count: float = 1) -> None:
                progress.advance(int(count))

        http_get(
            url, file, resume_size=done, headers=build_hf_headers(), expected_size=size, _tqdm_bar=cast(Any, Bar())
        )


def _check(part: Path, etag: str, path: str) -> None:
    if SHA256.fullmatch(etag):  # large files are named by their content
        with part.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != etag:
                part.unlink()
                raise UserError(f"{path} arrived damaged. The same command fetches it again.")


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def _patiently(call: Callable[[], T]) -> T:
    """What the call returns, tried again where the network or a busy server is to blame."""
    for attempt in range(TRIES):
        try:
            return call()
        except Exception as error:
            if attempt == TRIES - 1 or not _passing(error):
                raise
            time.sleep(_asked_to_wait(error) or WAIT * 2**attempt)
    raise AssertionError


def _passing(error: Exception) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (408, 429, 500, 502, 503, 504) or (status is None and _of_network(error))


def _of_network(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError"}) or "Consistency check" in str(error)


def _asked_to_wait(error: Exception) -> float:
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(asked), 300) if asked.isdigit() else 0


@contextmanager
def _mendable(what: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    log_in = "If it is private or gated, accept its terms on its page and run `hf auth login`."
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"The hub keeps {what} closed. {log_in}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"The hub has no revision {revision} of {what}. Check data.revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"The hub has not got {what}, or not for this account. Check its name. {log_in}") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"The hub has not got {what} (revision {revision or 'main'}).") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        again = "The same command goes on where this one stopped." if status in (429, 500, 502, 503, 504) else log_in
        raise UserError(f"The hub answered {status} for {what}. {again}") from error
    except Exception as error:
        if not _of_network(error):
            raise
        raise UserError(
            f"The hub cannot be reached for {what} ({error}). The same command goes on where this one stopped; "
            "HF_ENDPOINT names a mirror."
        ) from error
