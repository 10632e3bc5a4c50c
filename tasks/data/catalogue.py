"""A generated catalogue whose price model is known, and with it the error of the best possible guess.

A price is base(product) x tier x size x material x pack x condition x generation x exp(noise); the text tells some of
those attributes, in varying words, among remarks that have nothing to do with the price. `floor` integrates over what
a text leaves out. It is exact because of three rules, which every change to this file has to keep:

- The product is always told. A pack is always told, a single piece by silence. Whether another attribute is told is
  drawn without a look at its value, or at the price.
- Brands of one tier differ in name only, so a brand or a word for the tier tells the tier, and nothing else does.
- Everything else on the page (style, order, remarks, weight, sales rank) depends on the product, on what is told and
  on chance. So `details` shows the brand only where the text names it.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

NOISE = 0.25  # standard deviation of the natural log of the price, given every attribute
LOWEST, HIGHEST = 1.0, 999.0  # US dollars; prices beyond are set to the bound, which happens about once in 1,000 rows

# The names are invented. Nothing in a name says its tier, so that it has to be learnt.
BRANDS = {
    "budget": ("Quorvax", "Brelnik", "Zundory", "Tebwick", "Ostwex"),
    "middle": ("Plimtar", "Marvund", "Kethlo", "Glaybor", "Drovane"),
    "premium": ("Vulmere", "Jaskell", "Norquin", "Skarlu"),
    "professional": ("Yandrel", "Hobrune"),
}
# Price factor, and the words that say so.
TIERS = {
    "budget": (0.5, ("budget", "entry-level", "economy", "no-frills", "basic line")),
    "middle": (0.9, ("mid-range", "mainstream", "standard line")),
    "premium": (1.6, ("premium", "high-end", "upscale", "deluxe")),
    "professional": (2.5, ("professional grade", "pro series", "expert class", "trade quality")),
}
MATERIALS = {
    "plastic": (0.7, ("plastic", "molded plastic", "polymer")),
    "rubber": (0.8, ("rubber", "all-weather rubber")),
    "fabric": (0.8, ("fabric", "cloth", "woven")),
    "mesh": (1.0, ("mesh", "breathable mesh")),
    "laminate": (0.75, ("laminate", "engineered wood")),
    "pine": (1.0, ("pine", "softwood")),
    "aluminum": (1.0, ("aluminum", "light alloy")),
    "steel": (1.2, ("steel", "stainless")),
    "maple": (1.35, ("maple", "solid maple")),
    "brass": (1.5, ("brass", "solid brass")),
    "leather": (1.6, ("leather", "genuine leather", "full-grain hide")),
    "rosewood": (1.7, ("rosewood", "tonewood")),
    "carbon": (1.8, ("carbon fiber", "carbon")),
}
# Price factor, how often, and the words.
CONDITIONS = {
    "new": (1.2, 0.5, ("brand new", "factory sealed", "never opened", "unused")),
    "refurbished": (0.8, 0.25, ("refurbished", "renewed", "reconditioned")),
    "used": (0.5, 0.25, ("used", "pre-owned", "second hand")),
}
GENERATIONS = {
    1: (0.65, 0.3, ("1st generation", "gen 1", "original release")),
    2: (0.9, 0.3, ("2nd generation", "gen 2", "previous version")),
    3: (1.25, 0.4, ("3rd generation", "gen 3", "latest version")),
}
PACK_GROWTH = 0.8  # a pack of n costs n ** 0.8 single pieces
NUMBERS = {2: "two", 3: "three", 4: "four", 6: "six", 9: "nine"}
PACK_WORDS = ("pack of {n}", "{n} pack", "set of {word}", "{n} count", "{word} pieces")
# Ways to write a size: the wording, and what one unit of the product table is in the written one. Here and above, no
# word with a digit is longer than six characters, so that cleaning which strips part numbers leaves the facts alone.
UNITS = {
    "GB": (("{}GB", 1), ("{} GB", 1), ("{} gig", 1)),
    "inch": (("{} inch", 1), ("{} in", 1), ('{}"', 1), ("{} cm", 2.54)),
    "foot": (("{} ft", 1), ("{} feet", 1), ("{} m", 0.3048)),
    "watt": (("{}W", 1), ("{} watts", 1), ("{} kW", 0.001)),
    "quart": (("{} qt", 1), ("{} quart", 1), ("{} liters", 0.946)),
    "volt": (("{}V", 1), ("{} volt", 1)),
    "amp": (("{}A", 1), ("{} amps", 1)),
    "lumen": (("{} lumens", 1), ("{} lm", 1)),
    "sheet": (("{} sheets", 1), ("{} pages", 1)),
    "part": (("{} pcs", 1), ("{} parts", 1), ("{} elements", 1)),
    "mAh": (("{} mAh", 1), ("{} Ah", 0.001)),
    "key": (("{} keys", 1), ("{} key", 1)),
}


@dataclass(frozen=True, slots=True)
class Product:
    """One type of product: `base` in US dollars, `weight` in pounds, and which attributes move its price, how far."""

    category: str
    names: str  # synonyms, parted by a bar
    base: float
    weight: float
    tier: float  # power of the tier's factor: how much a brand counts here
    sizes: tuple[int, ...] = ()
    unit: str = ""
    growth: float = 0.0  # the price goes with size ** growth
    materials: tuple[str, ...] = ()
    packs: tuple[int, ...] = ()
    ages: float = 0.0  # power of the factors of condition and generation
    generations: bool = False


AUTO, OFFICE, TOOLS = "Automotive", "Office_Products", "Tools_and_Home_Improvement"
TECH, PHONES, TOYS = "Electronics", "Cell_Phones_and_Accessories", "Toys_and_Games"
HOME, MUSIC = "Appliances", "Musical_Instruments"
CATEGORIES = (AUTO, TECH, OFFICE, TOOLS, PHONES, TOYS, HOME, MUSIC)

FEW, SOME, MANY = (1, 2, 3), (1, 2, 4, 6), (1, 2, 4, 6, 9)
GIGABYTES = (32, 64, 128, 256, 512)
PRODUCTS = (
    Product(AUTO, "dash cam|car camera", 95, 0.6, 0.9, GIGABYTES, "GB", 0.2, ages=0.8, generations=True),
    Product(AUTO, "jump starter|battery booster", 100, 3, 0.8, (300, 500, 800, 1200, 2000), "amp", 0.6),
    Product(AUTO, "floor mats|car mats|footwell mats", 55, 8, 0.8, materials=("rubber", "fabric", "leather")),
    Product(AUTO, "wiper blade|windshield wiper", 13, 0.5, 0.7, (14, 18, 22, 26, 28), "inch", 0.6, packs=SOME),
    Product(TECH, "headphones|over-ear headset", 110, 0.7, 1.3, ages=1.0, generations=True),
    Product(TECH, "tablet|touchscreen slate", 240, 1.2, 0.6, GIGABYTES, "GB", 0.25, ages=1.0, generations=True),
    Product(TECH, "monitor|computer display|desktop screen", 220, 11, 0.6, (19, 22, 24, 27, 32), "inch", 1.3, ages=0.9),
    Product(TECH, "video cable|display cord", 9, 0.3, 1.0, (3, 6, 10, 15, 25), "foot", 0.5, packs=FEW),
    Product(OFFICE, "office chair|desk chair|task seat", 190, 32, 0.9, materials=("fabric", "mesh", "leather")),
    Product(OFFICE, "standing desk|sit-stand desk", 290, 80, 0.5, (36, 42, 48, 55, 63), "inch", 0.9,
            ("laminate", "pine", "maple")),
    Product(OFFICE, "notebook|writing journal", 9, 0.8, 0.9, materials=("plastic", "fabric", "leather"), packs=MANY),
    Product(OFFICE, "paper shredder|document shredder", 120, 14, 0.8, (6, 8, 12, 18, 24), "sheet", 0.7, ages=0.7),
    Product(TOOLS, "cordless drill|drill driver", 120, 4, 1.0, (8, 12, 18, 24, 36), "volt", 0.6, ages=0.8),
    Product(TOOLS, "door handle|door lever", 20, 1.5, 0.9, materials=("plastic", "aluminum", "steel", "brass"),
            packs=SOME),
    Product(TOOLS, "work light|flood lamp", 40, 2.5, 0.8, (800, 1500, 3000, 5000, 9000), "lumen", 0.5, packs=FEW),
    Product(TOOLS, "ladder|climbing steps", 180, 24, 0.5, (6, 8, 12, 16, 24), "foot", 0.7,
            ("aluminum", "steel", "carbon")),
    Product(PHONES, "phone case|handset cover", 16, 0.1, 1.3, materials=("plastic", "aluminum", "leather", "carbon")),
    Product(PHONES, "smartphone|mobile phone", 290, 0.4, 0.7, GIGABYTES, "GB", 0.2, ages=1.0, generations=True),
    Product(PHONES, "power bank|portable charger", 34, 0.8, 0.9, (3000, 5000, 8000, 12000, 20000), "mAh", 0.5,
            ages=0.5, generations=True),
    Product(PHONES, "screen protector|screen film", 6, 0.1, 1.2, packs=MANY),
    Product(TOYS, "building blocks|brick set", 40, 2.5, 0.9, (80, 150, 300, 600, 1200), "part", 0.6),
    Product(TOYS, "dollhouse|doll home", 85, 12, 0.9, (18, 24, 36, 44, 52), "inch", 0.8, ("plastic", "pine", "maple")),
    Product(TOYS, "jigsaw|picture puzzle", 14, 1.3, 1.0, (60, 100, 300, 500, 2000), "part", 0.3,
            ("plastic", "pine", "maple")),
    Product(TOYS, "RC car|remote control racer", 80, 3, 1.2, materials=("plastic", "aluminum", "carbon"), ages=0.8),
    Product(HOME, "microwave|microwave oven", 170, 30, 0.7, (600, 700, 900, 1100, 1500), "watt", 0.9, ages=0.9),
    Product(HOME, "stand mixer|dough mixer", 210, 18, 0.8, (3, 4, 5, 6, 8), "quart", 0.7, ages=0.8),
    Product(HOME, "water filter|filter cartridge", 15, 0.6, 0.8, packs=SOME),
    Product(HOME, "air fryer|convection fryer", 110, 10, 0.9, (2, 3, 4, 6, 9), "quart", 0.6, ages=0.8),
    Product(MUSIC, "acoustic guitar|folk guitar", 200, 4.5, 0.8, materials=("laminate", "maple", "rosewood"), ages=0.6),
    Product(MUSIC, "digital piano|electric keyboard", 250, 24, 0.6, (37, 49, 61, 76, 88), "key", 1.1, ages=0.8),
    Product(MUSIC, "guitar strings|string set", 8, 0.1, 0.8, packs=MANY),
    Product(MUSIC, "studio microphone|vocal mic", 110, 1, 1.3, ages=0.7, generations=True),
)  # fmt: skip

# How often an attribute is told. `brand` and `tier` (a word for it) are told independently of each other.
TOLD = {"brand": 0.85, "tier": 0.3, "size": 0.9, "material": 0.85, "condition": 0.85, "generation": 0.85, "pack": 1.0}

# Remarks that look like facts and say nothing about the price: the largest number in them (from 2), and the words.
REMARKS = {
    "color": (2, ("black", "white", "slate blue", "forest green", "red", "silver gray", "sand", "orange")),
    "model": (99, ("model K{n}", "model {n}X", "ref {n}T", "type R{n}", "series {n}")),
    "fits": (60, ("fits series {n}", "works with version {n}", "replaces type {n}")),
    "dispatch": (9, ("ships in {n} days", "dispatched within {n} days", "arrives in {n} days")),
    "warranty": (36, ("{n} month warranty", "{n} months guarantee", "covered for {n} months")),
    "praise": (2, ("great gift", "top rated", "customer favorite", "limited stock", "must have", "easy to use")),
}
LABELS = {"brand": "Make", "tier": "Line", "condition": "State", "pack": "Qty", "generation": "Version"}
# Titles, in parts: a part whose attribute is not told, or not there, is left out.
TITLES = (
    "{brand} |{name}|, {size}|, {pack}",
    "{brand} |{material} |{name}| - {condition}",
    "{condition} |{brand} |{name}| {size}",
    "{tier} |{name}| by {brand}|, {generation}",
    "{size} |{material} |{name}| ({brand})",
    "{name}|, {pack}|, {tier}|, {brand}",
    "{name}| {generation}| from {brand}|, {condition}",
)
# Estimated tokens from which no remark is added, and that no remark exceeds: training time goes with tokens.
ENOUGH, LONGEST = 20, 24


@dataclass(frozen=True, slots=True)
class Draw:
    """One row before it is put in words: each attribute's value, which of them are told, the price in US dollars."""

    product: Product
    values: dict[str, Any]  # a name or a number
    told: frozenset[str]
    price: float


@cache
def levels(product: Product) -> dict[str, tuple[tuple[str | int, float, float], ...]]:
    """By attribute that moves this product's price: its (value, log of the price factor, prior weight)."""
    middle = sum(map(math.log, product.sizes)) / max(1, len(product.sizes))
    found: dict[str, list[tuple[Any, float, float]]] = {
        "tier": [(tier, product.tier * math.log(TIERS[tier][0]), len(BRANDS[tier])) for tier in TIERS],
        "size": [(size, product.growth * (math.log(size) - middle), 1) for size in product.sizes],
        "material": [(material, math.log(MATERIALS[material][0]), 1) for material in product.materials],
        "pack": [(count, PACK_GROWTH * math.log(count), 1) for count in product.packs],
    }
    aging: dict[str, Mapping[Any, tuple]] = {"condition": CONDITIONS} if product.ages else {}
    if product.generations:
        aging["generation"] = GENERATIONS
    for attribute, table in aging.items():
        found[attribute] = [(v, product.ages * math.log(factor), weight) for v, (factor, weight, _) in table.items()]
    totals = {attribute: sum(weight for *_, weight in rows) for attribute, rows in found.items()}
    return {name: tuple((v, log, w / totals[name]) for v, log, w in rows) for name, rows in found.items() if rows}


def draws(n: int, seed: int) -> Iterator[tuple[str, Draw]]:
    """The n rows as (id, draw). Each has its own generator, seeded by a string, so row i is the same whatever n."""
    for i in range(n):
        rng = random.Random(f"product {seed} {i}")
        product = rng.choice(PRODUCTS)
        chosen = {name: rng.choices(rows, [weight for *_, weight in rows])[0] for name, rows in levels(product).items()}
        log_price = math.log(product.base) + sum(log for _, log, _ in chosen.values()) + rng.gauss(0, NOISE)
        price = min(max(round(math.exp(log_price), 2), LOWEST), HIGHEST)
        told = frozenset(name for name, share in TOLD.items() if rng.random() < share)
        yield f"sample-{seed}-{i:06d}", Draw(product, {name: row[0] for name, row in chosen.items()}, told, price)


def generate(n: int, seed: int) -> Iterator[dict]:
    """n raw rows in the shape of Amazon Reviews 2023 metadata, `price` in US dollars; row i does not depend on n."""
    for key, draw in draws(n, seed):
        rng = random.Random(f"words {key}")
        facts = _facts(draw, rng)
        yield {
            "id": key,
            **_page(facts, rng),
            "details": _details(draw.product, facts.get("brand"), rng),
            "category": draw.product.category,
            "price": draw.price,
        }


def _facts(draw: Draw, rng: random.Random) -> dict[str, str]:
    """The words for the product's name and for every attribute that is told."""
    value, told = draw.values, draw.told
    facts = {"name": rng.choice(draw.product.names.split("|"))}
    if "brand" in told:
        facts["brand"] = rng.choice(BRANDS[value["tier"]])
    if "size" in value and "size" in told:
        wording, scale = rng.choice(UNITS[draw.product.unit])
        facts["size"] = size_words(value["size"], wording, scale)
    if value.get("pack", 1) > 1:
        facts["pack"] = rng.choice(PACK_WORDS).format(n=value["pack"], word=NUMBERS[value["pack"]])
    tables: tuple[tuple[str, Mapping[Any, tuple]], ...] = (
        ("tier", TIERS),
        ("material", MATERIALS),
        ("condition", CONDITIONS),
        ("generation", GENERATIONS),
    )
    for attribute, table in tables:
        if attribute in value and attribute in told:
            facts[attribute] = rng.choice(table[value[attribute]][-1])
    return facts


def size_words(size: int, wording: str, scale: float) -> str:
    """A size in one of the wordings of `UNITS`; two digits tell the small ones apart, in whatever unit."""
    written = size * scale
    return wording.format(round(written) if written >= 30 else f"{written:.2g}")


def _page(facts: dict[str, str], rng: random.Random) -> dict[str, str | list[str]]:
    """Title, description and features in one of the styles: every fact once, then remarks up to the wanted length."""
    left = dict(facts)
    title = ""
    for part in rng.choice(TITLES).split("|"):
        slot = re.findall(r"{(\w+)}", part)[0]
        if slot in left:
            title += part.format(**{slot: left.pop(slot)})
    title = _capital(title.strip(" ,-"))
    body = rng.sample(list(left.items()), len(left))
    length = _tokens(title) + 2 * ("brand" in facts) + sum(_tokens(words) + 1 for _, words in body)
    for remark in rng.sample(list(REMARKS), len(REMARKS)):
        largest, wordings = REMARKS[remark]
        words = rng.choice(wordings).format(n=rng.randint(2, largest))
        if body and (length >= ENOUGH or length + _tokens(words) >= LONGEST):
            continue
        length += _tokens(words) + 1
        # A remark may stand before a fact, but the facts come early on the whole.
        body.insert(rng.randint(len(body) // 2, len(body)), (remark, words))
    return {"title": title, "description": [], "features": [], **rng.choice(STYLES)(body, rng)}


def _terse(body: list[tuple[str, str]], rng: random.Random) -> dict[str, list[str]]:
    return {"description": [rng.choice((", ", " / ", "; ")).join(words for _, words in body)]}


def _marketing(body: list[tuple[str, str]], rng: random.Random) -> dict[str, list[str]]:
    *most, last = [words for _, words in body]
    told = f"{', '.join(most)} and {last}" if most else last
    return {"description": [f"{rng.choice(('Made for you:', 'Upgrade today:', 'You will love it:'))} {told}!"]}


def _bullets(body: list[tuple[str, str]], rng: random.Random) -> dict[str, list[str]]:  # noqa: ARG001 - as the others
    return {"features": [_capital(words) for _, words in body]}


def _seller(body: list[tuple[str, str]], rng: random.Random) -> dict[str, list[str]]:
    opening, closing = rng.choice(("Selling mine,", "For sale,", "Clearing out,", "Note:")), rng.choice(("", " Ask me"))
    return {"description": [f"{opening} {', '.join(words for _, words in body)}.{closing}"]}


def _specs(body: list[tuple[str, str]], rng: random.Random) -> dict[str, list[str]]:
    sign = rng.choice((": ", " = "))
    return {"description": ["; ".join(f"{LABELS[k]}{sign}{v}" if k in LABELS else v for k, v in body)]}


STYLES: tuple[Callable[..., dict[str, list[str]]], ...] = (_terse, _marketing, _bullets, _seller, _specs)


def _details(product: Product, brand: str | None, rng: random.Random) -> dict[str, str]:
    """Structured attributes. Weight and rank follow the product and chance only: they tell nothing new of the price."""
    details = {}
    if brand and rng.random() < 0.7:
        details["Brand"] = brand
    if rng.random() < 0.8:
        details["Item Weight"] = f"{product.weight * math.exp(rng.gauss(0, 0.3)):.2g} pounds"
    if rng.random() < 0.8:
        rank = 400 * product.base**0.5 * math.exp(rng.gauss(0, 1.2))
        department = product.category.replace("_and_", " & ").replace("_", " ")
        details["Best Sellers Rank"] = f"#{math.ceil(rank)} in {department}"
    return details


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _tokens(words: str) -> int:
    """About how many tokens a small model's tokenizer makes of it: signs, digits and a space before digits are one."""
    return sum(1 + (len(piece) > 9) for piece in re.findall(r"[A-Za-z]+|[^A-Za-z\s]|\s(?=\d)", words))


def floor(n: int, seed: int) -> dict[str, tuple[float, float, float]]:
    """Of each row's price given what the row tells, in US dollars: id -> (median, 10% quantile, 90% quantile).

    No guess has a lower expected absolute error than the median of the price's distribution given all that is known:
    a mixture of log-normals, one for each combination of the attributes that are not told. Setting prices to the
    bounds keeps their order, so the quantiles are those of the mixture, set to the bounds.
    """
    groups = defaultdict(list)  # rows with equally many combinations are solved as one matrix
    for key, draw in draws(n, seed):
        logs, weights = _mixture(draw)
        groups[len(logs)].append((key, logs, weights))
    found = {}
    for rows in groups.values():
        keys, logs, weights = zip(*rows, strict=True)
        solved = [np.exp(_quantile(np.array(logs), np.array(weights), share)) for share in (0.5, 0.1, 0.9)]
        for key, *row in zip(keys, *np.clip(solved, LOWEST, HIGHEST).tolist(), strict=True):
            found[key] = tuple(row)
    return {key: found[key] for key in sorted(found)}


def _mixture(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """The log prices without noise that a row's words leave possible, and how likely each is."""
    logs, weights = np.array([math.log(draw.product.base)]), np.ones(1)
    for attribute, rows in levels(draw.product).items():
        known = attribute in draw.told or (attribute == "tier" and "brand" in draw.told)
        rows = [row for row in rows if not known or row[0] == draw.values[attribute]]
        logs = np.add.outer(logs, [log for _, log, _ in rows]).ravel()
        weights = np.multiply.outer(weights, [weight for *_, weight in rows]).ravel()
    return logs, weights / weights.sum()


def _quantile(logs: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """The quantile of each row's mixture of normals (rows, combinations), by bisection; in log dollars."""
    from scipy.special import ndtr  # takes half a second to import, and only this needs it

    low, high = logs.min(axis=1) - 6 * NOISE, logs.max(axis=1) + 6 * NOISE
    for _ in range(40):
        middle = (low + high) / 2
        below = (weights * ndtr((middle[:, None] - logs) / NOISE)).sum(axis=1) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
