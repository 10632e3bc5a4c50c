"""Models behind an API: what is asked, kept, read and paid for, against a loopback endpoint."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tasks.data.items import Item
from tasks.models.api import Inquiry, forbidden
from tasks.models.api_calls import Budget
from tasks.paths import PROJECT
from tests.endpoint import ITEMS, KEY, Endpoint, ask, completion, model, prices, send
from tests.waiting import PATIENCE, until


def test_each_item_is_asked_about_in_the_words_of_the_conf(endpoint: Endpoint) -> None:
    """System and question, title and text, cut; the parameters as they are; no price; the key as a bearer."""
    item = Item("1", "Kettle", "Boils " + "x" * 5000, price=77.77)
    parameters = {"temperature": 0.5, "max_completion_tokens": 9, "top_p": 0.5}
    row = ask(endpoint, items=[item], model="big", question="How dear?", text_characters=12, parameters=parameters)
    system = "You estimate prices of items. Reply only with the price, no explanation"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "How dear?\n\nKettle\nBoils"}]
    assert endpoint.requests == [{"model": "big", "messages": messages, **parameters}]
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert prices(row) == [20.0] and row.params["served"] == "m-1"


def test_a_second_run_asks_nothing(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are on disk, with their tokens and what they cost; not even the key is needed."""
    costs = {"input_price": 2.5, "output_price": 10.0}
    first = ask(endpoint, 1.0, **costs)
    asked = len(endpoint.requests)
    monkeypatch.delenv("TEST_KEY")
    second = ask(endpoint, 0.0, **costs)
    assert len(endpoint.requests) == asked == len(ITEMS)
    assert second.figures == first.figures and prices(second) == prices(first)
    assert first.figures["input_tokens"] == 600 and first.figures["output_tokens"] == 60
    assert first.figures["cost"] == pytest.approx(6 * (100 * 2.5 + 10 * 10) / 1e6)
    assert not second.unfinished


def test_answers_that_are_there_are_read_anew_in_another_currency(endpoint: Endpoint) -> None:
    """What was paid for before the conf named the sign beside the prices is asked for no second time."""
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, completion("45 zł"))
    assert "the first is '45 zł'" in str(ask(endpoint).reason)
    assert prices(Inquiry(model(endpoint), ITEMS, ("zł",)).ask(Budget(0))) == [45.0] * len(ITEMS)
    assert len(endpoint.requests) == len(ITEMS)


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"question": "?"}, {"parameters": {"max_tokens": 5}}, {"system": "Guess."}]
)
def test_another_question_is_asked_afresh(endpoint: Endpoint, change: dict[str, Any]) -> None:
    """An answer stands for its model, prompt and parameters, and for nothing else."""
    ask(endpoint)
    ask(endpoint, **change)
    assert len(endpoint.requests) == 2 * len(ITEMS)


def test_a_damaged_answer_is_asked_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """Cut, emptied or changed on disk: only those are asked for."""
    ask(endpoint)
    files = sorted((tmp_path / "cache" / "answers").rglob("*.json"))
    assert len(files) == len(ITEMS)
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_text("")
    files[2].write_text(files[2].read_text().replace("$20", "$90"))
    files[3].write_text("[]")
    row = ask(endpoint)
    assert prices(row) == [20.0] * len(ITEMS)
    assert len(endpoint.requests) == len(ITEMS) + 4


def test_an_item_that_keeps_failing_is_left_out_and_the_others_stand(endpoint: Endpoint) -> None:
    """The row says how many were answered and why; another run asks only for the missing one."""

    def behave(handler: BaseHTTPRequestHandler, asked: str, _attempt: int) -> None:
        broken = "Kettle 3" in asked
        send(handler, {"error": {"message": "oops"}} if broken else completion("5"), 500 if broken else 200)

    endpoint.behave = behave
    row = ask(endpoint, retries=0)
    assert prices(row) == [5.0, 5.0, None, 5.0, 5.0, 5.0]
    assert row.unfinished and row.reason is not None and "5 of 6 items answered" in row.reason and "oops" in row.reason
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, completion("6"))
    again = ask(endpoint)
    assert prices(again) == [5.0, 5.0, 6.0, 5.0, 5.0, 5.0] and not again.unfinished
    assert len(endpoint.requests) == len(ITEMS) + 1


def test_refusals_and_prose_are_counted_and_given_no_number(endpoint: Endpoint) -> None:
    """Answers without a price are left out, and are not asked for again: the model has spoken."""
    said = [completion("I cannot say."), completion(None, refusal="No."), completion("$1,234.56 or so")]
    endpoint.behave = lambda handler, asked, _: send(
        handler, said[min(int(re.findall(r"Kettle (\d)", asked)[0]), 3) - 1]
    )
    row = ask(endpoint)
    assert prices(row) == [None, None, 1234.56, 1234.56, 1234.56, 1234.56]
    assert row.figures["unparsable"] == pytest.approx(2 / 6)
    assert row.predictions is not None and row.predictions.unparsable is not None
    assert row.predictions.unparsable.tolist() == [True, True, False, False, False, False]
    assert row.reason == "2 of 6 answers hold no price" and not row.unfinished
    ask(endpoint)
    assert len(endpoint.requests) == len(ITEMS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (completion("I am a teapot"), "none of 6 answers holds a price, the first is 'I am a teapot'"),
        ("<html>a login page</html>", "not a chat completion"),
        ({"choices": []}, "not a chat completion"),
        ({"choices": [{}], "usage": {}}, "not a chat completion"),
        ("[1, 2", "not a chat completion"),
        ({"error": {"message": "the model is asleep"}}, "the model is asleep"),
        ({"error": "quota"}, "quota"),
        (completion(""), "6 of 6 answers were empty"),
    ],
    ids=["prose", "html", "no choice", "no message", "half", "error", "error in a word", "empty"],
)
def test_nonsense_for_every_item_is_a_row_that_says_so(endpoint: Endpoint, body: Any, said: str) -> None:
    """No figure is made up."""
    kind = "text/html" if str(body).startswith("<") else "application/json"
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, body, content_type=kind)
    row = ask(endpoint, retries=0)
    assert (row.status, row.predictions) == ("failed", None)
    assert row.reason is not None and said in row.reason


def test_an_answer_that_was_cut_counts_only_where_it_went_on_after_its_price(endpoint: Endpoint) -> None:
    """`$1,2` may have become `$1,299`; the row says that the limit of tokens is too low."""

    def behave(handler: BaseHTTPRequestHandler, asked: str, _attempt: int) -> None:
        body = completion("$1,2" if "Kettle 1" in asked else "$25 is my estimate, since kettles")
        body["choices"][0]["finish_reason"] = "length"
        send(handler, body)

    endpoint.behave = behave
    row = ask(endpoint, items=ITEMS[:2])
    assert prices(row) == [None, 25.0]
    assert row.reason is not None and "2 of 2 answers were cut by the limit of tokens" in row.reason


def test_reasoning_in_parts_of_its_own_is_no_answer(endpoint: Endpoint) -> None:
    """Some servers send the content as a list of parts; only its text counts."""
    parts = [{"type": "thinking", "text": "perhaps $500"}, {"type": "text", "text": "$25"}]
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, completion(parts))  # type: ignore[arg-type]
    assert prices(ask(endpoint, items=ITEMS[:1])) == [25.0]


def test_without_key_or_budget_nothing_is_sent(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who happens to have a key is not charged; the row says what is missing."""
    row = ask(endpoint, 0.0, input_price=1, output_price=1)
    assert (row.status, row.reason) == ("skipped", "evaluate.budget is 0 dollars")
    monkeypatch.delenv("TEST_KEY")
    row = ask(endpoint, 5.0, input_price=1, output_price=1)
    assert (row.status, row.reason) == ("skipped", "TEST_KEY is not set")
    assert endpoint.requests == []
    assert forbidden(model(endpoint, key_env=None), 0.0) is None
    assert prices(ask(endpoint, key_env=None)) == [20.0] * len(ITEMS)
    assert endpoint.keys == ["Bearer none"] * len(ITEMS)


def test_the_budget_is_never_passed(endpoint: Endpoint) -> None:
    """Asking stops before a call that could pass it; the row covers what was answered; a higher one goes on."""
    items = [Item(str(number), f"Kettle {number}", "Boils water.") for number in range(40)]
    costs = {"input_price": 1000.0, "output_price": 1000.0}  # 0.11 dollars an answer
    row = ask(endpoint, 2.0, items=items, concurrency=4, **costs)
    answered = sum(price is not None for price in prices(row))
    assert len(endpoint.requests) == answered
    assert 10 <= answered <= 18 and row.figures["cost"] == pytest.approx(0.11 * answered) and row.figures["cost"] <= 2
    assert row.reason == f"{answered} of 40 items answered: evaluate.budget of $2 is spent" and not row.unfinished
    ask(endpoint, 2.0, items=items, **costs)
    assert len(endpoint.requests) == answered
    assert None not in prices(ask(endpoint, 10.0, items=items, **costs))
    assert len(endpoint.requests) == 40


def test_tokens_that_nobody_counted_are_called_so(endpoint: Endpoint) -> None:
    """Without usage in the response the most that can have been charged is taken, and the row says so."""
    body = completion("$3")
    del body["usage"]
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, body)
    row = ask(endpoint, 5.0, items=ITEMS[:1], input_price=1.0, output_price=1.0)
    assert row.reason is not None and "does not count tokens" in row.reason
    assert row.figures["output_tokens"] == 32 and 0 < row.figures["cost"] < 5


def test_a_killed_run_goes_on_where_it_was(endpoint: Endpoint) -> None:
    """Every answer is kept as it comes: after a kill only the others are asked for, and no half file counts."""
    items = [Item(str(number), f"Kettle {number}", "") for number in range(60)]

    killed = threading.Event()

    def at_first(handler: BaseHTTPRequestHandler, _asked: str, _attempt: int) -> None:
        if len(endpoint.requests) <= 15 or killed.is_set():
            send(handler, completion("7"))
        else:
            killed.wait(PATIENCE)

    endpoint.behave = at_first
    code = (
        "from tasks.config.experiment import Api; from tasks.data.items import Item\n"
        "from tasks.models.api import Inquiry; from tasks.models.api_calls import Budget\n"
        f"model = Api(name='m', base_url='{endpoint.url}', key_env='TEST_KEY', input_price=0, output_price=0,"
        " concurrency=2)\n"
        "Inquiry(model, [Item(str(n), f'Kettle {n}', '') for n in range(60)]).ask(Budget(0))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, env=dict(os.environ))
    until(lambda: len(endpoint.requests) > 15, child)
    child.send_signal(signal.SIGKILL)
    child.wait(PATIENCE)
    killed.set()
    assert prices(ask(endpoint, items=items)) == [7.0] * 60
    assert len(endpoint.requests) <= 60 + 2  # at most the two that were in flight are asked twice
