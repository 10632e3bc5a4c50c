"""An OpenAI-compatible endpoint on 127.0.0.1 that behaves as a test wants it to, and a model behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tasks.config.experiment import Api
from tasks.data.items import Item
from tasks.models.api import Inquiry
from tasks.models.api_calls import Budget
from tasks.models.external import ExternalPredictions

KEY = "sk-test-5up3r53cr3t"
ITEMS = [Item(str(number), f"Kettle {number}", "Boils water.", price=10.0 * number) for number in range(1, 7)]


def completion(text: str | None, **message: str) -> dict[str, Any]:
    """What an endpoint says, with 100 tokens in and 10 out."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage}


@dataclass
class Endpoint:
    """A server on 127.0.0.1; `behave(handler, asked, attempt)` answers the given attempt at the given question."""

    port: int
    behave: Callable[[BaseHTTPRequestHandler, str, int], None]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def send(handler: BaseHTTPRequestHandler, body: Any, status: int = 200, **headers: str) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", "content-length": str(len(raw)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(raw)


@contextmanager
def serving(behave: Callable[[BaseHTTPRequestHandler, str, int], None]) -> Iterator[Endpoint]:
    """An endpoint for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked = request["messages"][-1]["content"]
            with here.lock:
                attempt = sum(known["messages"][-1]["content"] == asked for known in here.requests)
                here.requests.append(request)
                here.keys.append(self.headers["authorization"])
            here.behave(self, asked, attempt)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that has hung up

    server = Server(("127.0.0.1", 0), Handler)
    here = Endpoint(server.server_port, behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def model(endpoint: Endpoint, **changes: Any) -> Api:
    """A model behind it that costs nothing and has its key in TEST_KEY, but for the changes."""
    free = {"input_price": 0, "output_price": 0}
    return Api(**{"name": "m", "base_url": endpoint.url, "key_env": "TEST_KEY", **free, **changes})


def ask(endpoint: Endpoint, budget: float = 0.0, items: list[Item] = ITEMS, **changes: Any) -> ExternalPredictions:
    """The row of such a model."""
    inquiry = Inquiry(model(endpoint, **changes), items)
    return inquiry.ask(Budget(budget, inquiry.cost))


def prices(guesses: ExternalPredictions) -> list[float | None]:
    """The prices of a row; None where an item has none."""
    assert guesses.predictions is not None, guesses.reason
    return [None if np.isnan(price) else float(price) for price in guesses.predictions.price]
