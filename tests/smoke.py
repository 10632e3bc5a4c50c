"""The smoke experiment as the tests run it: a command, and a pipeline that was run once."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import yaml

from flows.cli.main import main
from tasks.config.experiment import Experiment
from tasks.config.loading import find_conf, load
from tasks.tracking.runs import STAGE
from tasks.tracking.store import connect, experiment_id

SMOKE = "conf/smoke.yaml"


def command(*words: str) -> tuple[int, str]:
    """The exit status of a command, and what it printed; where it failed, what it said on standard error."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main([*words])
    return status, output.getvalue() if status == 0 else errors.getvalue()


def own_conf(folder: Path, overrides: list[str]) -> str:
    """A copy of the smoke experiment's conf in a folder, with the store that the overrides name."""
    conf = yaml.safe_load(find_conf(SMOKE).read_text())
    conf["tracking"] = {word.partition("=")[0].partition(".")[2]: word.partition("=")[2] for word in overrides}
    (folder / "own.yaml").write_text(yaml.safe_dump(conf))
    return str(folder / "own.yaml")


class Finished(NamedTuple):
    """A pipeline that was run once: its store, its conf, what it printed and the stages it did.

    All tests of a worker share it: whoever promotes something takes a `promote.name` of their own.
    """

    folder: Path
    overrides: list[str]
    output: str
    made: list[str]

    def command(self, *words: str) -> tuple[int, str]:
        return command(*words, "-c", SMOKE, *self.overrides)

    @property
    def experiment(self) -> Experiment:
        return load(SMOKE, self.overrides)

    def runs(self) -> set[str]:
        """Every run there is, those of single models included."""
        client = connect(self.experiment)
        return {run.info.run_id for run in client.search_runs([experiment_id(self.experiment)])}

    def stages(self) -> list[str]:
        """The stage of every run there is."""
        client = connect(self.experiment)
        runs = client.search_runs([experiment_id(self.experiment)])
        return sorted(run.data.tags[STAGE] for run in runs if STAGE in run.data.tags)
