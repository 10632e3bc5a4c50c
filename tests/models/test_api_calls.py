"""Calls to an API, against a loopback endpoint that misbehaves in every way endpoints do."""

from __future__ import annotations

import logging
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tasks.data.items import Item
from tasks.errors import masked
from tasks.models.api import Inquiry
from tasks.models.api_calls import Budget, BudgetError
from tests.endpoint import ITEMS, KEY, Endpoint, ask, completion, model, prices, send
from tests.waiting import PATIENCE


def test_trouble_that_passes_costs_time_and_nothing_else(endpoint: Endpoint) -> None:
    """429 with Retry-After, 500, an answer cut off in the middle, silence beyond the timeout: tried again."""
    over = threading.Event()

    def behave(handler: BaseHTTPRequestHandler, asked: str, attempt: int) -> None:
        number = int(re.findall(r"Kettle (\d)", asked)[0])
        if attempt or number > 4:
            return send(handler, completion(f"${number}"))
        if number == 1:
            return send(handler, {"error": {"message": "slow down"}}, 429, retry_after="0.1")
        if number == 2:
            return send(handler, {"error": {"message": "oops"}}, 500)
        if number == 3:
            handler.send_response(200)
            handler.send_header("content-length", "5000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
            return None
        over.wait(PATIENCE)
        return None

    endpoint.behave = behave
    row = ask(endpoint, timeout=5, retries=2)  # seconds that no answer takes, however busy the machine
    over.set()
    assert prices(row) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert (row.status, row.reason, row.unfinished) == ("ran", None, False)
    assert len(endpoint.requests) == len(ITEMS) + 4


def test_a_request_that_is_refused_is_told_in_the_words_of_the_body(endpoint: Endpoint) -> None:
    """Such as those of a server that does not know a parameter (422)."""
    body = {"detail": [{"loc": ["body", "seed"], "msg": "seed is not permitted", "type": "extra"}]}
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, body, 422)
    row = ask(endpoint, items=ITEMS[:1], retries=0)
    assert row.reason is not None and row.reason.endswith("422: seed is not permitted")


def test_a_request_that_cannot_be_made_is_no_response(endpoint: Endpoint) -> None:
    """A parameter that the client does not know never reaches the endpoint; where it belongs, it does."""
    row = ask(endpoint, items=ITEMS[:1], parameters={"max_tokens": 5, "top_k": 5})
    assert row.reason is not None and row.reason.startswith("the request could not be made (TypeError: ")
    assert "'top_k'" in row.reason and "parameters.extra_body" in row.reason and endpoint.requests == []
    row = ask(endpoint, items=ITEMS[:1], parameters={"max_tokens": 5, "extra_body": {"top_k": 5}})
    assert prices(row) == [20.0] and endpoint.requests[0]["top_k"] == 5


def test_a_key_from_a_file_loses_its_line_end(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a secret of Kubernetes is mounted; what no header can hold is said before anything is sent."""
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")
    assert prices(ask(endpoint)) == [20.0] * len(ITEMS) and set(endpoint.keys) == {f"Bearer {KEY}"}
    for wrong in (f"{KEY}\n{KEY}", f"\u201c{KEY}\u201d"):
        monkeypatch.setenv("TEST_KEY", wrong)
        row = ask(endpoint, model="other")
        assert row.status == "skipped" and "TEST_KEY holds more than a key" in str(row.reason)
        assert KEY not in str(row.reason)
    assert masked(f"Bearer {KEY}", f"{KEY}\n") == "Bearer ***"
    assert len(endpoint.requests) == len(ITEMS)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": {"message": "bad key"}}),
        (404, {"error": {"message": "no such model"}}),
        (429, {"error": {"message": "pay first", "code": "insufficient_quota"}}),
    ],
)
def test_what_no_retry_can_mend_stops_at_once(endpoint: Endpoint, status: int, body: dict) -> None:
    """A wrong key, model or an empty account is not tried out on two thousand items."""
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, body, status)
    items = [Item(str(number), f"Pan {number}", "") for number in range(200)]
    row = ask(endpoint, items=items, retries=0, concurrency=2)
    assert row.status == "failed" and row.reason is not None and body["error"]["message"] in row.reason
    assert len(endpoint.requests) < 20


def test_an_item_that_is_refused_ends_nothing(endpoint: Endpoint) -> None:
    """A gateway that moderates says 403 of one item, and answers the others; one that says it of all is given up."""
    refused = {"error": {"message": "flagged"}}

    def behave(handler: BaseHTTPRequestHandler, asked: str, _attempt: int) -> None:
        send(handler, *((refused, 403) if "Kettle 1" in asked else (completion("5"),)))

    endpoint.behave = behave
    row = ask(endpoint, concurrency=1)
    assert prices(row) == [None] + [5.0] * 5 and row.reason is not None
    assert row.reason.startswith("5 of 6 items answered: ") and row.reason.endswith("403: flagged")
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, refused, 403)
    endpoint.requests.clear()
    items = [Item(str(number), f"Pan {number}", "") for number in range(100)]
    assert ask(endpoint, items=items, concurrency=1).status == "failed" and len(endpoint.requests) < 20


def test_an_endpoint_that_is_down_is_given_up(endpoint: Endpoint) -> None:
    """Ten failures in a row are enough, beside those under way; nothing was charged where nothing was sent."""
    items = [Item(str(number), f"Pan {number}", "") for number in range(100)]
    endpoint.behave = lambda handler, _asked, _attempt: handler.connection.close()
    assert ask(endpoint, items=items, retries=0).status == "failed" and len(endpoint.requests) < 30
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    inquiry = Inquiry(model(endpoint, base_url=url, retries=0, input_price=1, output_price=1), items)
    budget = Budget(1.0)
    row = inquiry.ask(budget)
    assert row.status == "failed" and row.unfinished and row.reason is not None and "Connection refused" in row.reason
    assert (budget.spent, budget.flying) == (0.0, 0)


def test_an_attempt_whose_answer_was_lost_counts_against_the_budget(endpoint: Endpoint) -> None:
    """The endpoint may charge for what it sent and nobody received; an error it does not charge for."""

    def behave(handler: BaseHTTPRequestHandler, _asked: str, attempt: int) -> None:
        if attempt == 0:
            return send(handler, {"error": {"message": "busy"}}, 503, retry_after="0.01")
        handler.send_response(200)
        handler.send_header("content-length", "5000")
        handler.end_headers()
        return None

    endpoint.behave = behave
    inquiry = Inquiry(model(endpoint, retries=5, input_price=1000.0, output_price=0.0), ITEMS[:1])
    budget = Budget(
        0.45
    )  # an attempt can cost a little under 0.2: some 120 bytes at a dollar a thousand, and 64 tokens
    row = inquiry.ask(budget)
    assert row.status == "failed" and row.reason == "evaluate.budget of $0.45 is spent"
    assert 0.3 < budget.spent <= 0.45
    assert len(endpoint.requests) == 3


def test_a_redirect_is_no_lost_answer(endpoint: Endpoint) -> None:
    """An endpoint that has moved sends every call on, and only where it went to can charge for an answer."""

    def behave(handler: BaseHTTPRequestHandler, _asked: str, _attempt: int) -> None:
        moved = "" if handler.path.endswith("/") else f"{handler.path}/"
        send(handler, completion("$20"), 307 if moved else 200, **({"location": moved} if moved else {}))

    endpoint.behave = behave
    inquiry = Inquiry(model(endpoint, input_price=1000.0, output_price=0.0), ITEMS[:1])
    budget = Budget(1.0)
    assert prices(inquiry.ask(budget)) == [20.0] and len(endpoint.requests) == 2
    assert budget.spent == pytest.approx(inquiry.cost) == 0.1


def test_a_connection_to_a_proxy_is_no_attempt(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that lets nothing through has sent nothing on, so that the budget is as it was."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{endpoint.port}")  # it answers CONNECT with 501
    costs = {"input_price": 1000.0, "output_price": 0.0}
    inquiry = Inquiry(model(endpoint, base_url="https://prices.example/v1", retries=1, **costs), ITEMS[:1])
    budget = Budget(0.45)
    row = inquiry.ask(budget)
    assert row.status == "failed" and "Connection error" in str(row.reason)
    assert budget.spent == 0


def test_calls_that_wait_for_money_wait_for_each_other_to_settle() -> None:
    """A call starts as soon as another turned out cheaper than it might have been, and never if none can."""
    budget = Budget(1.0)
    budget.hold(0.8)
    waiting = threading.Thread(target=budget.hold, args=(0.8,), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    budget.settle(0.8, 0.1)
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    with pytest.raises(BudgetError):
        budget.extend(0.2)
    budget.settle(0.8, 0.8)
    with pytest.raises(BudgetError):
        budget.hold(0.2)
    budget.hold(0.05)


def test_the_key_is_written_nowhere(
    endpoint: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    """Not on disk, in logs, in the row or in what is printed, even if the endpoint repeats it in errors and answers."""
    caplog.set_level(logging.DEBUG)

    def behave(handler: BaseHTTPRequestHandler, asked: str, _attempt: int) -> None:
        broken = "Kettle 1" in asked
        said = handler.headers["authorization"]
        send(
            handler, {"error": {"message": f"bad {said}"}} if broken else completion(f"{said}?"), 400 if broken else 200
        )

    endpoint.behave = behave
    row = ask(endpoint)
    assert "***" in str(row.reason)
    captured = capsys.readouterr()
    assert KEY not in repr(row) + captured.out + captured.err + caplog.text
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 5 and not any(KEY.encode() in file.read_bytes() for file in files)


def test_a_word_for_a_server_that_asks_for_no_key_may_be_part_of_a_price(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the key is 0, "$120" is not 12."""
    monkeypatch.setenv("TEST_KEY", "0")
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, completion("$120"))
    assert prices(ask(endpoint, items=ITEMS[:1])) == [120.0]
    assert endpoint.keys == ["Bearer 0"]


def test_half_a_letter_in_an_answer_spoils_neither_it_nor_the_others(endpoint: Endpoint) -> None:
    """As a model leaves it that was cut in the middle of an emoji: no file can hold it, and the price is there."""
    half = "\ud83d"
    endpoint.behave = lambda handler, _asked, _attempt: send(
        handler, {**completion(f"$20 {half}"), "model": f"m{half}"}
    )
    row = ask(endpoint)
    assert prices(row) == [20.0] * len(ITEMS) and row.params["served"] == "m\ufffd"
    assert prices(ask(endpoint)) == prices(row) and len(endpoint.requests) == len(ITEMS)
    endpoint.behave = lambda handler, _asked, _attempt: send(handler, {"error": {"message": f"no {half}"}}, 400)
    assert "400: no \ufffd" in str(ask(endpoint, model="other").reason)
