"""The distribution of a causal language model over whole-number prices.

    trie = build_trie(tokenizer)
    probabilities, mass = price_distribution(model, trie, prompts)  # prompts: token ids up to and with "Price is $"
    prices = ESTIMATORS["median"](probabilities, trie.prices)  # in the unit of the prompts

Only the inner nodes of the trie are run through the model: the prompt alone where each number is one token, and 99
prefixes of one and two digits more where each digit is. They follow the prompt in one cache, under an attention mask
that lets each see the prompt, its own ancestors and itself.

A price is a number and the suffix behind it ("129" and "."), as in training: a model that goes on to "129,000" did not
answer 129.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.models.language.price_trie import PriceTrie

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

LOGITS_BYTES = 256 * 2**20  # float32 logits of one forward pass: nodes beyond it wait for the next pass
SPLIT_NODES = 256  # a batch of fewer nodes is not worth splitting: a pass takes long however few there are
SPLIT_SHARE = 0.85  # of the padded places that hold a node
LSE_ROWS = 16  # float32 logits of so many places fit a CPU's caches
PRUNE_AIM = 0.8  # aim below the allowed rest, since it must also hold once the next nodes turn out to lose some mass
LIKES = 4  # nodes that say how one like them shares its probability
TINY = 1e-300


def price_distribution(
    model: PreTrainedModel,
    trie: PriceTrie,
    prompts: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
    prune: float = 0.0,
    closing: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of every price of the trie after each of n prompts (token ids, of any lengths).

    Returns float64 probabilities [n, k], whose rows sum to 1, and the mass [n] they had before that: the probability
    that the model writes a whole number of the range and then the suffix. Plain, 4-bit and PEFT models keep their
    training mode.

    Whether the suffix follows the longest numbers ("129" may go on as "129,000") is read for the `closing` most
    probable ones of each prompt. The others are taken to end as often as these on average. None reads all of them, 0
    takes all for ended.

    `batch_tokens` bounds the tokens in one cache: prompts, nodes and padding. `progress` is told how many prompts each
    batch has answered. With `prune` > 0 the most probable nodes are run until what waits at the others is at most that
    share of the mass. Their numbers share it as those below like nodes do, so that, before closing, the probabilities
    of an item are wrong by at most `prune` in total variation, and its mass is too high by at most that share. Raises
    ValueError with what to do about it.
    """
    import torch

    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    if not 0 <= prune < 1:
        raise ValueError(f"prune is a share of the probability, at least 0 and below 1; got {prune}.")
    if not lengths.all():
        raise ValueError(f"Prompt {int(np.argmin(lengths))} has no tokens: each needs at least one.")
    closing = trie.closing(closing)
    _check_model(model, trie, int(lengths.max(initial=0)), closing)
    probabilities, mass = np.zeros((len(prompts), len(trie.prices))), np.zeros(len(prompts))
    vocabulary = model.config.get_text_config().vocab_size
    with evaluating(model), torch.inference_mode():
        for rows in batches(lengths, trie.nodes - 1 + closing, batch_tokens, vocabulary):
            scores = _score_batch(model, trie, [prompts[row] for row in rows], vocabulary, prune, closing)
            mass[rows] = scores.sum(axis=1)
            if not (mass[rows] > 0).all():
                raise ValueError("The model's logits are infinite or not numbers: run it in bfloat16 or float32.")
            probabilities[rows] = scores / mass[rows, None]
            if progress:
                progress(len(rows))
    return probabilities, mass


def _check_model(model: PreTrainedModel, trie: PriceTrie, longest: int, closing: int) -> None:
    """Refuses models that would take the tree's mask for something else; without a tree every model will do."""
    config = model.config.get_text_config()
    tree = trie.nodes > 1 or closing
    if tree and (attention := config._attn_implementation) not in ("sdpa", "eager"):
        raise ValueError(
            f"{attention} takes no tree mask: load the model with attn_implementation='sdpa' or 'eager'."
            f"{_way_out(trie)}"
        )
    check_layers(config, trie, longest, closing)


def _way_out(trie: PriceTrie) -> str:
    return " Or set finetune.answer.closing=0." if trie.nodes == 1 else ""


def check_layers(config: PreTrainedConfig, trie: PriceTrie, longest: int, closing: int) -> None:
    """Refuse a model by its config of texts, where its layers would see the tree behind a prompt of so many tokens
    otherwise than as it is laid out; without a tree every model will do.

    Raises:
        ValueError: a layer has no cache of keys and values, or a window that is too short.
    """
    if trie.nodes == 1 and not closing:
        return
    if getattr(config, "alibi", False):
        raise ValueError(f"It counts places by ALiBi, which knows no tree.{_way_out(trie)}")
    kinds = set(getattr(config, "layer_types", None) or ())
    if foreign := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"The tree needs a cache of keys and values in every layer; this model has {sorted(foreign)}."
            f"{_way_out(trie)}"
        )
    # Transformers hands a 4-D mask to every layer as it is, so a layer's own window would be ignored.
    window = getattr(config, "sliding_window", None) if not kinds or "sliding_attention" in kinds else None
    if window is not None and longest + trie.path.shape[1] > window:
        raise ValueError(
            f"A prompt of {longest} tokens and its price do not fit the attention window of {window}: lower "
            "finetune.prompt.text_tokens."
        )


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode inside, and each module's own mode again afterwards (a frozen part may differ from the rest).

    An adapter in float32 on a model in bfloat16 computes in bfloat16 too, as it does while it is trained, so that a
    checkpoint answers the same then and when it is loaded. (On a GPU it took half as long as the model itself in
    float32: docs/benchmarks.md.)
    """
    import torch

    modes, weight = [(module, module.training) for module in model.modules()], model.get_input_embeddings().weight
    device, narrow = weight.device.type, weight.dtype == torch.bfloat16
    model.eval()
    try:
        with torch.autocast(device, torch.bfloat16) if narrow else contextlib.nullcontext():
            yield
    finally:
        for module, training in modes:
            module.training = training


def batches(lengths: np.ndarray, extra: int, batch_tokens: int, vocabulary: int) -> Iterator[np.ndarray]:
    """Indices of prompts of like length, longest first: if memory is short, that shows at once."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        fits = max(1, min(batch_tokens // (lengths[order[0]] + extra), LOGITS_BYTES // (4 * vocabulary)))
        yield order[:fits]
        order = order[fits:]


@dataclass
class _Walk:
    """How far the tries of a batch of prompts have been walked: what is cached, and which nodes were run."""

    real: np.ndarray  # [batch, longest] places of the prompts that hold a token
    cache: DynamicCache
    reached: np.ndarray  # [batch, slots] probability of all tokens from the prompt to the slot
    run: np.ndarray  # [batch, m]
    column: np.ndarray  # [batch, m + o] where in the cache a node lies

    def part(self, rows: np.ndarray) -> _Walk:
        """The same for some of the prompts, with a cache of their own."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, layer in enumerate(self.cache.layers):
            kept = torch.from_numpy(rows).to(layer.keys.device)
            cache.update(layer.keys[kept], layer.values[kept], i)
        return _Walk(self.real[rows], cache, self.reached[rows], self.run[rows], self.column[rows])


def _score_batch(
    model: PreTrainedModel,
    trie: PriceTrie,
    prompts: Sequence[Sequence[int]],
    vocabulary: int,
    prune: float,
    closing: int,
) -> np.ndarray:
    """Unnormalised probabilities [batch, k] of the prices after each prompt."""
    k, batch = len(trie.prices), len(prompts)
    real, cache, logits = _run_prompts(model, prompts)
    reached = np.zeros((batch, k + trie.nodes + 1))
    reached[:, k] = 1.0
    run = np.tile(np.arange(trie.nodes) == 0, (batch, 1))
    # Node 0, which also pads the nodes and their paths, is the prompt's last token.
    column = np.full((batch, len(trie.token)), real.shape[1] - 1)
    _read(trie, reached, np.zeros((batch, 1), dtype=np.int64), run[:, :1], logits)
    return _walk_on(model, trie, _Walk(real, cache, reached, run, column), vocabulary, prune, closing)


def _walk_on(
    model: PreTrainedModel, trie: PriceTrie, walk: _Walk, vocabulary: int, prune: float, closing: int
) -> np.ndarray:
    """Runs nodes until what waits at the others may be left out; the probabilities [batch, k] as `_score_batch`.

    The items of a batch are padded to the one with most nodes to run. Where that would waste more than it saves, the
    batch goes on as two, the items with few nodes apart from those with many.
    """
    k, batch = len(trie.prices), len(walk.real)
    at_once = max(1, LOGITS_BYTES // (4 * vocabulary * batch))
    while True:
        waiting = np.where(walk.run, 0.0, walk.reached[:, k:-1])
        chosen = _choose(waiting, walk.reached[:, :k].sum(axis=1), prune)
        counts = chosen.sum(axis=1)
        if not counts.any():
            found = walk.reached[:, :k] + _spread(trie, walk.reached, walk.run)
            return _close(model, trie, walk, found, at_once, closing) if closing else found
        if batch > 1 and counts.sum() > SPLIT_NODES and counts.mean() < SPLIT_SHARE * counts.max():
            halves = np.array_split(np.argsort(counts, kind="stable"), 2)
            parts = [_walk_on(model, trie, walk.part(rows), vocabulary, prune, closing) for rows in halves]
            return np.concatenate(parts)[np.argsort(np.concatenate(halves))]
        order = np.argsort(~chosen, axis=1, kind="stable")[:, : counts.max()]
        for start in range(0, order.shape[1], at_once):
            nodes = order[:, start : start + at_once]
            valid = np.take_along_axis(chosen, nodes, axis=1)
            nodes = np.where(valid, nodes, 0)
            items, columns = np.nonzero(valid)
            walk.column[items, nodes[items, columns]] = walk.cache.get_seq_length() + columns
            logits = _run_nodes(model, walk.cache, trie, nodes, walk.column, walk.real)
            _read(trie, walk.reached, nodes, valid, logits)
        walk.run |= chosen


def _close(
    model: PreTrainedModel, trie: PriceTrie, walk: _Walk, found: np.ndarray, at_once: int, closing: int
) -> np.ndarray:
    """The probabilities [batch, k] times that of the suffix behind the numbers that are open.

    It is read for the `closing` most probable ones of each item; the others are taken to end as often as these do.
    """
    import torch

    rows = np.arange(len(found))[:, None]
    parents = trie.path[trie.nodes :][np.arange(len(trie.open)), trie.depth[trie.nodes :] - 2]
    parents = np.where(trie.depth[trie.nodes :] > 1, parents, 0)
    held = np.where(walk.run[:, parents], found[:, trie.open], 0.0)  # what was pruned has no place in the cache
    likely = np.argsort(-held, axis=1, kind="stable")[:, :closing]
    ends = np.ones(likely.shape)
    for start in range(0, closing, at_once):
        numbers = likely[:, start : start + at_once]
        walk.column[rows, trie.nodes + numbers] = walk.cache.get_seq_length() + np.arange(numbers.shape[1])
        logits = _run_nodes(model, walk.cache, trie, trie.nodes + numbers, walk.column, walk.real).float()
        stops = torch.from_numpy(trie.stop[numbers]).to(logits.device)
        given = logits.gather(2, stops[:, :, None])[:, :, 0] - _log_sum(logits)
        ends[:, start : start + at_once] = given.exp().cpu().numpy()
    weight = np.take_along_axis(held, likely, axis=1)
    mean = (weight * ends).sum(axis=1) / np.maximum(weight.sum(axis=1), TINY)
    factors = np.repeat(np.where(weight.sum(axis=1) > 0, mean, 1.0)[:, None], len(trie.open), axis=1)
    np.put_along_axis(factors, likely, np.where(weight > 0, ends, np.take_along_axis(factors, likely, axis=1)), axis=1)
    closed = found.copy()
    closed[:, trie.open] *= factors
    return closed


def _run_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> tuple[np.ndarray, DynamicCache, torch.Tensor]:
    """Runs the prompts, padded on the left: which places [batch, longest] hold a token, the cache, the last logits."""
    from transformers import DynamicCache

    lengths = np.array([len(prompt) for prompt in prompts])
    real = np.arange(lengths.max()) >= (lengths.max() - lengths)[:, None]
    ids = np.zeros(real.shape, dtype=np.int64)
    ids[real] = np.concatenate(prompts)
    cache = DynamicCache()  # without the config: layers with a window must keep every column the tree's mask counts
    positions = (real.cumsum(axis=1) - 1).clip(min=0)
    return real, cache, _forward(model, cache, ids, positions, real, logits_to_keep=1)


def _run_nodes(
    model: PreTrainedModel, past: DynamicCache, trie: PriceTrie, nodes: np.ndarray, column: np.ndarray, real: np.ndarray
) -> torch.Tensor:
    """Logits [batch, nodes, vocabulary] at inner nodes [batch, nodes], appended to `past`.

    Each node sees the `real` places of its prompt and the columns of its own path, itself the last of them.
    """
    batch, count = nodes.shape
    sees = np.zeros((batch, 1, count, past.get_seq_length() + count), dtype=bool)
    sees[..., : real.shape[1]] = real[:, None, None, :]
    of_path = column[np.arange(batch)[:, None, None], trie.path[nodes]]  # [batch, nodes, deepest]
    np.put_along_axis(sees, of_path[:, None], True, axis=3)
    positions = real.sum(axis=1)[:, None] + trie.depth[nodes] - 1
    return _forward(model, past, trie.token[nodes], positions, sees)


def _forward(
    model: PreTrainedModel, past: DynamicCache, ids: np.ndarray, positions: np.ndarray, sees: np.ndarray, **options: int
) -> torch.Tensor:
    """One forward pass over `ids` [batch, length], appended to `past`; `sees` has two axes, or four for a tree."""
    import torch

    device = model.get_input_embeddings().weight.device
    mask = torch.from_numpy(sees).to(device)
    if mask.ndim == 4:  # eager attention adds the mask, sdpa wants it in the dtype of its queries: that of the keys
        dtype = past.layers[0].keys.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
    return model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=mask,
        position_ids=torch.from_numpy(positions).to(device),
        past_key_values=past,
        use_cache=True,
        **options,
    ).logits


def _read(trie: PriceTrie, reached: np.ndarray, nodes: np.ndarray, valid: np.ndarray, logits: torch.Tensor) -> None:
    """Writes the probabilities of the outcomes of `nodes` [batch, nodes] into `reached`, from the logits there."""
    import torch

    fan = trie.fan[nodes[valid]].max()
    tokens = torch.from_numpy(trie.outcome_token[nodes, :fan]).to(logits.device)
    logits = logits.float()
    given = (logits.gather(2, tokens) - _log_sum(logits)[:, :, None]).cpu().numpy().astype(np.float64)
    items = np.arange(len(nodes))[:, None]
    before = reached[items, len(trie.prices) + nodes]
    slots = np.where(valid[:, :, None], trie.outcome_slot[nodes, :fan], reached.shape[1] - 1)
    reached[items[:, :, None], slots] = before[:, :, None] * np.exp(given)


def _log_sum(logits: torch.Tensor) -> torch.Tensor:
    """log(sum(exp(logits))) over the last axis; on a CPU a few rows at a time, which is twice as fast."""
    import torch

    if logits.device.type != "cpu":
        return logits.logsumexp(dim=2)
    rows = logits.flatten(0, 1).split(LSE_ROWS)
    return torch.cat([some.logsumexp(dim=1) for some in rows]).unflatten(0, logits.shape[:2])


def _choose(waiting: np.ndarray, ended: np.ndarray, prune: float) -> np.ndarray:
    """Which nodes [batch, m] to run next, given the probability waiting at each and that of the ended numbers [batch].

    The most probable ones, until the rest is at most `prune` of all there is. The waiting probability bounds what the
    numbers below can hold, and the ended one only grows, so that an item with none to run keeps its promise.
    """
    order = np.argsort(waiting, axis=1)
    rest = np.take_along_axis(waiting, order, axis=1).cumsum(axis=1)  # if this one and all less probable are left out
    allowed = prune * (ended + rest[:, -1])
    aim = np.where(rest[:, -1] <= allowed, allowed, PRUNE_AIM * allowed)
    chosen = np.zeros(waiting.shape, dtype=bool)
    np.put_along_axis(chosen, order, rest > aim[:, None], axis=1)
    return chosen


def _spread(trie: PriceTrie, reached: np.ndarray, run: np.ndarray) -> np.ndarray:
    """What waits at the nodes that were not run [batch, m], shared among the numbers [batch, k] below each.

    It is shared as its likes share theirs: the least probable of the nodes under the same parent that were run. An
    average over all that were run would follow the probable ones, which are of another kind, and moved medians ten
    times as far. Only where the tokens of the nodes differ, or none was run, is it shared evenly.
    """
    k = len(trie.prices)
    held = np.zeros_like(reached)
    held[:, k:-1] = np.where(run, 0.0, reached[:, k:-1])
    depths = trie.depth[: trie.nodes]
    for depth in range(1, depths.max() + 1):
        (nodes,) = np.nonzero(depths == depth)
        fan = trie.fan[nodes].max()
        slots, tokens = trie.outcome_slot[nodes, :fan], trie.outcome_token[nodes, :fan]  # [nodes, fan]
        share = np.tile(trie.size[slots] / trie.size[k + nodes, None], (len(held), 1, 1))
        if (trie.fan[nodes] == fan).all() and (tokens == tokens[0]).all():
            parents = trie.path[nodes, depth - 2] if depth > 1 else np.zeros(len(nodes), dtype=int)
            for item, ran in enumerate(run[:, nodes]):
                given = reached[item, slots] / np.maximum(reached[item, slots].sum(axis=1, keepdims=True), TINY)
                _share_alike(share[item], given, reached[item, k + nodes], ran, parents)
        held[:, slots] += held[:, k + nodes, None] * share
    return held[:, :k]


def _share_alike(
    share: np.ndarray, given: np.ndarray, reached: np.ndarray, ran: np.ndarray, parents: np.ndarray
) -> None:
    """Writes into `share` [nodes, fan], for nodes that were not run, the mean of what their likes have `given`."""
    order = np.flatnonzero(ran)[np.argsort(reached[ran], kind="stable")]  # the least probable first
    if not len(order) or ran.all():
        return
    for parent in np.unique(parents[~ran]):
        siblings = order[parents[order] == parent]
        likes = siblings if len(siblings) > 1 else order
        share[~ran & (parents == parent)] = given[likes[:LIKES]].mean(axis=0)
