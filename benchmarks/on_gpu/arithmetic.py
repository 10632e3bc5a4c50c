"""What a step of a training has to compute, from the model's config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def linear_shapes(config: Any) -> dict[str, tuple[int, int]]:
    """The shape of the weights of each projection of a layer of a model with this config: in and out."""
    hidden, inner = config.hidden_size, config.intermediate_size
    wide, narrow = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    attention = {
        "q_proj": (hidden, wide),
        "k_proj": (hidden, narrow),
        "v_proj": (hidden, narrow),
        "o_proj": (wide, hidden),
    }
    return attention | {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}


def operations(config: Any, lora: Mapping[str, Any], rows: float, tokens: float, learned: float) -> float:
    """Floating point operations that a LoRA step of `rows` items needs, of a base model with this config.

    Frozen weights take products forward and for the gradient of what they are given, none for their own; adapters all
    three; attention twice as much back as forward; the head the two, where there is something to learn.
    """
    shapes, adapted = linear_shapes(config), lora.get("target_modules", "all-linear")
    frozen = sum(a * b for a, b in shapes.values())
    adapters = sum(
        lora.get("r", 8) * (a + b) for name, (a, b) in shapes.items() if adapted == "all-linear" or name in adapted
    )
    pairs = tokens * (tokens / rows) / 2
    attention = 12 * config.num_attention_heads * config.head_dim * pairs
    head = 4 * config.hidden_size * config.vocab_size * learned
    return config.num_hidden_layers * (4 * frozen * tokens + 6 * adapters * tokens + attention) + head
