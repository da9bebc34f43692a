"""Airflow 2 in the rig: its REST API, its settings, and its user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rig.airflow import RestClient
from rig.ports import LOOPBACK
from rig.servers import loopback_session

if TYPE_CHECKING:
    from rig.airflow import Json, TaskInstance

USER = "admin"
PASSWORD = "admin"
NEW_USER = [
    *("users", "create", "--role", "Admin", "--username", USER, "--password", PASSWORD),
    *("--firstname", "A", "--lastname", "Admin", "--email", "admin@example.org"),
]

# The program clears a task like the web interface. The REST API of 2.11 reports a running task as cleared
# and leaves it running; and that API has no map indexes.
CLEAR = """
import sys
from airflow.models.dagbag import DagBag
from airflow.models.dagrun import DagRun

dag_id, run_id, task_id, map_index = sys.argv[1:]
(run,) = DagRun.find(dag_id=dag_id, run_id=run_id)
dag = DagBag(read_dags_from_db=True).get_dag(dag_id).partial_subset(
    task_ids_or_regex=[task_id], include_downstream=False, include_upstream=False
)
chosen = task_id if int(map_index) < 0 else (task_id, int(map_index))
cleared = dag.clear(task_ids=[chosen], start_date=run.execution_date, end_date=run.execution_date)
if cleared != 1:
    sys.exit(f"{cleared} task instances were cleared")
"""


class RestClientV1(RestClient):
    """Version 1 of the REST API, with the methods of version 2.

    :param url: address of the web server.
    """

    version = "v1"

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = loopback_session()
        self._session.auth = (USER, PASSWORD)
        self._session.headers["Accept"] = "application/json"

    def trigger(
        self,
        dag_id: str,
        conf: Json | None = None,
        *,
        logical_date: str | None = None,
        run_id: str | None = None,
        partition_key: str | None = None,
    ) -> str:
        """Trigger a DAG and return the run's id; Airflow 2 has no partitions."""
        self.wait_for_dag(dag_id)
        body = {"conf": conf or {}, "logical_date": logical_date, "dag_run_id": run_id}
        given = {key: value for key, value in body.items() if value is not None}
        return str(self.call("POST", f"dags/{dag_id}/dagRuns", json=given)["dag_run_id"])

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return a task instance's extra links, by name."""
        links: dict[str, str | None] = self.get(
            f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        )
        return links

    def tasks(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the task instances of a run, at most 100."""
        found: list[TaskInstance] = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
            "task_instances"
        ]
        return found

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task as a user does."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        body = {"new_state": state, "dry_run": False}
        self.call("PATCH", path if map_index < 0 else f"{path}/{map_index}", json=body)

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return a task's log."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        return str(self.get(path, map_index=map_index, full_content=True)["content"]).replace("\\n", "\n")


def settings(port: int, task_threshold: int) -> dict[str, str]:
    """Return the settings that have other names in Airflow 2.

    :param port: port of the web server.
    :param task_threshold: seconds without a heartbeat after which Airflow fails a task.
    """
    return {
        "AIRFLOW__API__AUTH_BACKENDS": "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth",
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": LOOPBACK,
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(port),
        "AIRFLOW__WEBSERVER__WORKERS": "1",
        "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": str(task_threshold),
        "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "5",
    }
