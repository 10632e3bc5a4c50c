"""The most similar rows, exactly and nearly so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random_array

from tasks.models.neighbours import NeighbourIndex


@pytest.fixture(scope="module")
def rows() -> csr_matrix:
    """600 rows over 300 terms, a few of which nearly all rows hold."""
    random = np.random.default_rng(0)
    rare = random_array((600, 280), density=0.03, rng=random, data_sampler=random.random)
    common = random_array((600, 20), density=0.9, rng=random, data_sampler=lambda size: 0.2 * random.random(size))
    return csr_matrix(np.hstack([rare.toarray(), common.toarray()]))


@pytest.mark.parametrize("exact", [1_000, 0])
def test_no_row_is_its_own_neighbour_and_others_find_it(rows: csr_matrix, exact: int) -> None:
    """By both ways, the most similar first."""
    index = NeighbourIndex(rows, exact=exact, common=100)
    similarity, places = index.nearest(None, 5)
    assert places.shape == (600, 5) and not (places == np.arange(600)[:, None]).any()
    assert (np.diff(similarity, axis=1) <= 1e-12).all()
    found, itself = index.nearest(rows[:50], 1)
    assert (itself[:, 0] == np.arange(50)).all() and np.allclose(found, 1)


@pytest.mark.parametrize("exact", [1_000, 0])
@pytest.mark.parametrize("many", [3, 150])
def test_rows_of_its_group_are_no_neighbours(rows: csr_matrix, exact: int, many: int) -> None:
    """By both ways, also where a group has more rows than are candidates; who has none but its group finds nothing."""
    groups = np.arange(600) // many
    similarity, places = NeighbourIndex(rows, exact=exact, common=100).nearest(None, 5, groups)
    assert (groups[places] != groups[:, None]).all() and (similarity[:, 0] > 0).all()
    similarity, places = NeighbourIndex(rows[:4], exact=exact, common=100).nearest(None, 3, np.zeros(4, dtype=int))
    assert (similarity == 0).all() and places.shape == (4, 3)


@pytest.mark.parametrize("exact", [1_000, 0])
def test_rows_of_a_very_large_group_find_others(rows: csr_matrix, exact: int) -> None:
    """Of more rows than are looked up for each, which are all nearer to each other than to any other row; what is found
    is the most similar of the others."""
    alike = csr_matrix(np.hstack([rows.toarray(), 50.0 * (np.arange(600) < 550)[:, None]]))
    groups = np.where(np.arange(600) < 550, 0, np.arange(600))
    similarity, places = NeighbourIndex(alike, exact=exact, common=1_000).nearest(None, 5, groups)
    expected, among = NeighbourIndex(alike[550:]).nearest(alike[:550], 5)
    assert (places[:550] == 550 + among).all() and (similarity[:550] > 0).all()
    np.testing.assert_allclose(similarity[:550], expected)
    assert (places[550:] != np.arange(550, 600)[:, None]).all()


def test_leaving_out_common_terms_finds_nearly_all(rows: csr_matrix) -> None:
    """The similarities of what it finds are those of all terms; few of the true neighbours are missed."""
    true_similarity, true = NeighbourIndex(rows).nearest(None, 8)
    similarity, found = NeighbourIndex(rows, exact=0, common=100).nearest(None, 8)
    assert np.mean([len({*a} & {*b}) / 8 for a, b in zip(found, true, strict=True)]) > 0.9
    assert np.allclose(similarity[:, 0][found[:, 0] == true[:, 0]], true_similarity[:, 0][found[:, 0] == true[:, 0]])


def test_a_row_without_rare_terms_is_looked_up_among_all(rows: csr_matrix) -> None:
    """And one without any term has neighbours of no similarity, but as many as were asked for."""
    asked = csr_matrix(np.vstack([np.r_[np.zeros(280), np.ones(20)], np.zeros(300)]))
    exact, true = NeighbourIndex(rows).nearest(asked[:1], 4)
    similarity, found = NeighbourIndex(rows, exact=0, common=100).nearest(asked, 4)
    assert (found[0] == true[0]).all() and np.allclose(similarity[0], exact[0])
    assert (similarity[1] == 0).all() and len(set(found[1])) == 4


def test_dense_rows_are_compared_with_all_however_many(rows: csr_matrix) -> None:
    """As sparse rows are where there are few."""
    expected = NeighbourIndex(rows).nearest(rows[:50], 5)
    for one, other in zip(
        NeighbourIndex(rows.toarray(), exact=0).nearest(rows[:50].toarray(), 5), expected, strict=True
    ):
        np.testing.assert_allclose(one, other)
