"""Where the project lies, and where this user's copies are kept."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs

PROJECT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Where converted models and fetched files are kept: PRICEWRIGHT_CACHE, or the user's cache folder."""
    return Path(os.environ.get("PRICEWRIGHT_CACHE") or platformdirs.user_cache_dir("pricewright"))


def local_path(uri: str) -> Path | None:
    """The path of a file: URI, or a plain path as it stands, whatever its characters; None for what lies elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "":
        return Path(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
