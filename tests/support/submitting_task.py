"""A task that submits an export, with the API and Airflow's task state as far as a submission uses them."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.longrunning.outcome import outcome
from airflow_provider_dicom.operators._submission import Submitter
from airflow_provider_dicom.operators._submission_record import SubmissionRecords
from airflow_provider_dicom.operators._submission_types import Submission
from tests.support.recorded_log import RecordedLog
from tests.support.task_runs import TaskStateStore

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators._submission_record import SubmissionRecord
    from airflow_provider_dicom.operators._submission_types import Step

DATASET = DatasetName("p", "l", "d")
STORE = DicomStoreName(DATASET, "s")
#: The key of the record in the task state.
STATE_KEY = "submission"
DUPLICATE_RISK = "rows could be doubled"


class HealthcareApi:
    """The API's Operations, with the methods of a hook that a submission calls."""

    num_retries = 3

    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}
        self.calls: list[str] = []
        #: Errors of the next submissions, each raised once; None accepts the submission.
        self.submission_errors: list[Exception | None] = []
        #: The errors of the other methods, by method.
        self.errors: dict[str, exceptions.DicomExportError] = {}
        self.ends_when_cancelled = True

    def submit(self) -> Operation:
        """Start an Operation, unless the test has planned an error."""
        self.calls.append("submit")
        error = self.submission_errors.pop(0) if self.submission_errors else None
        if error is not None:
            raise error
        return self.add()

    def add(self, **fields: Any) -> Operation:
        """Add an Operation of an export, created now."""
        name = f"{DATASET}/operations/{len(self.operations) + 1}"
        metadata = {
            "createTime": datetime.now(UTC).isoformat(),
            "apiMethodName": "google.cloud.healthcare.v1.DicomService.ExportDicomData",
            "counter": {"success": "4", "pending": "1"},
        }
        operation: Any = {"name": name, "metadata": metadata} | fields
        self.operations[name] = operation
        return self.operations[name]

    @staticmethod
    def fail(operation: Operation) -> None:
        """End an Operation with an error."""
        operation["done"] = True
        operation["error"] = {"code": 13, "message": "broke"}

    def get_operation(self, name: str, *, num_retries: int | None = None) -> Operation:
        """Return an Operation."""
        self.calls.append("get")
        if "get" in self.errors:
            raise self.errors["get"]
        if name not in self.operations:
            raise exceptions.DicomExportNotFoundError(f"{name}: 404.")
        return self.operations[name]

    def list_operations(self, dataset: DatasetName) -> list[Operation]:
        """Return all Operations of the dataset."""
        assert dataset == DATASET
        if "list" in self.errors:
            raise self.errors["list"]
        return list(self.operations.values())

    def cancel_operation(self, name: str) -> None:
        """Note a cancellation down."""
        if "cancel" in self.errors:
            raise self.errors["cancel"]
        self.calls.append(f"cancel {name}")

    def cancel_and_confirm(self, name: str) -> Operation:
        """Cancel an Operation, which ends at once unless the test says otherwise."""
        self.cancel_operation(name)
        if self.ends_when_cancelled:
            self.operations[name]["done"] = True
            self.operations[name]["error"] = {"code": 1, "message": "cancelled"}
        return self.operations[name]


EXPORTS = {
    "gcs": ExportRequest(destination="gs://exports/nightly"),
    "truncate": ExportRequest(destination="bq://p.d.t", write_disposition="WRITE_TRUNCATE"),
    "empty": ExportRequest(destination="bq://p.d.t", write_disposition="WRITE_EMPTY"),
    "append": ExportRequest(destination="bq://p.d.t", write_disposition="WRITE_APPEND"),
}


class SubmittingTask:
    """
    A task that submits an export, with what Airflow keeps of it between its tries.

    :param append: the export adds rows to a table, so that it must not be repeated.
    :param kind: the key of the export in ``EXPORTS``.
    :param has_task_state: Airflow keeps task state.
    """

    def __init__(self, *, append: bool = False, kind: str = "gcs", has_task_state: bool = True) -> None:
        self.api = HealthcareApi()
        self.log = RecordedLog()
        self.state = TaskStateStore()
        #: The names of the Operations that the tries followed.
        self.followed: list[str] = []
        self.context: dict[str, Any] = {"ti": SimpleNamespace(try_number=1)}
        if has_task_state:
            self.context["task_state_store"] = self.state
        export = EXPORTS["append" if append else kind]
        self.submission = Submission(
            request=methods.export(STORE, export),
            send=self.api.submit,
            state_key=STATE_KEY,
            api_method="ExportDicomData",
            duplicate_risk=DUPLICATE_RISK if export.duplicate_risk else None,
            overwrites=export.overwrites,
            filter_digest="digest-1",
            prepare=lambda: self.api.calls.append("prepare"),
        )

    def attempt(self, *, durable: bool = True) -> Any:
        """Run one try; return what it came to, a :data:`Step`."""
        submitter = Submitter(
            self.submission,
            hook=cast("DicomStoreHook", self.api),
            context=cast("Context", self.context),
            log=self.log,
            judge=outcome,
            durable=durable,
            follow=self.followed.append,
        )
        try:
            step: Step = submitter.attach()
            return step
        finally:
            self.unknown = submitter.unknown
            self.context["ti"].try_number += 1

    @property
    def record(self) -> SubmissionRecord | None:
        """The record of the submission in the task state."""
        return (self.records.read() or {}).get(self.submission.record_key)

    @property
    def records(self) -> SubmissionRecords:
        """All records in the task state."""
        return SubmissionRecords(self.state, STATE_KEY)

    def change_record(self, **changes: Any) -> None:
        """Change the record of the submission in the task state."""
        records: Any = self.records.read()
        records[self.submission.record_key] |= changes
        self.state.set(STATE_KEY, records)

    def forget_operation_name(self) -> None:
        """Leave only the intent, as if the try had died while it waited for the API's reply."""
        self.change_record(operation_name=None, state="intent")

    def deliver(self, operation_name: str, result: Any = None) -> None:
        """End the task with a result."""
        self.records.deliver(operation_name, cast("Any", result or {"operation_name": operation_name}))

    @property
    def submissions(self) -> int:
        """The number of requests that were sent to submit the export."""
        return self.api.calls.count("submit")
