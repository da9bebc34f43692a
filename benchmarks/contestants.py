"""The contestants: for each one its trigger, and the event that the trigger has to yield."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.server import DATASET, PROJECT, fails, operation_name

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

#: Operations of earlier days in a dataset whose operations may be listed.
OLDER_OPERATIONS = 1000

# Triggers are imported where they are created, so that a process loads its own contestant only.
TriggerFactory = Callable[["Job"], "BaseTrigger"]


@dataclass(frozen=True)
class Job:
    """
    One operation that a trigger has to follow.

    :param number: the operation's number.
    :param end: when it ends, in the clock of ``time.monotonic``.
    :param interval: seconds between polls.
    :param url: the server.
    """

    number: int
    end: float
    interval: int
    url: str


@dataclass(frozen=True)
class Contestant:
    """
    A kind of trigger, and how it is run.

    :param key: its name on the command line and in the results.
    :param label: its name for people.
    :param ours: it is a variant of this provider's trigger.
    :param make: makes the trigger that follows a job.
    :param outcome: reads which operation an event is about, and whether it says that it failed.
    :param may_list: whether the server permits ``operations.list``.
    :param redirect: sends an endpoint that cannot be configured to the local server.
    """

    key: str
    label: str
    make: TriggerFactory
    outcome: Callable[[Any], tuple[str, bool]]
    ours: bool = False
    may_list: bool = True
    redirect: Callable[[str], None] | None = None

    def mistake(self, job: Job, payload: object) -> str | None:
        """
        Say what is wrong with an event, or return None.

        :param job: what the trigger had to follow.
        :param payload: the event's payload.
        """
        try:
            about, failed = self.outcome(payload)
        except (KeyError, TypeError, ValueError) as error:
            return f"operation {job.number}: unreadable event {payload!r} ({error!r})"
        if about != str(job.number) or failed != fails(job.number):
            return f"operation {job.number}: wrong event {payload!r}"
        return None


def _ours(job: Job, dataset: str) -> BaseTrigger:
    from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger

    name = operation_name(job.number, dataset)
    return DicomStoreExportTrigger(name, api_endpoint=job.url, poll_interval=float(job.interval))


def _our_outcome(payload: Any) -> tuple[str, bool]:
    operation = payload["operation"]
    if not operation["done"] or ("error" in operation) != (payload["status"] == "error"):
        raise ValueError("status and operation disagree")
    if payload["status"] not in ("success", "error"):
        raise ValueError("no such outcome was planned")
    return operation["name"].rsplit("/", 1)[1], payload["status"] == "error"


def _databricks(job: Job) -> BaseTrigger:
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    trigger: BaseTrigger = DatabricksExecutionTrigger(
        job.number, "databricks_default", polling_period_seconds=job.interval
    )
    return trigger


def _databricks_outcome(payload: Any) -> tuple[str, bool]:
    result = json.loads(payload["run_state"])["result_state"]
    return str(payload["run_id"]), {"FAILED": True, "SUCCESS": False}[result]


def _bigquery(job: Job) -> BaseTrigger:
    from airflow.providers.google.cloud.triggers.bigquery import BigQueryInsertJobTrigger

    return BigQueryInsertJobTrigger(
        "google_cloud_default", str(job.number), PROJECT, "US", poll_interval=job.interval
    )


def _bigquery_outcome(payload: Any) -> tuple[str, bool]:
    if payload["status"] == "error":
        # The event of a failed job does not name the job; the planned message does.
        return _planned_error(payload["message"]), True
    return payload["job_id"], {"success": False}[payload["status"]]


def _cloud_sql(job: Job) -> BaseTrigger:
    from airflow.providers.google.cloud.triggers.cloud_sql import CloudSQLExportTrigger

    return CloudSQLExportTrigger(str(job.number), PROJECT, poke_interval=job.interval)


def _cloud_sql_outcome(payload: Any) -> tuple[str, bool]:
    return payload["operation_name"], {"error": True, "success": False}[payload["status"]]


def _redirect_cloud_sql(url: str) -> None:
    from airflow.providers.google.cloud.hooks.cloud_sql import CloudSQLAsyncHook

    # The same call to another host: the client has no setting for it.
    async def get_operation_name(self: Any, project_id: str, operation_name: str, session: Any) -> Any:
        address = f"{url}/sql/v1beta4/projects/{project_id}/operations/{operation_name}"
        return await self._get_conn(url=address, session=session)

    setattr(CloudSQLAsyncHook, "get_operation_name", get_operation_name)  # noqa: B010 - a method


def _planned_error(message: str) -> str:
    prefix, _, number = message.rpartition(" ")
    if prefix != "planned error of":
        raise ValueError("no such error was planned")
    return number


def _sleeping(job: Job) -> BaseTrigger:
    from benchmarks.sleeping import SleepingTrigger

    return SleepingTrigger(job.number, job.end, job.interval, fails(job.number))


CONTESTANTS = (
    Contestant("one_dataset", "DICOM, one dataset", lambda job: _ours(job, DATASET), _our_outcome, ours=True),
    Contestant(
        "own_datasets",
        "DICOM, a dataset each",
        lambda job: _ours(job, str(job.number)),
        _our_outcome,
        ours=True,
    ),
    Contestant(
        "list_forbidden",
        "DICOM, list forbidden",
        lambda job: _ours(job, DATASET),
        _our_outcome,
        ours=True,
        may_list=False,
    ),
    Contestant("databricks", "Databricks", _databricks, _databricks_outcome),
    Contestant("bigquery", "BigQuery insert job", _bigquery, _bigquery_outcome),
    Contestant("cloud_sql", "Cloud SQL export", _cloud_sql, _cloud_sql_outcome, redirect=_redirect_cloud_sql),
    Contestant("sleeping", "Only sleeping", _sleeping, lambda event: (event["number"], event["failed"])),
)
BY_KEY = {contestant.key: contestant for contestant in CONTESTANTS}
#: The floor: the lowest possible cost of a trigger.
FLOOR = "sleeping"
PEERS = ("databricks", "bigquery", "cloud_sql")
