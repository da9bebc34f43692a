"""One real Airflow: ``airflow standalone`` (scheduler, triggerer, DAG processor, API server) on loopback."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

import requests

from rig.ports import LOOPBACK, free_port
from rig.servers import ROOT, Server, loopback_session, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Json = dict[str, Any]
FINISHED = ("success", "failed")
STATES = ("running", "deferred", "up_for_retry", "up_for_reschedule", "skipped", *FINISHED)
PASSWORDS = "passwords.json"
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")

# This program takes the place of `airflow` on the PATH of `airflow standalone`, for two reasons. The log
# servers of scheduler and triggerer listen on all interfaces, and `airflow standalone` has no option that
# leaves them out; on one machine, Airflow reads logs from disk. And `airflow standalone` always uses the
# simple auth manager, which has no rights to single DAGs.
_AIRFLOW_ON_PATH = """#!/bin/sh
case "$1" in
scheduler | triggerer) set -- "$@" --skip-serve-logs ;;
api-server) [ -z "$RIG_AUTH_MANAGER" ] || export AIRFLOW__CORE__AUTH_MANAGER="$RIG_AUTH_MANAGER" ;;
esac
exec {airflow} "$@"
"""


class TaskInstance(TypedDict):
    """The fields of a task instance in the REST API that demo and tests use."""

    task_id: str
    map_index: int
    rendered_map_index: str | None
    state: str | None
    try_number: int
    pid: int | None
    queued_when: str | None
    start_date: str | None
    end_date: str | None
    triggerer_job: dict[str, Any] | None


class AirflowStandalone(Server):
    """Airflow on SQLite, with LocalExecutor, an anonymous Google Cloud connection, and a REST client.

    :param home: folder for configuration, database and logs.
    :param dags_folder: folder of the DAG files.
    :param env: variables on top of this process's environment, for example the emulators' hosts.
    :param project_id: default project of the Google Cloud connection.
    :param users: roles by user name, if users have to log in; the password of a user is the user's name. The
        REST client logs in as the first user.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        env: Mapping[str, str | None] | None = None,
        *,
        project_id: str = "test-project",
        users: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.home = home
        self._bin = home / "bin"
        self._client: RestClient | None = None
        self._users = dict(users or {})
        super().__init__(
            "Airflow",
            [sys.executable, "-m", "airflow", "standalone"],
            port=port,
            health_path="/api/v2/monitor/health",
            log_dir=home,
            env=common_settings(home, dags_folder, port, project_id)
            | {
                "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
                "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
                "AIRFLOW__CORE__PARALLELISM": "4",
            }
            | (login_settings(home, users) if users else {})
            | dict(env or {}),
            start_timeout=300.0,
        )

    def launch(self) -> None:
        """Start Airflow without waiting for it."""
        self._bin.mkdir(parents=True, exist_ok=True)
        on_path = self._bin / "airflow"
        on_path.write_text(_AIRFLOW_ON_PATH.format(airflow=shlex.join([sys.executable, "-m", "airflow"])))
        on_path.chmod(0o755)
        (self.home / PASSWORDS).write_text(json.dumps({name: name for name in self._users}))
        super().launch()

    @property
    def rest(self) -> RestClient:
        """A client of the REST API; the server has to be healthy."""
        if self._client is None:
            self._client = RestClient(self.url, next(iter(self._users), None))
        return self._client

    def _healthy(self, session: requests.Session) -> bool:
        try:
            health: Json = session.get(self.url + self._health_path, timeout=5).json()
        except requests.RequestException:
            return False
        return all(health.get(component, {}).get("status") == "healthy" for component in COMPONENTS)


class RestClient:
    """The parts of Airflow's REST API that the demo and the tests use.

    :param url: address of the API server.
    :param user: the user who logs in, with the name as password; None if Airflow asks for no login.
    """

    version = "v2"

    def __init__(self, url: str, user: str | None = None) -> None:
        self._url = url
        self._session = loopback_session()
        login = {"username": user, "password": user} if user else None
        answer = self._session.request("POST" if user else "GET", f"{url}/auth/token", json=login, timeout=30)
        token = answer.json()["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, **params: Any) -> Json:
        """Return the response to ``GET /api/{version}/{path}``.

        :raises requests.HTTPError: the response is an error.
        """
        return self.call("GET", path, params=params)

    def call(self, method: str, path: str, **kwargs: Any) -> Json:
        """Return the response to a request to ``/api/{version}/{path}``.

        :raises requests.HTTPError: the response is an error; the message contains Airflow's message.
        """
        response = self._session.request(
            method, f"{self._url}/api/{self.version}/{path}", timeout=60, **kwargs
        )
        if not response.ok:
            raise requests.HTTPError(
                f"{method} {path}: {response.status_code} {response.text}", response=response
            )
        answer: Json = response.json() if response.content else {}
        return answer

    def wait_for_dag(self, dag_id: str, timeout: float = 90) -> None:
        """Wait until the DAG processor has read a DAG.

        :raises TimeoutError: the DAG is still unknown; the message contains the import errors.
        """
        try:
            wait_for(f"DAG {dag_id}", lambda: dag_id in self.dag_ids(), timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(
                f"{error}. Import errors: {json.dumps(self.import_errors(), indent=1)}"
            ) from None

    def dag_ids(self) -> list[str]:
        """Return the ids of the DAGs that can be triggered."""
        return [dag["dag_id"] for dag in self.get("dags", limit=100)["dags"]]

    def import_errors(self) -> dict[str, str]:
        """Return the import errors of DAG files, by file."""
        errors = self.get("importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def trigger(
        self,
        dag_id: str,
        conf: Json | None = None,
        *,
        logical_date: str | None = None,
        run_id: str | None = None,
        partition_key: str | None = None,
    ) -> str:
        """Trigger a DAG and return the run's id.

        :param logical_date: the logical date, which ``{{ ds }}`` renders, as an RFC 3339 time.
        :param run_id: the id of the run; None lets Airflow choose one.
        :param partition_key: the partition of the run.
        """
        self.wait_for_dag(dag_id)
        body: Json = {"conf": conf or {}, "logical_date": logical_date, "dag_run_id": run_id}
        if partition_key is not None:  # Airflow 3.3 only
            body["partition_key"] = partition_key
        return str(self.call("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a DAG run."""
        return str(self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def run_ids(self, dag_id: str) -> list[str]:
        """Return the ids of a DAG's runs, the oldest first."""
        runs = self.get(f"dags/{dag_id}/dagRuns", limit=100, order_by="id")["dag_runs"]
        return [run["dag_run_id"] for run in runs]

    def variable(self, name: str) -> str | None:
        """Return the value of an Airflow Variable, or None if there is none."""
        found = self.get("variables", limit=100)["variables"]
        return next((variable["value"] for variable in found if variable["key"] == name), None)

    def create_pool(self, name: str, slots: int, *, include_deferred: bool) -> None:
        """Create a pool."""
        body = {"name": name, "slots": slots, "include_deferred": include_deferred}
        self.call("POST", "pools", json=body)

    def wait(self, dag_id: str, run_id: str, timeout: float = 180) -> str:
        """Wait for the end of a DAG run and return its state."""

        def finished() -> str | None:
            state = self.run_state(dag_id, run_id)
            return state if state in FINISHED else None

        return str(wait_for(f"the end of {dag_id} {run_id}", finished, timeout=timeout, pause=0.5))

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task as a user does."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}"
        self.call("PATCH", path if map_index < 0 else f"{path}/{map_index}", json={"new_state": state})

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a whole run as a user does."""
        self.call("PATCH", _run(dag_id, run_id), json={"state": state})

    def clear(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, *, downstream: bool = False
    ) -> None:
        """Clear a task as a user does.

        :param downstream: also clear the tasks downstream.
        """
        task: Any = task_id if map_index < 0 else [task_id, map_index]
        body = {"dry_run": False, "task_ids": [task], "dag_run_id": run_id, "only_failed": False}
        self.call("POST", f"dags/{dag_id}/clearTaskInstances", json=body | {"include_downstream": downstream})

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        """Return a task instance."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}"
        found: Any = self.get(path if map_index < 0 else f"{path}/{map_index}")
        return found  # type: ignore[no-any-return]

    def tasks(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return all task instances of a run."""
        found: list[TaskInstance] = []
        path, total = f"{_run(dag_id, run_id)}/taskInstances", 1
        while len(found) < total:
            page = self.get(path, limit=100, offset=len(found), order_by="map_index")
            found, total = found + page["task_instances"], page["total_entries"]
        return found

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom value, or None while there is none."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self.get(path, map_index=map_index, deserialize=False, stringify=False)["value"]
        except requests.HTTPError as error:
            if error.response.status_code == requests.codes.not_found:
                return None
            raise

    def history(self, dag_id: str, run_id: str, task_id: str) -> list[tuple[str, datetime]]:
        """Return the states of a task in their order, each with its start time."""
        scope = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
        events = self.get("eventLogs", **scope, order_by="when", limit=100)["event_logs"]
        changes = [(event["event"], event["when"]) for event in events if event["event"] in STATES]
        states = [(state, datetime.fromisoformat(when)) for state, when in changes]
        begun = self.task(dag_id, run_id, task_id)["start_date"]
        if states and begun:
            # Airflow writes the event when the worker reports the start; the task took its slot before that.
            states[0] = (states[0][0], min(states[0][1], datetime.fromisoformat(begun)))
        return states

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return a task instance's extra links, by name."""
        links: dict[str, str | None] = self.get(f"{_run(dag_id, run_id)}/taskInstances/{task_id}/links")[
            "extra_links"
        ]
        return links

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return a task's log, one event per line."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(path, map_index=map_index, full_content=True)["content"]
        lines = [_log_line(event) for event in content]
        return "\n".join(line for line in lines if "::group::" not in line and "::endgroup::" not in line)


def _run(dag_id: str, run_id: str) -> str:
    return f"dags/{dag_id}/dagRuns/{run_id}"


def is_exit_known(
    scheduler_log: Path, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1
) -> bool:
    """Tell whether the scheduler knows that the worker has finished a try of a task.

    If a deferral ends earlier, Airflow takes the task for a killed one. Only the scheduler's log shows it.
    """
    key = (
        f"TaskInstanceKey(dag_id={dag_id!r}, task_id={task_id!r}, run_id={run_id!r}, "
        f"try_number={try_number}, map_index={map_index})"
    )
    line = f"Received executor event with state success for task instance {key}"
    return line in scheduler_log.read_text(errors="replace")


def _log_line(event: Json | str) -> str:
    if isinstance(event, str):
        return event
    parts = [str(event.get(key)) for key in ("timestamp", "level", "event") if event.get(key)]
    lines = [" ".join(parts)]
    errors = event.get("error_detail") or []
    lines += [f"  {error.get('exc_type')}: {error.get('exc_value')}" for error in errors]
    return "\n".join(lines)


def login_settings(home: Path, users: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of an Airflow in which users have to log in."""
    return {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
            f"{name}:{role}" for name, role in users.items()
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / PASSWORDS),
        "RIG_AUTH_MANAGER": "rig.auth_manager.AuthManager",
        "PYTHONPATH": str(ROOT),
    }


def common_settings(home: Path, dags_folder: Path, port: int, project_id: str) -> dict[str, str | None]:
    """Return the settings of every Airflow of the rig: servers on loopback, no settings of the caller."""
    connection = {
        "conn_type": "google_cloud_platform",
        "extra": {"is_anonymous": True, "project": project_id},
    }
    inherited: dict[str, str | None] = {key: None for key in os.environ if key.startswith("AIRFLOW")}
    return inherited | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(connection),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{LOOPBACK}:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        # Tests trigger runs: the scheduler must not start the latest run of a nightly DAG as well.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # Tasks must not end because the machine is busy.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # Measured, Airflow takes a third longer; the tasks' code is covered by other tests.
        "COVERAGE_PROCESS_CONFIG": None,
    }
