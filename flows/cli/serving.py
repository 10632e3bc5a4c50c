"""The champion over HTTP: MLflow's scoring server, behind limits and a check that says what is wrong with a request."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.addresses import check_free
from tasks.config.experiment import Experiment
from tasks.models.loading import current_rules
from tasks.progress import say
from tasks.scoring.origin import Origin
from tasks.tracking.registry import CHAMPION, expected
from tasks.tracking.runs import MODEL, MODEL_ID
from tasks.tracking.store import connect

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
EXAMPLE = '{"inputs": ["Stainless kettle, 1.7 litres"]}'


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for: bytes of body, texts, and characters of a text."""

    body: int = 2**20
    texts: int = 64
    characters: int = 10_000


class BadRequestError(ValueError):
    """What is wrong with a request, or with its answer, and the HTTP status that says what kind of wrong it is."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """ASGI middleware before POST /invocations: refuses what cannot be priced, and lets one request in at a time."""

    def __init__(self, app: ASGIApp, limits: Limits, origin: Origin | None = None, seconds: float = 60) -> None:
        """`seconds` is how long a request may wait for its turn, and what the app itself allows the model."""
        self.app, self.limits, self.seconds, self.turn = app, limits, seconds, asyncio.Lock()
        self.about = {"model": origin.fields()} if origin else {}  # what every answer says of its model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/invocations" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            body = await _read(receive, headers.get(b"content-length", "0"), self.limits.body)
            check(body, headers.get(b"content-type", ""), self.limits)
        except BadRequestError as error:
            await _refuse(error, scope, receive, send)
            return

        try:
            start, said = await self._ask(scope, receive, body)
        except BadRequestError as error:
            await _refuse(error, scope, receive, send)
            return
        if start["status"] == 200:
            # MLflow writes NaN where there is no price or no interval. No JSON has that, and many readers refuse it.
            answer = json.loads(said, parse_constant=lambda _: None)
            said = json.dumps({**answer, **self.about}, allow_nan=False).encode()
        lengths = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await send({**start, "headers": [*lengths, (b"content-length", str(len(said)).encode())]})
        await send({"type": "http.response.body", "body": said})

    async def _ask(self, scope: Scope, receive: Receive, body: bytes) -> tuple[Message, bytes]:
        """The head and the body of what the app answers to a request that was checked.

        Raises:
            BadRequestError: its turn did not come in time, or the model took too long or failed.
        """
        # MLflow does not know all spellings of the type that HTTP allows.
        others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        plain = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        unread: bytes | None = body

        async def again() -> Message:
            nonlocal unread
            if unread is None:
                return await receive()
            whole, unread = unread, None
            return {"type": "http.request", "body": whole, "more_body": False}

        start: Message = {"type": "http.response.start", "status": 500, "headers": []}
        said = b""

        async def kept(message: Message) -> None:
            nonlocal start, said
            start = message if message["type"] == "http.response.start" else start
            said += message.get("body", b"")

        limit = f"{self.seconds:g} seconds ({TIMEOUT})"
        try:
            async with asyncio.timeout(self.seconds):
                await self.turn.acquire()
        except TimeoutError:
            raise BadRequestError(503, f"Other requests took all of {limit}. Send it again later.") from None
        try:
            await self.app(plain, again, kept)
        finally:
            self.turn.release()  # not before the model is done, which nothing cuts off: two would share the memory
        if start["status"] == 504:
            raise BadRequestError(504, f"The model took longer than {limit}. Send fewer or shorter texts.")
        if start["status"] in (400, 500):  # the request was checked: it is the model's failure
            # Its stack trace is for the log alone.
            print(f"the model failed: {said.decode(errors='replace')}", file=sys.stderr, flush=True)
            raise BadRequestError(500, "The model failed on these texts. The log of the server says where.")
        return start, said


async def _read(receive: Receive, announced: str, most: int) -> bytes:
    body = b""
    too_long = BadRequestError(413, f"The body is longer than {most:,} bytes. Send fewer or shorter texts.")
    if int(announced) > most:  # refused before it is sent, where the client waits to be asked for it
        raise too_long
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:  # sent in chunks, without its length
            raise too_long
        if not message.get("more_body"):
            return body


async def _refuse(error: BadRequestError, scope: Scope, receive: Receive, send: Send) -> None:
    from starlette.responses import JSONResponse

    # In the form of MLflow's own errors; the rest of a body that was not read is nobody's any more.
    answer = {"error_code": "BAD_REQUEST" if error.status < 500 else "INTERNAL_ERROR", "message": str(error)}
    await JSONResponse(answer, error.status, {"connection": "close"})(scope, receive, send)


def check(body: bytes, content_type: str, limits: Limits) -> None:
    """Refuse a body that is not `{"inputs": [text, ...]}` within the limits.

    Raises:
        BadRequestError: with what was expected and what came.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise BadRequestError(415, f"The Content-Type is {content_type or 'missing'!r}. Expected application/json.")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(400, f"The body is not JSON ({error}). Expected such as {EXAMPLE}.") from None
    if not isinstance(request, dict) or list(request) != ["inputs"]:
        came = f"the keys {sorted(request)}" if isinstance(request, dict) else f"a JSON {type(request).__name__}"
        raise BadRequestError(400, f"Expected an object with the one key inputs, such as {EXAMPLE}; got {came}."[:500])
    texts = request["inputs"]
    if not isinstance(texts, list) or not texts:
        raise BadRequestError(400, f"inputs must be a list of one text or more, such as {EXAMPLE}.")
    if len(texts) > limits.texts:
        raise BadRequestError(413, f"There are {len(texts):,} texts. Send at most {limits.texts} at a time.")
    for place, text in enumerate(texts):
        _check_text(text, f"inputs[{place}]", limits.characters)


def _check_text(text: Any, where: str, most: int) -> None:
    if not isinstance(text, str):
        raise BadRequestError(400, f"{where} is a {type(text).__name__}. Expected a text: title, then description.")
    if not text.strip():
        raise BadRequestError(400, f"{where} is empty. There is nothing to price.")
    if len(text) > most:
        raise BadRequestError(413, f"{where} has {len(text):,} characters. Send at most {most:,}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequestError(400, f"{where} holds half of a surrogate pair, which is no character.") from None


def serve(experiment: Experiment, host: str, port: int, limits: Limits) -> None:
    """Load the champion once and answer until Ctrl-C.

    Raises:
        UserError: there is no champion, or the port is in use.
    """
    check_free(port, "--port")
    client = connect(experiment)
    version = expected(experiment, CHAMPION)
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server

    model = pyfunc.load_model(f"models:/{version.name}@{CHAMPION}")
    predictor: Any = model.unwrap_python_model()
    predictor.rules = current_rules(experiment, version.tags[MODEL_ID], predictor.rules)
    origin = Origin.read(version.tags)
    name = origin or client.get_logged_model(version.tags[MODEL_ID]).tags[MODEL]
    if host not in LOOPBACK:
        say(f"{host}: whoever reaches this machine can ask for prices. There is no password.")
    print(f"{version.name} version {version.version} ({name}): http://{host}:{port}/invocations", flush=True)
    import uvicorn
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    guard = Guard(scoring_server.init(model), limits, origin, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
    uvicorn.run(guard, host=host, port=port, log_level="warning")
