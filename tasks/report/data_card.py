"""The data card for people: Markdown, and one HTML file that works offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.data.prices import shown


def render_markdown(card: dict[str, Any]) -> str:
    """The data card as Markdown."""
    label = "\n**Generated data**: no product here exists, and no price was ever asked.\n"
    generated = label if card["generated"] else ""
    rows = "\n".join(
        f"| {split} | {card['rows'][split]:,} | " + " | ".join(shown(value) for value in prices.values()) + " |"
        for split, prices in card["price"].items()
    )
    return f"""# {card["name"]} ({card["digest"]})
{generated}
| split | items | mean price | 5% | 25% | 50% | 75% | 95% |
|---|---|---|---|---|---|---|---|
{rows}

{card["read"]:,} rows read, {card["kept"]:,} kept. Dropped:
{_listed(card["dropped"])}

Done to rows that were kept or dropped later:
{_listed(card["noted"])}

Prices that look like placeholders:
{_listed(card["suspicious"]["placeholders"])}

Categories:
{_listed({category["name"]: category["items"] for category in card["categories"]})}

Rules:
{chr(10).join(f"- {key}: {value}" for key, value in card["rules"].items() if value not in (None, {}))}
"""


def _listed(counts: dict[str, int]) -> str:
    return "\n".join(f"- {count:,}: {name}" for name, count in counts.items()) or "- none"


def render_html(card: dict[str, Any]) -> str:
    """The data card as a page of its own; what comes from the data is escaped, and no script runs."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("data_card.html.j2").render(card=card, largest=_largest, price=shown)


def _largest(bins: list[dict[str, Any]]) -> int:
    return max((part["items"] for part in bins), default=1) or 1
