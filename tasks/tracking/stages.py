"""When a stage counts as done, and who does it otherwise.

MLflow is the only ledger. A stage is done when a FINISHED run carries the digest of everything the stage depends on
(its slice of the conf, what it reads, the code it runs) and every file it left behind is still as it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from tasks.config.experiment import Experiment
from tasks.digests import digest as digest_of
from tasks.errors import UserError
from tasks.locks import locked
from tasks.progress import outlook, say
from tasks.tracking import means
from tasks.tracking.claims import NOBODY, Claim, abandon, await_owner, is_elected, owner_of
from tasks.tracking.manifest import MANIFEST, is_whole, manifest
from tasks.tracking.runs import (
    CANDIDATES,
    CONTENT,
    DIGEST,
    KIND_OF_WORK,
    LOCK,
    MADE_FROM,
    STAGE,
    SUPERSEDED,
    TOOK,
    Candidate,
    Mode,
    StageRun,
    candidate,
)
from tasks.tracking.store import LOCKS, connect, experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@contextmanager
def stage(
    experiment: Experiment,
    name: str,
    digest: str,
    *,
    command: str,
    mode: Mode = "reuse",
    resume: bool = False,
    tags: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Iterator[StageRun]:
    """The run of a stage: the finished one if it is `done`, or a new one that is FINISHED when the block ends well.

    With `resume`, a run that was interrupted is opened again, so that what it logged is still there. While one process
    works on a digest, here or in another checkout on the same store, another one that wants the same waits for it.
    `inputs` are what the digest is of: if the same was done by another version of a library, say, that is said.

    Raises:
        UserError: in mode "recall" or "read", when the stage is not done; `command` is the remedy.
    """
    where = experiment_id(experiment)
    client, known, begun = connect(experiment), {STAGE: name, DIGEST: digest}, time.time()
    with once(digest):
        claim = None
        while claim is None:
            finished = None if mode == "again" else _finished(client, where, name, digest, whole=mode != "read")
            if finished is not None:
                outlook.skip(name)
                yield StageRun(client, finished, name, done=True)
                return
            other = None if mode == "again" else _other_means(client, where, name, inputs)
            if mode in ("recall", "read"):
                raise UserError(
                    f"There is no finished {name} stage for this configuration, data and code"
                    f"{f'; the same was done by {other}' if other else ''}. Run `{command}` first, with the same -c "
                    "and key=value."
                )
            if other:
                say(f"{name}: the same was done by {other}, so it is done again here.")
            noted = {"mlflow.note.content": f"`{command}`", KIND_OF_WORK: _kind_of_work(experiment), **(tags or {})}
            noted |= means.noted(inputs) if inputs else {}
            claim = _claimed(client, where, known, noted, resume=resume and mode != "again")
        with claim, outlook.at(name):
            run, rules = client.get_run(claim.run_id), experiment.data.rules()
            current = StageRun(client, run, name, done=False, rules=rules, check=claim.check)
            try:
                yield current
            except BaseException as error:
                claim.leave("FAILED" if isinstance(error, Exception) else "KILLED")
                raise
            claim.check(at_once=True)
            current.log_json([vars(one) for one in current.candidates()], CANDIDATES)
            current.log_json(manifest(current.addresses(current.shared)), MANIFEST)
            client.set_terminated(current.id, "FINISHED")
            if current.run.info.start_time >= 1000 * begun:  # of one that was interrupted, nobody knows
                client.set_tag(current.id, TOOK, f"{time.time() - begun:.1f}")
        for older in _search(client, where, known):  # by the tag and not by time: clocks are put back
            if older.info.status == "FINISHED" and older.info.run_id != current.id:
                client.set_tag(older.info.run_id, SUPERSEDED, current.id)


def _kind_of_work(experiment: Experiment) -> str:
    """What the time of a stage depends on most, to tell by the last run how long the next one takes."""
    return digest_of([experiment.data.dataset_name, experiment.finetune.base])


def took(experiment: Experiment, stages: Sequence[str]) -> dict[str, float | None]:
    """The seconds that each stage took the last time with this dataset and base model; None where nobody knows."""
    client, where = connect(experiment), [experiment_id(experiment)]
    alike = f"tags.`{KIND_OF_WORK}` = '{_kind_of_work(experiment)}' and tags.`{STAGE}` = '{{}}'"
    query, latest = f"{alike} and attributes.status = 'FINISHED'", ["attributes.start_time DESC"]
    found = {name: client.search_runs(where, query.format(name), max_results=5, order_by=latest) for name in stages}
    times = {name: [run.data.tags[TOOK] for run in runs if TOOK in run.data.tags] for name, runs in found.items()}
    return {name: float(seconds[0]) if seconds else None for name, seconds in times.items()}


def _other_means(client: MlflowClient, where: str, name: str, inputs: Mapping[str, Any] | None) -> str | None:
    if inputs is None:
        return None
    asked = means.noted(inputs)[means.ASKED_TAG]
    runs = _search(client, where, {STAGE: name, means.ASKED_TAG: asked})
    return means.difference(inputs, [run for run in runs if run.info.status == "FINISHED"])


def _claimed(
    client: MlflowClient, where: str, known: Mapping[str, str], noted: Mapping[str, str], *, resume: bool
) -> Claim | None:
    """The claim to a run that is to be worked on, among those that are known by the same tags: an interrupted one or a
    new one; None if somebody else had it, whose end was waited for."""
    interrupted = []
    for found in _search(client, where, known):
        if found.info.status != "FINISHED" and owner_of(found) != NOBODY:
            run = await_owner(client, found.info.run_id)
            if run is None:
                return None
            interrupted.append(run)
    if resume and interrupted:
        claim = Claim.taken_over(client, interrupted[0])
    else:
        *kind, digest = known.values()
        claim = Claim.of_new_run(client, where, "-".join([*kind, digest[:6]]), {**known, **noted})
        before = {claim.run_id, *(run.info.run_id for run in interrupted)}
        rivals = [run for run in _search(client, where, known) if run.info.run_id not in before]
        if not is_elected(client, claim, rivals):
            return None
    for stale in interrupted:
        if claim and stale.info.run_id != claim.run_id and stale.info.status == "RUNNING":
            abandon(client, stale, "KILLED")
    return claim


@contextmanager
def alone(experiment: Experiment, digest: str) -> Iterator[None]:
    """Let one process at a time do what has this name, of all machines on the store; others wait.

    The lock is a run that is there while it is held, and claimed as that of a stage is.
    """
    where = experiment_id(experiment)
    client = connect(experiment)
    with once(digest):
        claim = None
        while claim is None:
            claim = _claimed(client, where, {LOCK: digest}, {}, resume=True)
        with claim:
            try:
                yield
            finally:
                if claim.holds():
                    client.delete_run(claim.run_id)


def once(digest: str) -> AbstractContextManager[None]:
    """Let one process of this machine at a time do what has this name; others wait."""
    return locked(LOCKS / f"{digest}.lock", notice="Another process is doing this already; waiting for it to end.")


def _search(client: MlflowClient, where: str, known: Mapping[str, str]) -> list[Run]:
    query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in known.items())
    return list(client.search_runs([where], query, order_by=["attributes.start_time DESC"]))


def _finished(client: MlflowClient, where: str, name: str, digest: str, *, whole: bool) -> Run | None:
    runs = _search(client, where, {STAGE: name, DIGEST: digest})
    for run in sorted(runs, key=lambda run: SUPERSEDED in run.data.tags):
        if run.info.status == "FINISHED" and (not whole or StageRun(client, run, name, done=True).intact()):
            return run
    return None


def whole_splits(experiment: Experiment, content: str) -> str | None:
    """Where splits of this content lie, in any run of curate that is as it was; None if there are none."""
    query = f"tags.`{STAGE}` = 'curate' and tags.`{CONTENT}` = '{content}' and attributes.status = 'FINISHED'"
    client = connect(experiment)
    for run in client.search_runs([experiment_id(experiment)], query):
        curated = StageRun(client, run, "curate", done=True)
        if curated.intact():
            return curated.artifact_address(f"splits/{content}")
    return None


def whole_model(run: StageRun, made_from: str) -> Candidate | None:
    """The first model that any run kept with the tag that says what it was made from, if its files are as they were;
    the run shares it then, and notes it as read."""
    query = f"tags.`{MADE_FROM}` = '{made_from}'"
    found = run.client.search_logged_models([run.run.info.experiment_id], query)
    for model in sorted(found, key=lambda model: model.creation_timestamp):
        if str(model.status) == "READY" and is_whole(run.client, model):
            run.log_models_read([model.model_id])
            run.shared.append(model.model_id)
            return candidate(model)
    return None


def trained_on(experiment: Experiment, model_id: str) -> str | None:
    """The digest of the dataset that a LoggedModel was made from; None where its run does not say."""
    client = connect(experiment)
    source = client.get_logged_model(model_id).source_run_id
    return client.get_run(source).data.params.get("dataset") if source else None
