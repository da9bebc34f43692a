"""Servers as child processes: each in a session of its own, with a health check, ended by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import requests

from rig.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

ROOT = Path(__file__).resolve().parent.parent
_LOG_TAIL_LINES = 40


class ServerFailed(Exception):  # noqa: N818 - reads as what happened
    """A server ended early or never became healthy; the message contains the end of its log."""


def loopback_session() -> requests.Session:
    """Return an HTTP session that never goes through a proxy."""
    session = requests.Session()
    session.trust_env = False
    return session


class Server:
    """One server program: ``launch`` starts it, ``wait_until_healthy`` waits for it, ``stop`` ends it.

    :param name: name of the server in messages; the name of its log is derived from it.
    :param command: program and arguments.
    :param port: the loopback port of the server.
    :param health_path: path with the response 200 once the server is ready.
    :param log_dir: folder for the log (standard output and error).
    :param env: variables on top of this process's environment; None removes one.
    :param start_timeout: seconds that the start may take.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        health_path: str,
        log_dir: Path,
        env: Mapping[str, str | None] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self.name = name
        self.port = port
        self.url = f"http://{LOOPBACK}:{port}"
        self.log_path = log_dir / f"{name.lower().replace(' ', '-')}.log"
        self._command = list(command)
        self._health_path = health_path
        self._env = dict(env or {})
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the server, also after it has ended."""
        if self._process is None:
            raise ServerFailed(f"{self.name} has not been started")
        return self._process.pid

    def start(self) -> Self:
        """Start the server and wait until it is healthy; end the server if that fails."""
        try:
            self.launch()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> None:
        """Start the process without waiting for it, so that several servers can start side by side."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log, _signals_held_back():
            self._process = subprocess.Popen(
                self._command,
                cwd=self.log_path.parent,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_healthy(self) -> None:
        """Wait until the server answers its health check.

        :raises ServerFailed: the server ended, or its start took longer than ``start_timeout``.
        """
        deadline = time.monotonic() + self._start_timeout
        with loopback_session() as session:
            while True:
                if self._process is None or self._process.poll() is not None:
                    status = self._process.returncode if self._process else "never started"
                    raise ServerFailed(self._explained(f"ended during its start (exit status {status})"))
                if self._healthy(session):
                    return
                if time.monotonic() > deadline:
                    raise ServerFailed(self._explained(f"was not healthy after {self._start_timeout:.0f} s"))
                time.sleep(0.1)

    def stop(self, grace: float = 10.0) -> None:
        """End the server and its children: SIGTERM, and SIGKILL after ``grace`` seconds."""
        self.terminate()
        self.reap(grace)

    def terminate(self) -> None:
        """Send SIGTERM to the server and its children, without waiting for their end."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()

    def reap(self, grace: float = 10.0) -> None:
        """Wait until the server has ended, and kill its remaining processes after ``grace`` seconds."""
        if self._process is None:
            return
        deadline = time.monotonic() + grace
        while (family := self.processes()) and time.monotonic() < deadline:
            self._process.poll()
            psutil.wait_procs(family, timeout=0.2)
        while family := self.processes():
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=1)
        self._process.wait()

    def kill(self) -> None:
        """End the server like a crash: SIGKILL."""
        self.reap(grace=0)

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the server's session.

        The process group would not be enough: Airflow puts each task in a group of its own, which is in the
        same session.
        """
        if self._process is None:
            return []
        return [process for process in psutil.process_iter(["status"]) if self._in_session(process)]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the server."""
        changes: dict[str, str | None] = {
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        changes |= self._env
        environment = {key: value for key, value in os.environ.items() if key not in changes}
        return environment | {key: value for key, value in changes.items() if value is not None}

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """Return the last lines of the server's log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _healthy(self, session: requests.Session) -> bool:
        try:
            return session.get(self.url + self._health_path, timeout=5).ok
        except requests.RequestException:
            return False

    def _explained(self, what: str) -> str:
        return f"{self.name} {what}. The end of its log, {self.log_path}:\n{self.log_tail()}"

    def _in_session(self, process: psutil.Process) -> bool:
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            return False
        try:
            return os.getsid(process.pid) == self.pid
        except OSError:
            return False


class StorageEmulator(Server):
    """The Cloud Storage emulator of this package, objects in memory.

    :param python: the interpreter that runs it; None: the one of this process.
    """

    def __init__(self, log_dir: Path, *, python: Path | None = None) -> None:
        port = free_port()
        program = [str(python or sys.executable), "-m", "airflow_provider_dicom.emulator.storage"]
        super().__init__(
            "Cloud Storage emulator",
            [*program, "--host", LOOPBACK, "--port", str(port)],
            port=port,
            health_path="/",
            log_dir=log_dir,
        )

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        with loopback_session() as session:
            session.post(f"{self.url}/storage/v1/b", json={"name": name}, timeout=30).raise_for_status()

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the sizes of a bucket's objects, by name."""
        return {item["name"]: int(item["size"]) for item in self._listed(bucket, prefix)}

    def generations(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """Return the generations of a bucket's objects, by name; a replaced object has a new one."""
        return {item["name"]: item["generation"] for item in self._listed(bucket, prefix)}

    def delete(self, bucket: str, name: str) -> None:
        """Delete an object."""
        address = f"{self.url}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        with loopback_session() as session:
            session.delete(address, timeout=60).raise_for_status()

    def _listed(self, bucket: str, prefix: str) -> list[dict[str, str]]:
        items: list[dict[str, str]] = []
        page: dict[str, Any] = {"nextPageToken": ""}
        with loopback_session() as session:
            while (token := page.get("nextPageToken")) is not None:
                wanted = {"prefix": prefix, "pageToken": token}
                answer = session.get(f"{self.url}/storage/v1/b/{bucket}/o", params=wanted, timeout=60)
                answer.raise_for_status()
                page = answer.json()
                items += page.get("items", [])
        return items

    def write(self, bucket: str, name: str, content: bytes) -> None:
        """Create or replace an object."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(
            project="test-project",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.url},
        )
        with contextlib.closing(client):
            client.bucket(bucket).blob(name).upload_from_string(content)

    def read(self, bucket: str, name: str) -> bytes:
        """Return an object's content."""
        address = f"{self.url}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        with loopback_session() as session:
            answer = session.get(address, params={"alt": "media"}, timeout=60)
        answer.raise_for_status()
        return answer.content


class HealthcareEmulator(Server):
    """The local Healthcare API of this package.

    :param data: folder that keeps the state; without it the state ends with the process.
    :param env: where it finds its destinations (``STORAGE_EMULATOR_HOST``, ``BIGQUERY_EMULATOR_HOST``).
    :param port: the same port again, for a restart.
    :param python: the interpreter that runs it; None: the one of this process.
    """

    def __init__(
        self,
        log_dir: Path,
        *,
        data: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        port: int | None = None,
        python: Path | None = None,
    ) -> None:
        port = port or free_port()
        options = ["--host", LOOPBACK, "--port", str(port)]
        if data is not None:
            options += ["--data", str(data)]
        super().__init__(
            "Healthcare API",
            [str(python or sys.executable), "-m", "airflow_provider_dicom.emulator", *options],
            port=port,
            health_path="/healthz",
            log_dir=log_dir,
            env=env,
        )


class BigQueryEmulator(Server):
    """BigQuery (PyPI ``bqemulator``) from ``.venv-bigquery``, or the program that ``$BQEMULATOR`` names."""

    def __init__(self, log_dir: Path) -> None:
        port = free_port()
        program = Path(os.environ.get("BQEMULATOR", ROOT / ".venv-bigquery" / "bin" / "bqemulator"))
        ports = ["--rest-port", str(port), "--grpc-port", str(free_port())]
        super().__init__(
            "BigQuery emulator",
            [str(program), "start", *ports, "--log-level", "warning"],
            port=port,
            health_path="/readyz",
            log_dir=log_dir,
            # The installation has put DuckDB's spatial extension there; elsewhere DuckDB would download it.
            env={"HOME": str(program.parent.parent)},
        )

    def create_dataset(self, project: str, dataset: str) -> None:
        """Create a dataset."""
        body = {"datasetReference": {"projectId": project, "datasetId": dataset}}
        self._post(f"projects/{project}/datasets", body)

    def create_table(self, project: str, dataset: str, table: str, columns: Mapping[str, str]) -> None:
        """Create a table.

        :param columns: the columns' types by their names.
        """
        body = {
            "tableReference": {"projectId": project, "datasetId": dataset, "tableId": table},
            "schema": {"fields": [{"name": name, "type": kind} for name, kind in columns.items()]},
        }
        self._post(f"projects/{project}/datasets/{dataset}/tables", body)

    def query(self, project: str, sql: str) -> list[list[Any]]:
        """Return the rows of a query.

        :raises ValueError: the query is invalid.
        """
        answer = self._post(f"projects/{project}/queries", {"query": sql, "useLegacySql": False})
        # The response to an invalid query has errors and the status 200.
        if errors := answer.get("errors"):
            raise ValueError(f"{sql}: {errors}")
        return [[cell["v"] for cell in row["f"]] for row in answer.get("rows", [])]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with loopback_session() as session:
            response = session.post(f"{self.url}/bigquery/v2/{path}", json=body, timeout=60)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def stop_all(servers: Sequence[Server], grace: float = 10.0) -> None:
    """End several servers side by side; SIGTERM goes to the last one first."""
    for server in reversed(servers):
        server.terminate()
    for server in reversed(servers):
        server.reap(grace)


def wait_for(condition: str, check: Any, *, timeout: float, pause: float = 0.2) -> Any:
    """Call ``check`` until it returns a true value, and return that value.

    :param condition: description of the condition, for the message.
    :raises TimeoutError: ``check`` returned no true value within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {timeout:.0f} s in vain for: {condition}")
        time.sleep(pause)
    return result


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP, so that no child starts without being known to its owner."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda caught, _: received.append(caught)) for number in held}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for caught in received:
            signal.raise_signal(caught)
