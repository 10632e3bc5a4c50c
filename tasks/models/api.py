"""Models behind an OpenAI-compatible API: each item asked once, within a budget, the answers kept on disk."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config.experiment import Api
from tasks.data.items import Item
from tasks.data.price_words import price_in
from tasks.data.prices import DOLLARS
from tasks.digests import digest
from tasks.models.api_calls import Answer, Budget, BudgetError, Calls, StoppedError, key_of
from tasks.models.external import ExternalPredictions
from tasks.models.predictor import Predictions
from tasks.paths import cache_folder
from tasks.progress import Progress

FAILURES = 10  # in a row, each after all its retries: the endpoint is down, and the rest is not asked
OVERHEAD = 64  # tokens, more than a chat template puts around two messages


def priced(answer: Answer, currency: tuple[str, ...] = DOLLARS) -> float | None:
    """The price in an answer; of one that was cut, only if it goes on after the price: "$1,2" began as "$1,299"."""
    text = re.sub(r"\S+\s*$", "", answer.text) if answer.cut else answer.text
    return price_in(text, currency)


def forbidden(model: Api, budget: float) -> str | None:
    """Why a model may not be asked: a key that is not set or is none, or no budget where it costs; None if it may."""
    key, missing = key_of(model), []
    if model.key_env and not key:
        missing.append(f"{model.key_env} is not set")
    if not (key.isascii() and key.isprintable()):  # which no header holds
        missing.append(f"{model.key_env} holds more than a key: a line end, or a letter or quote that is not ASCII")
    if not model.free and budget <= 0:
        missing.append("evaluate.budget is 0 dollars")
    return " and ".join(missing) or None


def ask_about(model: Api, item: Item) -> dict[str, Any]:
    """The request for one item, in the recipe's words."""
    text = f"{item.title}\n{item.text}".strip()[: model.text_characters].rstrip()
    words = {"system": model.system, "user": f"{model.question}\n\n{text}" if model.question else text}
    messages = [{"role": role, "content": content} for role, content in words.items() if content]
    return {"model": model.model or model.name, "messages": messages, **model.parameters}


class Inquiry:
    """One model and the items it is asked about, with the answers that are on disk already. A sign of `currency` may
    stand beside a price."""

    def __init__(self, model: Api, items: Sequence[Item], currency: tuple[str, ...] = DOLLARS) -> None:
        self.model, self.currency = model, currency
        self.requests = [ask_about(model, item) for item in items]
        self.answers = [_recall(self._file(request)) for request in self.requests]
        self.stop: str | None = None
        self.broke = False

    def _file(self, request: dict[str, Any]) -> Path:
        name = digest({"base_url": self.model.base_url, **request})
        return cache_folder() / "answers" / name[:2] / f"{name}.json"

    def price(self, answer: Answer) -> float:
        """Dollars for the tokens of an answer and its question."""
        tokens = answer.input_tokens * self.model.input_price + answer.output_tokens * self.model.output_price
        return tokens / 1e6

    @property
    def cost(self) -> float:
        """Dollars that the answers have cost, whenever they were asked for."""
        return sum(self.price(answer) for answer in self.answers if answer)

    def ask(self, budget: Budget) -> ExternalPredictions:
        """The row of the model: from the answers on disk, and from calls for those that are missing."""
        if all(self.answers):
            return self._row(None)
        obstacle = forbidden(self.model, budget.dollars)
        if obstacle is None:
            self._ask_missing(budget)
            return self._row(self.stop)
        return self._row(obstacle, absent="skipped")

    def _ask_missing(self, budget: Budget) -> None:
        missing = [number for number, answer in enumerate(self.answers) if answer is None]
        calls, failures = Calls(self.model, budget), 0
        pool = ThreadPoolExecutor(self.model.concurrency, thread_name_prefix="ask")
        done = len(self.answers) - len(missing)
        try:
            with Progress(f"asking {self.model.name}", len(self.answers), "items", done) as progress:
                futures: dict[Future, int] = {pool.submit(self._ask_one, calls, number): number for number in missing}
                for future in as_completed(futures):
                    asked = future.result()
                    answered = self.answers[futures[future]] is not None
                    failures = 0 if answered else failures + asked
                    if calls.hopeless or failures >= FAILURES:
                        self.stop = self.stop or calls.trouble
                    calls.stopped = self.stop is not None
                    progress.advance(answered)
        finally:
            self.stop = self.stop or (None if all(self.answers) else calls.trouble or "interrupted")
            calls.stopped = True
            pool.shutdown(cancel_futures=True)
            calls.client.close()

    def _ask_one(self, calls: Calls, number: int) -> bool:
        """Ask for one answer and keep it at once; False where nothing was asked any more."""
        if self.stop:
            return False
        request = self.requests[number]
        size = sum(len(message["content"].encode()) for message in request["messages"])
        # No tokenizer makes more tokens of a text than it has bytes.
        most = Answer("", size + OVERHEAD, self.model.most_tokens, 0.0, request["model"])
        try:
            answer = calls.ask(request, most, self.price)
        except BudgetError:
            self.broke, self.stop = True, f"evaluate.budget of ${calls.budget.dollars:g} is spent"
            return False
        except StoppedError:
            return False
        if answer is not None:
            _keep(self._file(request), request, answer)
            self.answers[number] = answer
        return True

    def _row(self, why: str | None, absent: str = "failed") -> ExternalPredictions:
        model, answers = self.model, [answer for answer in self.answers if answer]
        served = ", ".join(sorted({answer.served for answer in answers}))
        params = {"api": model.model_dump(exclude={"key_env", "concurrency", "timeout", "retries"}), "served": served}
        unfinished = why is not None and not self.broke
        about: dict[str, Any] = {"name": model.name, "kind": "api", "params": params, "unfinished": unfinished}
        if not answers:
            return ExternalPredictions(**about, status=absent, reason=why)
        read = [priced(answer, self.currency) if answer else None for answer in self.answers]
        price = np.array([np.nan if value is None else value for value in read])
        unparsable = np.isnan(price) & [answer is not None for answer in self.answers]
        about["figures"] = {
            "input_tokens": sum(answer.input_tokens for answer in answers),
            "output_tokens": sum(answer.output_tokens for answer in answers),
            "cost": self.cost,
            "cost_per_1000": 1000 * self.cost / len(answers),
            "seconds_per_1000": 1000 * float(np.mean([answer.seconds for answer in answers])),
            "unparsable": float(unparsable.sum() / len(answers)),
        }
        remarks = [f"{len(answers)} of {len(self.answers)} items answered: {why}"] if why else []
        if not all(answer.counted for answer in answers):
            remarks.append("the endpoint does not count tokens: they, and the cost, are the most there can be")
        if cut := sum(answer.cut for answer in answers):
            remarks.append(f"{cut} of {len(answers)} answers were cut by the limit of tokens: raise it in parameters")
        if empty := sum(not answer.text.strip() for answer in answers):
            remarks.append(f"{empty} of {len(answers)} answers were empty")
        if np.isnan(price).all():
            said = " ".join(answers[0].text.split())[:80]
            reason = "; ".join([f"none of {len(answers)} answers holds a price, the first is {said!r}", *remarks])
            return ExternalPredictions(**about, status="failed", reason=reason)
        if unparsable.any():
            remarks.append(f"{unparsable.sum()} of {len(answers)} answers hold no price")
        nowhere = np.full(price.shape, np.nan)
        predictions = Predictions(price, nowhere, nowhere, unparsable=unparsable)
        return ExternalPredictions(**about, predictions=predictions, reason="; ".join(remarks) or None)


def _keep(file: Path, request: dict[str, Any], answer: Answer) -> None:
    """Write an answer so that it is there whole or not at all, whatever kills the process."""
    body = {"request": request, "answer": asdict(answer)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False, encoding="utf-8") as temporary:
        json.dump({**body, "digest": digest(body)}, temporary, ensure_ascii=False)
    Path(temporary.name).replace(file)


def _recall(file: Path) -> Answer | None:
    """The answer on disk; None if there is none, or if it is damaged, so that it is asked for again."""
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        return Answer(**entry["answer"]) if entry.pop("digest") == digest(entry) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
