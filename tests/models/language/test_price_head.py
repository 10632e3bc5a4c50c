"""A price read off a hidden state: what it begins as, what it learns, and the distribution it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.config.experiment import Prompt
from tasks.errors import UserError
from tasks.models.language.estimators import median, quantile
from tasks.models.language.price_head import FILE, PriceHead, mean_head

PROMPT, GRID = Prompt(), np.arange(1000.0)
TRUTH = np.geomspace(2, 800, 200)
TOLD = np.log1p(np.column_stack([TRUTH * 1.1, TRUTH / 1.1, np.full(200, 50.0)]))  # two opinions, and what one costs


def begun(opinions: int = 2, told: np.ndarray = TOLD) -> PriceHead:
    return PriceHead.begin(16, told, opinions, TRUTH, PROMPT, bins=96)


def read(head: PriceHead, told: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
    hidden = np.random.default_rng(0).normal(size=(len(told), 16)) if states is None else states
    with torch.inference_mode():
        return head.read(*(torch.tensor(array, dtype=torch.float32) for array in (hidden, told)), GRID)


def test_it_begins_as_the_mean_of_the_opinions() -> None:
    """Whatever the hidden state is; without opinions as the comparables, and told nothing as the median price."""
    assert np.abs(np.log1p(median(read(begun(), TOLD), GRID)) - np.log1p(TRUTH)).max() < 0.3
    alone = median(read(begun(0, TOLD[:, 2:]), TOLD[:, 2:]), GRID)
    untold = median(read(begun(0, TOLD[:, :0]), TOLD[:, :0]), GRID)
    assert np.ptp(alone) == np.ptp(untold) == 0
    assert abs(np.log(alone[0] / np.median(TRUTH))) < 0.1 and abs(np.log(untold[0] / np.median(TRUTH))) < 0.1


def test_its_distribution_is_whole_and_of_the_prices_that_the_text_can_answer() -> None:
    """Each row adds up to 1, the quantiles are in order, and a price of 0 or 999 can be answered."""
    told = np.log1p(np.array([[0.0, 0.0, 5.0], [999.0, 999.0, 5.0], [40.0, 60.0, 5.0]]))
    probabilities = read(begun(), told)
    assert probabilities.shape == (3, 1000) and (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    low, high = quantile(probabilities, GRID, 0.1), quantile(probabilities, GRID, 0.9)
    middle = median(probabilities, GRID)
    assert (low <= middle).all() and (middle <= high).all() and (np.diff(middle[[0, 2, 1]]) > 0).all()


def test_it_learns_what_the_state_adds_to_what_it_is_told() -> None:
    """Prices that are twice as high as told where the state says so: the answers follow, and so does the loss. What all
    states have in common, and it is most of them, is no hindrance."""
    torch.manual_seed(0)
    common, head = 10 * torch.randn(16), begun()
    states = common + torch.randn(200, 16)
    head.standardize(common + torch.randn(100, 16))
    prices = torch.tensor(TRUTH, dtype=torch.float32) * torch.where((states - common)[:, 3] > 0, 2.0, 1.0)
    told, optimizer = torch.tensor(TOLD, dtype=torch.float32), torch.optim.Adam(head.parameters(), lr=0.03)
    first = head.loss(states, told, prices).mean().item()
    for _ in range(150):
        loss = head.loss(states, told, prices).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 0.3
    answers = median(read(head, TOLD, states.numpy()), GRID)
    inner = (TRUTH > 5) & (TRUTH < 400)
    ratios = np.log(answers / TRUTH)[inner]
    twice = (states - common)[:, 3].numpy()[inner] > 0
    assert abs(np.median(ratios[twice]) - np.log(2)) < 0.15 and abs(np.median(ratios[~twice])) < 0.15


def test_states_that_are_all_alike_say_nothing() -> None:
    """A head that has seen no difference between prompts begins as any, and its loss is a number."""
    head, states = begun(), torch.full((200, 16), 3.0)
    states[:, 0] = 50.0
    head.standardize(states)
    np.testing.assert_array_equal(read(head, TOLD, states.numpy()), read(begun(), TOLD))
    loss = head.loss(states, *(torch.tensor(part, dtype=torch.float32) for part in (TOLD, TRUTH))).mean()
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(one.grad).all() for one in head.parameters())


def test_a_loss_is_a_number_whatever_the_price_is() -> None:
    """Prices beyond the bins count as the outermost one."""
    states = torch.zeros(3, 16)
    told = torch.tensor(TOLD[:3], dtype=torch.float32)
    assert torch.isfinite(begun().loss(states, told, torch.tensor([0.0, 999.0, 1e9]))).all()


def test_saved_and_averaged_heads_answer_as_they_should(tmp_path: Path) -> None:
    """A saved one as before; the mean of one with itself as that one."""
    torch.manual_seed(1)
    head = begun()
    head.standardize(torch.randn(50, 16))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for name in ("one", "two", "mean"):
        (tmp_path / name).mkdir()
    head.save(tmp_path / "one")
    head.save(tmp_path / "two")
    mean_head([tmp_path / "one", tmp_path / "two"], tmp_path / "mean")
    np.testing.assert_array_equal(read(PriceHead.load(tmp_path / "one"), TOLD), read(head, TOLD))
    np.testing.assert_allclose(read(PriceHead.load(tmp_path / "mean"), TOLD), read(head, TOLD), atol=1e-6)


def test_a_head_of_a_version_that_took_states_as_they_are_answers_as_it_did(tmp_path: Path) -> None:
    """Its file says nothing of their mean and deviation."""
    torch.manual_seed(2)
    head = begun()
    torch.nn.init.normal_(head.state.weight)
    head.save(tmp_path)
    tensors = load_file(tmp_path / FILE)
    save_file({name: tensor for name, tensor in tensors.items() if name not in ("center", "scale")}, tmp_path / FILE)
    np.testing.assert_array_equal(read(PriceHead.load(tmp_path), TOLD), read(head, TOLD))


def test_a_head_with_more_in_it_than_this_version_knows_is_said(tmp_path: Path) -> None:
    """And not answered by without it."""
    begun().save(tmp_path)
    save_file({**load_file(tmp_path / FILE), "second": torch.zeros(3)}, tmp_path / FILE)
    with pytest.raises(UserError, match="does not know its second"):
        PriceHead.load(tmp_path)
