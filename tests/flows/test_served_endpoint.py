"""A real model behind a real OpenAI-compatible server: what `transformers serve` makes of the embedded one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.config.experiment import Api
from tasks.data.items import Item
from tasks.models.api import Inquiry, priced
from tasks.models.api_calls import Budget
from tasks.models.language.base_model import locate
from tests.waiting import answers, free_port, stop, until

QUESTION = "What is the price of this in dollars? Answer with a number such as $20."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str, subprocess.Popen]]:
    """The address of a server of the embedded model, the model's name there, and its process."""
    folder = locate("smollm2-135m")
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), process, tmp_path / "serve.log")
        yield f"http://127.0.0.1:{port}/v1", folder, process
    finally:
        stop(process)


@pytest.mark.slow
def test_a_served_model_is_asked_for_real(
    server: tuple[str, str, subprocess.Popen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words become prices, the tokens it counts are those of the row, and with the server gone the row stands."""
    url, name, process = server
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path))
    texts = ("Steel kettle, 1.7 litres, pack of 2", "Trail tent for 4 people")
    items = [Item(str(number), text, "") for number, text in enumerate(texts)]
    model = Api(
        name="smollm2",
        model=name,
        base_url=url,
        key_env=None,
        input_price=0,
        output_price=0,
        question=QUESTION,
        parameters={"temperature": 0, "max_tokens": 24},
        concurrency=1,
        timeout=600,
    )
    inquiry = Inquiry(model, items)
    row = inquiry.ask(Budget(0))
    assert row.status == "ran", row.reason
    assert all(answer is not None and answer.text for answer in inquiry.answers)
    assert row.predictions is not None
    said = [priced(answer) for answer in inquiry.answers if answer]
    assert row.predictions.price.tolist() == pytest.approx(
        [float("nan") if price is None else price for price in said], nan_ok=True
    )
    assert row.figures["input_tokens"] > 2 * 20 and 2 <= row.figures["output_tokens"] <= 2 * 24
    stop(process)
    assert Inquiry(model, items).ask(Budget(0)).figures == row.figures
