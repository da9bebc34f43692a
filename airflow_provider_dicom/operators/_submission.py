"""Submitting an export once: what is remembered from try to try, and what a later try makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TypedDict, cast

import tenacity

from airflow_provider_dicom.api.retry import WaitAsAsked
from airflow_provider_dicom.exceptions import (
    DicomExportDuplicateRiskError,
    DicomExportError,
    DicomExportNotFoundError,
    DicomExportSubmissionUnknownError,
)
from airflow_provider_dicom.longrunning.outcome import counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.log import Log
    from airflow_provider_dicom.longrunning.outcome import Operation

#: Later tries find the submission under this key: it must never be renamed.
STATE_KEY = "dicom_export"
#: The API keeps Operations for about as long.
RETENTION = timedelta(days=30)
#: By how much the clocks of a worker and of the API may differ.
CLOCK_SKEW = timedelta(minutes=5)

_EXPORT_METHOD = "ExportDicomData"


class Submission(TypedDict):
    """What is remembered of a submission; without an Operation's name it is only an intent."""

    dicom_store: str
    request: dict[str, object]
    filter_digest: str | None
    submitted_at: str
    operation_name: str | None


class TaskStateStore(Protocol):
    """The part of Airflow's ``task_state_store`` (3.3+) that is used here."""

    def get(self, key: str, default: object = None) -> object:
        """Read a value."""

    def set(self, key: str, value: object, *, retention: timedelta | None = None) -> None:
        """Write a value."""

    def delete(self, key: str) -> None:
        """Remove a value."""


@dataclass(frozen=True)
class Attachment:
    """
    An Operation that the task follows.

    :param operation: the Operation as it was seen last.
    :param reattached: an earlier try submitted it.
    """

    operation: Operation
    reattached: bool


class Submitter:
    """
    Submits one export, unless an earlier try of the task did.

    :param hook: the hook.
    :param store: the DICOM store.
    :param request: what to export to where.
    :param context: the task's context.
    :param log: where to say what happens.
    :param filter_digest: tells filter files apart that hold other paths.
    :param prepare: has to be called before a submission.
    :param judge: raises a ``DicomExportError`` if a finished Operation is not good enough.
    :param durable: remember submissions, where Airflow can.
    """

    def __init__(
        self,
        *,
        hook: DicomStoreHook,
        store: DicomStoreName,
        request: ExportRequest,
        context: Context,
        log: Log,
        filter_digest: str | None,
        prepare: Callable[[], None],
        judge: Callable[[Operation], object],
        durable: bool,
    ) -> None:
        self._hook = hook
        self._store = store
        self._request = request
        self._log = log
        self._prepare = prepare
        self._judge = judge
        self._memory = cast("TaskStateStore | None", context.get("task_state_store")) if durable else None
        self._durable = durable
        self._context = context
        self._filter_digest = filter_digest

    def attach(self) -> Attachment:
        """
        Find the Operation of an earlier try, or submit the export.

        :raises DicomExportDuplicateRiskError: if submitting could write the same rows twice.
        :raises DicomExportError: if the export cannot be submitted, or the earlier one not be looked at.
        """
        earlier = self._recall()
        if earlier is not None:
            operation = self._still_good(earlier)
            if operation is not None:
                return Attachment(operation, reattached=True)
        elif not self._request.harmless_to_repeat and self._is_blind_retry():
            self._refuse_to_append(
                "This is a retry, and this version of Airflow does not tell what the earlier try submitted"
            )
        return Attachment(self.submit(), reattached=False)

    def submit(self) -> Operation:
        """
        Submit the export, and remember it.

        :raises DicomExportDuplicateRiskError: if the reply was lost, and a repeat could write rows twice.
        :raises DicomExportError: if the export cannot be submitted.
        """
        self._prepare()
        intent: Submission = {
            "dicom_store": str(self._store),
            "request": dict(self._request.body()),
            "filter_digest": self._filter_digest,
            "submitted_at": datetime.now(UTC).isoformat(),
            "operation_name": None,
        }
        self._remember(intent)
        # A superseded attempt can write to the store, but not read from it.
        if self._memory is not None and self._recall() != intent:
            raise DicomExportError("Another attempt of this task has taken over; nothing was submitted.")
        operation = self._send()
        name = operation["name"]
        self._log.info(
            "Submitted the export of %s to %s. Operation: %s", self._store, self._request.destination, name
        )
        try:
            self._remember({**intent, "operation_name": name})
        except Exception as error:  # whatever Airflow raises: the name must not be lost with it
            self._log.warning(
                "Airflow did not store the operation's name, so a retry could not find %s: %s", name, error
            )
        return operation

    def _send(self) -> Operation:
        def may_repeat(error: BaseException) -> bool:
            return isinstance(error, DicomExportSubmissionUnknownError) and self._request.harmless_to_repeat

        def tell(retry_state: tenacity.RetryCallState) -> None:
            error = retry_state.outcome.exception() if retry_state.outcome else None
            self._log.warning("%s. Submitting it again, which is harmless: it writes the same data.", error)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_repeat),
            stop=tenacity.stop_after_attempt(self._hook.num_retries + 1),
            wait=WaitAsAsked(),
            before_sleep=tell,
            reraise=True,
        )
        try:
            return retrying(self._hook.export, self._store, self._request)
        except DicomExportSubmissionUnknownError as error:
            self._refuse_to_append(str(error))
            raise
        except DicomExportError:
            # Certainly not accepted: a later try must not take the intent for an export.
            if self._memory is not None:
                self._memory.delete(STATE_KEY)
            raise

    def _still_good(self, earlier: Submission) -> Operation | None:
        """Look at what an earlier try submitted; None if it has to be submitted again."""
        name = earlier["operation_name"]
        if not self._is_same(earlier):
            self._log.warning("The request has changed since an earlier try, which submitted %s.", name)
            self._abandon(name)
            return None
        if name is None:
            self._refuse_to_append(
                f"An earlier try began to submit this export at {earlier['submitted_at']} and ended before "
                f"it could note the operation{self._operations_since(earlier['submitted_at'])}"
            )
            self._log.warning("An earlier try may have submitted this export; doing it again is harmless.")
            return None
        try:
            operation = self._hook.get_operation(name)
        except DicomExportNotFoundError as error:
            self._refuse_to_append(f"The operation of an earlier try is gone: {error}")
            self._log.warning("The operation of an earlier try is gone, submitting afresh: %s", error)
            return None
        if operation.get("done"):
            try:
                self._judge(operation)
            except DicomExportError as error:
                self._refuse_to_append(f"An earlier try ended badly: {error}")
                self._log.info("An earlier try ended badly, submitting afresh: %s", error)
                return None
        self._log.info("Re-attached to %s of an earlier try: %s.", name, counters(operation))
        return operation

    def _is_blind_retry(self) -> bool:
        return self._durable and self._memory is None and self._context["ti"].try_number > 1

    def _is_same(self, earlier: Submission) -> bool:
        return (
            earlier["dicom_store"] == str(self._store)
            and earlier["request"] == dict(self._request.body())
            and earlier.get("filter_digest") == self._filter_digest
        )

    def _abandon(self, name: str | None) -> None:
        if name is None:
            return
        try:
            if not self._hook.get_operation(name).get("done"):
                self._hook.cancel_operation(name)
                self._log.info("Asked the API to cancel %s.", name)
        except DicomExportError as error:
            self._log.warning("%s could not be cancelled and may go on: %s", name, error)

    def _operations_since(self, submitted_at: str) -> str:
        since = datetime.fromisoformat(submitted_at) - CLOCK_SKEW
        try:
            names = [
                operation["name"]
                for operation in self._hook.list_operations(self._store.dataset)
                if _is_export_since(operation, since)
            ]
        except DicomExportError:
            return ""
        return f" (exports of the dataset since then: {', '.join(names) or 'none'})"

    def _refuse_to_append(self, reason: str) -> None:
        if self._request.harmless_to_repeat:
            return
        dataset = self._store.dataset
        raise DicomExportDuplicateRiskError(
            f"{reason.rstrip('.')}. It was not submitted again, because {self._request.write_disposition} "
            f"could then write rows to {self._request.destination} twice. Check the dataset's operations "
            f"(gcloud healthcare operations list --dataset={dataset.dataset_id} "
            f"--location={dataset.location} --project={dataset.project_id}) and the table; remove what an "
            "earlier export wrote; then run the task with durable=False, or in a new run."
        )

    def _recall(self) -> Submission | None:
        return None if self._memory is None else cast("Submission | None", self._memory.get(STATE_KEY))

    def _remember(self, submission: Submission) -> None:
        if self._memory is not None:
            self._memory.set(STATE_KEY, submission, retention=RETENTION)


def _is_export_since(operation: Operation, since: datetime) -> bool:
    metadata = operation.get("metadata", {})
    created = metadata.get("createTime")
    return (
        metadata.get("apiMethodName", _EXPORT_METHOD).endswith(_EXPORT_METHOD)
        and created is not None
        and datetime.fromisoformat(created) >= since
    )
