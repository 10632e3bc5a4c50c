"""What SECURITY.md promises and code alone can break: no pickle, no remote code, loopback, names that stay names."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.cli.parser import parser
from tasks.config.loading import load
from tasks.curation import curate
from tasks.paths import PROJECT
from tasks.tracking.store import connect, fetch

SMOKE = "conf/smoke.yaml"
SOURCES = sorted(path for name in ("flows", "tasks", "benchmarks") for path in (PROJECT / name).rglob("*.py"))
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "__import__", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_runs_what_it_reads(path: Path) -> None:
    """No pickle in any of its forms, no remote code, no YAML that makes objects, no shell; torch reads weights only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & LOADERS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in LOADERS
        if isinstance(node, ast.Call):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert "trust_remote_code" not in given and given.get("shell") != "True"
            assert given.get("allow_pickle") != "True"
            assert ast.unparse(node.func) not in CALLS or given.get("weights_only") == "True"


def test_a_pickled_model_in_the_store_is_not_loaded(experiment: object, tmp_path: Path) -> None:
    """MLflow would run it; here it refuses."""
    import mlflow

    connect(experiment)
    touched = tmp_path / "touched"

    class Trap(mlflow.pyfunc.PythonModel):
        def __reduce__(self) -> tuple:
            return (Path.touch, (touched,))

    mlflow.pyfunc.save_model(str(tmp_path / "model"), python_model=Trap(), pip_requirements=[])
    with pytest.raises(mlflow.MlflowException, match=r"(?i)pickle"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert not touched.exists()


def test_servers_listen_on_this_machine_alone_unless_told_otherwise() -> None:
    """The only address in the code is the loopback; another one is an option of `serve`, and Dask's is set too."""
    for path in SOURCES:
        assert "0.0.0.0" not in path.read_text(encoding="utf-8")
    assert parser().parse_args(["serve"]).host == "127.0.0.1"
    from distributed import LocalCluster

    from tasks.curation import runner_of

    runner = runner_of(load(SMOKE, ["data.runner=dask"]).data)
    with LocalCluster(n_workers=0, **runner.cluster_kwargs) as cluster:
        import psutil

        assert "127.0.0.1" in cluster.dashboard_link
        listening = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert set(listening) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("override", ["promote.name=../../x", "promote.name=a:b", "tracking.uri=../x"])
def test_a_name_that_leads_out_is_refused(override: str, capsys: pytest.CaptureFixture) -> None:
    """Before any work, by its key."""
    assert main(["leaderboard", "-c", SMOKE, override]) == 2
    assert override.partition("=")[0] in capsys.readouterr().err


def test_names_of_the_conf_and_of_the_data_never_become_paths(tmp_path: Path, at: object) -> None:
    """A dataset, an experiment and items called ../../x stay inside the store, and a folder is where it was typed."""
    rows = [
        {"id": f"../../{n}", "title": f"../../etc kettle {n}", "price": 5 + n, "category": "../.."} for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = tmp_path / "a" / "b"
    words = [*at(store), "data.source=files", f"data.path={tmp_path}/rows.jsonl", "data.name=../../x"]
    words += ["tracking.experiment=../../x", f"tracking.artifacts={store}/../kept", "data.near=null", "data.text_min=1"]
    before = set(tmp_path.rglob("*"))
    folder = fetch(curate(load(SMOKE, words)).path)
    assert folder.is_relative_to(tmp_path / "a" / "kept")
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "a" / "kept") for path in made if path.is_file())
    with pytest.raises(ValueError, match="leads out"):
        fetch("mlflow-artifacts:/1/../../../etc/passwd")
