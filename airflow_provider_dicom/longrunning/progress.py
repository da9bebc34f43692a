"""
Progress records: the XCom that the tab "DICOM export" shows while an export runs.

When the record of a running export is written: ``record_schedule.py``; how a trigger writes it:
``record_writer.py``. A record that cannot be written fails nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from airflow_provider_dicom.api_types import is_cancelled
from airflow_provider_dicom.longrunning.outcome import counters
from airflow_provider_dicom.results import PROGRESS_KEY, DicomExportCause

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Counters, Operation
    from airflow_provider_dicom.compat import Log, TaskInstance
    from airflow_provider_dicom.results import DicomExportFailures

#: The longest error message in a record, in characters.
MESSAGE_LENGTH = 2000

NOT_STORED = "The progress could not be stored for the web interface: %s"

State = Literal["RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED"]


class Progress(TypedDict):
    """
    One progress record; ``observed_at`` is this machine's time, the other times are the API's.

    ``causes`` are those of ``known`` failed instances; both are there after the end, if they were read.
    """

    operation_name: str
    state: State
    success: int
    failure: int
    pending: int
    create_time: str | None
    end_time: str | None
    observed_at: str
    message: str | None
    known: NotRequired[int]
    causes: NotRequired[list[DicomExportCause]]
    more_causes: NotRequired[int]


def progress_of(operation: Operation, *, is_accepted: bool | None = None) -> Progress:
    """
    Build the progress record of an Operation.

    :param operation: the Operation as the API returned it.
    :param is_accepted: the outcome of a finished Operation: the task returns its result; None if the task has
        not decided yet, so that an error of the Operation counts as a failure.
    :raises DicomExportUnavailableError: if the Operation's counters are not readable.
    """
    count = counters(operation)
    metadata = operation.get("metadata", {})
    message = operation.get("error", {}).get("message")
    return {
        "operation_name": operation["name"],
        "state": _state(operation, count, is_accepted=is_accepted),
        "success": count.success,
        "failure": count.failure,
        "pending": count.pending,
        "create_time": metadata.get("createTime"),
        "end_time": metadata.get("endTime"),
        "observed_at": datetime.now(UTC).isoformat(),
        "message": message[:MESSAGE_LENGTH] if message else None,
    }


def _state(operation: Operation, count: Counters, *, is_accepted: bool | None) -> State:
    if not operation.get("done"):
        return "RUNNING"
    if is_cancelled(operation):
        return "CANCELLED"
    if is_accepted is None:
        is_accepted = "error" not in operation
    if not is_accepted:
        return "FAILED"
    return "PARTIAL" if count.failure else "SUCCEEDED"


def write_from_worker(
    task_instance: TaskInstance,
    operation: Operation,
    *,
    is_accepted: bool | None = None,
    failures: DicomExportFailures | None = None,
    log: Log,
) -> None:
    """
    Write a progress record from the task itself; never raises.

    :param task_instance: the task instance.
    :param operation: the Operation as the API returned it.
    :param is_accepted: the outcome of a finished Operation: the task returns its result; None if the task has
        not decided yet, so that an error of the Operation counts as a failure.
    :param failures: the instances that failed, if they were read.
    :param log: the log for a record that cannot be written.
    """
    try:
        progress = progress_of(operation, is_accepted=is_accepted)
        if failures is not None:
            progress["known"] = failures["known"]
            progress["causes"] = failures["causes"]
            progress["more_causes"] = failures["more_causes"]
        task_instance.xcom_push(key=PROGRESS_KEY, value=progress)
    except (
        Exception
    ) as error:  # Airflow may raise anything here, and the export's outcome must not depend on it
        log.warning(NOT_STORED, error)
