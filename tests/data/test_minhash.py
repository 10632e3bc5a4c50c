"""Signatures tell how alike two texts are, the same on any machine."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import numpy as np
import pytest

from tasks.data import minhash
from tasks.data.minhash import ERROR, ROWS, SLOTS, bands, groups, jaccard, likeness, signatures, word_pattern

WORDS = [f"w{number}" for number in range(2000)]


def test_the_estimate_is_near_the_jaccard_index() -> None:
    """For texts with some words changed, within five standard errors."""
    rng = random.Random(3)
    for changed in (0, 2, 10, 40):
        one = rng.sample(WORDS, 150)
        other = [rng.choice(WORDS) if place < changed else word for place, word in enumerate(one)]
        sets = [{*words, *pairwise(words)} for words in (one, other)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        signed = signatures([" ".join(one), " ".join(other)])
        assert abs(likeness(signed[:1], signed[1:])[0] - exact) < 5 * 0.5 / SLOTS**0.5


def test_like_texts_share_a_band_and_unlike_ones_do_not() -> None:
    """Which is how they find each other."""
    text = " ".join(WORDS[:100])
    signed = bands(signatures([text, text.replace("w50", "x"), " ".join(WORDS[500:600])]))
    assert signed.shape == (3, SLOTS // ROWS)
    assert (signed[0] == signed[1]).any() and not (signed[0] == signed[2]).any()
    assert not np.intersect1d(signed[0], signed[2]).size


def test_signatures_are_the_same_everywhere() -> None:
    """Three values are written down here; case and punctuation do not count."""
    signed = signatures(["A steel kettle", "a STEEL, kettle!", "", "one"])
    assert (signed[0] == signed[1]).all() and (signed[0] != signed[3]).any()
    assert signed[0, :3].tolist() == [3253028757, 3626719150, 3342643025]


def test_made_pairs_that_are_alike_are_found() -> None:
    """Of 600 pairs whose exact likeness is 0.7 and more, at least 99% meet in a band and pass the estimate; the exact
    index then refuses those that only seemed alike."""
    rng = random.Random(5)
    found = made = refused = 0
    while made < 600:
        one = rng.sample(WORDS, 60)
        other = list(one)
        for place in rng.sample(range(60), rng.randint(1, 9)):
            other[place] = rng.choice(WORDS)
        texts = [" ".join(one), " ".join(other)]
        signed = signatures(texts)
        met = (
            bool((bands(signed[:1]) == bands(signed[1:])).any()) and likeness(signed[:1], signed[1:])[0] >= 0.7 - ERROR
        )
        alike = jaccard(*texts) >= 0.7
        made, found, refused = made + alike, found + (alike and met), refused + (met and not alike)
    assert found / made >= 0.99 and refused > 0


def test_texts_that_share_boilerplate_are_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with dozens of others, which would otherwise be nearly all of the work of a run; the likeness is
    that of the sets of their words and word pairs."""
    rng, taken, apart = random.Random(11), [], minhash._words
    texts = [" ".join([*rng.sample(WORDS[:1000], 25), *WORDS[1000:1090]]) for _ in range(60)]
    monkeypatch.setattr(minhash, "_words", lambda text: taken.append(text) or apart(text))
    assert len(set(groups(texts))) == 60 and len(taken) <= 2 * 60  # once for the signatures
    for one, other in [*pairwise(texts), ("kettle", ""), ("", "")]:
        these, those = (set(minhash._shingles(text)) for text in (one, other))
        assert jaccard(one, other) == len(these & those) / max(1, len(these | those))


def test_variants_are_alike_in_languages_that_put_no_spaces_between_words() -> None:
    """Each character is a word there, and Latin words and numbers between them stay what they are; other products
    of the same shop are not alike."""
    chair, kettle = "折りたたみ椅子木製高品質軽量タイプ", "電気ケトル 小型高品質静音タイプ白"
    texts = [f"{chair}白", f"{chair}黒", kettle]
    assert jaccard(*texts[:2]) > 0.8 and jaccard(*texts[1:]) < 0.4
    assert jaccard("戶外摺疊桌、鋁合金、120公分", "戶外摺疊桌、鋁合金、150公分") > 0.7
    found = groups([*texts, "ｱｲﾘｽｵｰﾔﾏ 電気毛布"]).tolist()
    assert found[0] == found[1] and len(set(found)) == 3
    assert minhash._words("白A4紙・500枚々") == ["白", "a4", "紙", "500", "枚", "々"]


def test_words_are_the_same_as_ever_where_spaces_or_signs_part_them() -> None:
    """So are those of two letters and more, which scikit-learn takes by itself."""
    text = "Naïve_x9 à la 5 ½-inch кружка, Ёлка и чай; 접이식 의자 대; เก้าอี้พับได้ไม้สีขาว; कुर्सी; كرسي و; §£ŉ "
    assert re.findall(word_pattern(), text) == re.findall(r"\w+", text)
    assert re.findall(word_pattern(2), text) == re.findall(r"(?u)\b\w\w+\b", text)


def test_near_duplicates_are_of_one_group_through_others_as_well() -> None:
    """A is like B, and B like C; D is like none of them."""
    words = [f"word{number}" for number in range(60)]
    chain = [" ".join(words[start : start + 50]) for start in (0, 3, 6)]
    found = groups([*chain, "a kettle of brushed steel that whistles"])
    assert len(set(found[:3])) == 1 and found[3] != found[0]
    assert len(set(groups(chain, near=1.0))) == len(set(groups(chain, near=None))) == 3


def test_twins_among_many_siblings_are_of_one_group() -> None:
    """Forty texts that are less alike stand between two near duplicates; these find each other all the same."""
    rng = random.Random(7)
    for _ in range(20):
        twin = rng.sample(WORDS, 60)
        siblings = [[*twin[:47], *rng.sample(WORDS, 13)] for _ in range(40)]
        texts = [" ".join(words) for words in ([*twin[:59], "left"], *siblings, [*twin[:59], "right"])]
        found = groups(texts)
        assert found[0] == found[-1] and len(set(found)) > 30
    assert len(set(groups(["all the same"] * 50))) == 1
