"""Calls to an OpenAI-compatible endpoint: answers, what they cost at most, and what went wrong."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from tasks.config.experiment import Api
from tasks.data.items import whole
from tasks.errors import masked


@dataclass(frozen=True)
class Answer:
    """What came back for one item: its words, the tokens that are charged for, seconds, and which model served it.

    Where the endpoint does not count the tokens, they are the most there can be, and `counted` is False. `cut` says
    that the limit of tokens ended it.
    """

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float
    served: str
    counted: bool = True
    cut: bool = False


def key_of(model: Api) -> str:
    """The key of a model, without the line end of a file that it came from; empty where there is none."""
    return os.environ.get(model.key_env or "", "").strip()


class BudgetError(Exception):
    """Another attempt could pass the budget."""


class StoppedError(Exception):
    """The asking is over, and no further attempt is made."""


class Budget:
    """Dollars for all models together. A call in flight holds what it can cost at most, so that the budget is never
    passed; one for which nothing is left at the moment waits until others are settled."""

    def __init__(self, dollars: float, spent: float = 0.0) -> None:
        self.dollars, self.spent, self.held, self.flying = dollars, spent, 0.0, 0
        self.settled = threading.Condition()

    def hold(self, most: float) -> None:
        """Let a call begin that costs `most` at most; `settle` must follow.

        Raises:
            BudgetError: even with all other calls settled, it could pass the budget.
        """
        with self.settled:
            while self._passes(most):
                if not self.flying:
                    raise BudgetError
                self.settled.wait()
            self.held, self.flying = self.held + most, self.flying + 1

    def extend(self, most: float) -> None:
        """Hold as much again for another attempt of the same call: the last one may be charged although its answer was
        lost. It does not wait, since calls that wait for each other never end.

        Raises:
            BudgetError: it could pass the budget.
        """
        with self.settled:
            if self._passes(most):
                raise BudgetError
            self.held += most

    def settle(self, held: float, cost: float) -> None:
        """The call that held so much is over, and cost so much."""
        with self.settled:
            self.spent, self.held, self.flying = self.spent + cost, self.held - held, self.flying - 1
            self.settled.notify_all()

    def _passes(self, most: float) -> bool:
        return most > 0 and self.spent + self.held + most > self.dollars


class Calls:
    """A client of one model that tries again by itself (429, 5xx, no or half an answer; longer and longer pauses, or
    the one that the server asks for) and keeps count of the attempts that may be charged. Threads may share it."""

    def __init__(self, model: Api, budget: Budget) -> None:
        import openai

        self.model, self.budget = model, budget
        self.key = key_of(model)
        self.trouble: str | None = None
        self.hopeless = self.stopped = False
        self.attempts = threading.local()
        self.client = openai.OpenAI(
            api_key=self.key or "none",
            base_url=model.base_url,
            timeout=model.timeout,
            max_retries=model.retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._starts], "response": [self._responds]}
            ),
        )

    def ask(self, request: dict[str, Any], most: Answer, price: Any) -> Answer | None:
        """The answer to a request; None where there is none, and `trouble` says why.

        `most` is the longest answer there can be, which also stands in for what the endpoint does not report, and
        `price` gives the dollars of an answer.

        Raises:
            BudgetError: the call, or another attempt of it, could pass the budget.
            StoppedError: `stopped` was set before it could be answered.
        """
        import openai

        dollars, answer = price(most), None
        self.budget.hold(dollars)
        self.attempts.__dict__.update(dollars=dollars, held=dollars, sent=0, refused=0, start=time.perf_counter())
        try:
            completion = self.client.chat.completions.create(**request)
            answer = self._read(completion, most, time.perf_counter() - self.attempts.start)
        except openai.OpenAIError as error:
            # Not PermissionDeniedError, which a gateway may give for one item.
            lost = (openai.AuthenticationError, openai.NotFoundError)
            self.hopeless |= isinstance(error, lost) or getattr(error, "code", None) == "insufficient_quota"
            self.trouble = self._said(error)
        except (ValueError, AttributeError, TypeError, IndexError) as error:
            sent = self.attempts.sent
            wrong = "the endpoint's response is not a chat completion" if sent else "the request could not be made"
            self.trouble = f"{wrong} ({self._said(error)})"
            if "unexpected keyword argument" in str(error) and not sent:
                self.trouble += "; a parameter that is not OpenAI's belongs in parameters.extra_body"
        finally:
            lost = self.attempts.sent - self.attempts.refused - (answer is not None)
            cost = lost * dollars + (price(answer) if answer else 0.0)
            self.budget.settle(self.attempts.held, cost)
        return answer

    def _starts(self, request: Any) -> None:
        tries = self.attempts
        if self.stopped:
            raise StoppedError
        if tries.sent > tries.refused:
            self.budget.extend(tries.dollars)
            tries.held += tries.dollars
        tries.start = time.perf_counter()
        request.extensions = {**request.extensions, "trace": self._traced}

    def _traced(self, event: str, told: Any) -> None:
        # To a proxy goes a CONNECT first, of the same trace: that is no attempt, and nobody charges for it.
        if event.endswith("send_request_headers.started") and told["request"].method != b"CONNECT":
            self.attempts.sent += 1

    def _responds(self, response: Any) -> None:
        self.attempts.refused += response.status_code >= 300  # nobody charges for an error or for a redirect

    def _read(self, completion: Any, most: Answer, seconds: float) -> Answer:
        if not completion.choices and (words := _error_words(completion)):
            raise ValueError(words)  # an error that calls itself 200
        choice, usage = completion.choices[0], completion.usage
        tokens = [getattr(usage, f"{part}_tokens", None) for part in ("prompt", "completion")]
        counted = None not in tokens
        spent = [int(count or 0) for count in tokens] if counted else [most.input_tokens, most.output_tokens]
        return Answer(
            self._hidden(_words(choice.message)),
            *spent,
            seconds=seconds,
            served=self._hidden(str(completion.model or most.served)),
            counted=counted,
            cut=choice.finish_reason == "length",
        )

    def _said(self, error: Exception) -> str:
        """An error in one line: the words of the response's body, where it has any, or why there was no response."""
        import openai

        body = getattr(error, "body", None)
        status = getattr(error, "status_code", None)
        words = f"{status}: {_spoken(body)}" if status and body else str(error)
        if type(error) is openai.APIConnectionError:  # "Connection error.", and no more
            words += f" ({error.__cause__})"
        return self._hidden(" ".join(f"{type(error).__name__}: {words}".split()))[:300]

    def _hidden(self, text: str) -> str:
        """The text as a file can hold it, and without the key, which a careless server may repeat."""
        return masked(whole(text), self.key)


def _words(message: Any) -> str:
    """What a message says: of content in parts the text alone, without the reasoning."""
    content = message.content
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else getattr(part, "__dict__", {}) for part in content]
        content = "".join(str(part.get("text") or "") for part in parts if part.get("type") in ("text", "output_text"))
    return content or message.refusal or ""


def _error_words(completion: Any) -> str | None:
    error = (getattr(completion, "model_extra", None) or {}).get("error") or getattr(completion, "error", None)
    return _spoken(error) if error else None


def _spoken(body: Any) -> str:
    """The words in the body of an error: `message`, `detail` or `msg`, wherever they are."""
    if isinstance(body, dict):
        inner = next((body[key] for key in ("error", "message", "detail", "msg") if body.get(key)), None)
        return _spoken(inner) if inner is not None else str(body)
    if isinstance(body, list):
        return "; ".join(_spoken(part) for part in body)
    return str(body)
