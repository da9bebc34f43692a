"""
Submission of a long-running operation at most once, across the tries of a task.

Airflow 3.3 keeps task state: values that outlive a try. A submission is recorded there under a key of its
method. Invariants:

1. The record is written before the request is sent, without the Operation's name (an intent), and again with
   the name as soon as the API has answered.
2. A request that the API certainly did not accept removes its intent. An intent that is left means that the
   submission may have been accepted.
3. A later try with a record re-attaches to the recorded Operation: running, or finished with an accepted
   outcome. It submits again only if the request has changed, or if the earlier submission is lost, gone or
   failed and the submission is repeatable: a second one leaves the same data as the first one alone.
4. A submission that is not repeatable (``WRITE_APPEND``) is never sent while it is uncertain whether an
   earlier one wrote rows; that is refused with ``DicomExportDuplicateRiskError``. Without task state (Airflow
   below 3.3), every retry is uncertain.
5. An attempt that was superseded by another one cannot read its own intent back; it submits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict, cast

import tenacity

from airflow_provider_dicom.api.retry import Backoff
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

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

#: The API keeps Operations for about as long after their end.
RETENTION = timedelta(days=30)
#: The largest difference between the clocks of a worker and of the API.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """
    The submission of a long-running operation, ready to be sent.

    :param request: the request; later tries compare it with theirs.
    :param send: sends the request, and returns the Operation.
    :param state_key: the key of the record in the task state. Running deployments have stored it: it must
        never be renamed.
    :param api_method: the suffix of the Operation's ``apiMethodName``.
    :param duplicate_risk: the damage that a second submission could do, to follow "because"; None if a second
        submission leaves the same data as the first one alone.
    :param filter_digest: a digest of the filter file's content; None without a filter file.
    :param prepare: has to be called before the request is sent.
    """

    request: ApiRequest
    send: Callable[[], Operation]
    state_key: str
    api_method: str
    duplicate_risk: str | None
    filter_digest: str | None = None
    prepare: Callable[[], None] = lambda: None

    @property
    def repeatable(self) -> bool:
        """Whether a second submission leaves the same data as the first one alone."""
        return self.duplicate_risk is None


class SubmissionRecord(TypedDict):
    """The record of a submission in the task state; without an Operation's name it is only an intent."""

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
        """Delete a value."""


@dataclass(frozen=True)
class SubmittedOperation:
    """
    The Operation that the task waits for.

    :param operation: the Operation as the API returned it last.
    :param reattached: an earlier try submitted the Operation.
    """

    operation: Operation
    reattached: bool


class Verdict(Enum):
    """What a try does about the submissions of earlier tries."""

    SUBMIT = "nothing was submitted: submit"
    LOOK_UP = "an Operation is recorded: read it, then decide"
    REATTACH = "the recorded Operation serves this try"
    REPLACE = "the request has changed: cancel the recorded Operation, then submit"
    UNCERTAIN = "an earlier submission may have written data: submit if repeatable, else refuse"


class Assessment(NamedTuple):
    """A verdict, with the reason for an uncertain one as a sentence without its full stop."""

    verdict: Verdict
    reason: str = ""


def assess_record(
    record: SubmissionRecord | None, expected: SubmissionRecord, *, is_retry_without_task_state: bool
) -> Assessment:
    """
    Decide by the record of an earlier try.

    :param record: the record; None if there is none.
    :param expected: the record that this try would write.
    :param is_retry_without_task_state: Airflow keeps no records, and this is not the task's first try.
    """
    if record is None:
        if is_retry_without_task_state:
            return Assessment(
                Verdict.UNCERTAIN,
                "This is a retry, and this version of Airflow does not record what the earlier try submitted",
            )
        return Assessment(Verdict.SUBMIT)
    if not is_same_request(record, expected):
        return Assessment(Verdict.REPLACE)
    if record["operation_name"] is None:
        return Assessment(
            Verdict.UNCERTAIN,
            f"An earlier try began its submission at {record['submitted_at']} and ended before it could "
            "record the operation",
        )
    return Assessment(Verdict.LOOK_UP)


def assess_operation(operation: Operation | None, error: DicomExportError | None) -> Assessment:
    """
    Decide by the recorded Operation.

    :param operation: the Operation; None if the API does not know it any more.
    :param error: the error of the look-up, or of the finished Operation's outcome.
    """
    if operation is None:
        return Assessment(
            Verdict.UNCERTAIN, f"The operation of an earlier try does not exist any more: {error}"
        )
    if error is not None:
        return Assessment(Verdict.UNCERTAIN, f"The operation of an earlier try failed: {error}")
    return Assessment(Verdict.REATTACH)


def is_same_request(record: SubmissionRecord, expected: SubmissionRecord) -> bool:
    """
    Tell whether two records are about the same request, with the same content of the filter file.

    :param record: the record of an earlier try.
    :param expected: the record that this try would write.
    """
    return (record["dicom_store"], record["request"], record.get("filter_digest")) == (
        expected["dicom_store"],
        expected["request"],
        expected["filter_digest"],
    )


class Submitter:
    """
    Submits a long-running operation, unless an earlier try of the task did.

    :param submission: the submission.
    :param hook: the hook.
    :param context: the task's context.
    :param log: the log.
    :param judge: raises a ``DicomExportError`` if a finished Operation is not accepted as a result.
    :param durable: record submissions, where Airflow keeps task state.
    :param follow: is given the name of an earlier try's Operation before it is looked at.
    """

    def __init__(
        self,
        submission: Submission,
        *,
        hook: DicomStoreHook,
        context: Context,
        log: Log,
        judge: Callable[[Operation], object],
        durable: bool,
        follow: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._submission = submission
        self._request = submission.request
        self._hook = hook
        self._log = log
        self._judge = judge
        self._follow = follow
        self._state = cast("TaskStateStore | None", context.get("task_state_store")) if durable else None
        self._is_retry_without_task_state = durable and self._state is None and context["ti"].try_number > 1

    def attach(self) -> SubmittedOperation:
        """
        Re-attach to the Operation of an earlier try, or submit.

        :raises DicomExportDuplicateRiskError: if a submission could write the same rows twice.
        :raises DicomExportError: if the submission fails, or the recorded Operation cannot be read.
        """
        record = self._read_record()
        operation = None
        assessment = assess_record(
            record, self._intent(), is_retry_without_task_state=self._is_retry_without_task_state
        )
        if assessment.verdict is Verdict.LOOK_UP and record is not None:
            operation, assessment = self._look_up(str(record["operation_name"]))
        if assessment.verdict is Verdict.REATTACH and operation is not None:
            self._log.info("Re-attached to %s of an earlier try: %s.", operation["name"], counters(operation))
            return SubmittedOperation(operation, reattached=True)
        if record is not None and assessment.verdict is Verdict.REPLACE:
            self._log.warning(
                "The request has changed since an earlier try, which submitted %s.", record["operation_name"]
            )
            self._cancel(record["operation_name"])
        if assessment.verdict is Verdict.UNCERTAIN:
            self._refuse_unless_repeatable(assessment.reason, record)
            if record is not None:
                self._log.warning("%s. Submitting again: the data cannot be duplicated.", assessment.reason)
        return SubmittedOperation(self.submit(), reattached=False)

    def submit(self) -> Operation:
        """
        Submit, and record the submission.

        :raises DicomExportDuplicateRiskError: if the reply was lost, and a second submission could write rows
            twice.
        :raises DicomExportError: if the submission fails.
        """
        self._submission.prepare()
        intent = self._intent()
        self._write_record(intent)
        if self._state is not None and self._read_record() != intent:
            raise DicomExportError("Another attempt of this task has taken over; nothing was submitted.")
        operation = self._send()
        name = operation["name"]
        self._log.info("Submitted the request to %s. Operation: %s", self._request.action, name)
        try:
            self._write_record({**intent, "operation_name": name})
        except Exception as error:  # Airflow may raise anything here, and the name must not be lost with it
            self._log.warning(
                "Airflow did not store the operation's name, so a retry cannot re-attach to %s: %s",
                name,
                error,
            )
        return operation

    def _intent(self) -> SubmissionRecord:
        return {
            "dicom_store": str(self._request.store),
            "request": dict(self._request.body or {}),
            "filter_digest": self._submission.filter_digest,
            "submitted_at": datetime.now(UTC).isoformat(),
            "operation_name": None,
        }

    def _send(self) -> Operation:
        def may_repeat(error: BaseException) -> bool:
            return isinstance(error, DicomExportSubmissionUnknownError) and self._submission.repeatable

        def log_retry(retry_state: tenacity.RetryCallState) -> None:
            error = retry_state.outcome.exception() if retry_state.outcome else None
            self._log.warning("%s. Submitting again: the data cannot be duplicated.", error)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_repeat),
            stop=tenacity.stop_after_attempt(self._hook.num_retries + 1),
            wait=Backoff(),
            before_sleep=log_retry,
            reraise=True,
        )
        try:
            return retrying(self._submission.send)
        except DicomExportSubmissionUnknownError as error:
            self._refuse_unless_repeatable(str(error), None)
            raise
        except DicomExportError:
            # Certainly not accepted: a later try must not take the intent for a submission.
            if self._state is not None:
                self._state.delete(self._submission.state_key)
            raise

    def _look_up(self, name: str) -> tuple[Operation | None, Assessment]:
        self._follow(name)
        try:
            operation = self._hook.get_operation(name)
        except DicomExportNotFoundError as error:
            return None, assess_operation(None, error)
        if operation.get("done"):
            try:
                self._judge(operation)
            except DicomExportError as error:
                return operation, assess_operation(operation, error)
        return operation, assess_operation(operation, None)

    def _cancel(self, name: str | None) -> None:
        if name is None:
            return
        try:
            if not self._hook.get_operation(name).get("done"):
                self._hook.cancel_operation(name)
                self._log.info("Requested the cancellation of %s.", name)
        except DicomExportError as error:
            self._log.warning("%s could not be cancelled and may go on: %s", name, error)

    def _refuse_unless_repeatable(self, reason: str, record: SubmissionRecord | None) -> None:
        if self._submission.repeatable:
            return
        if record is not None and record["operation_name"] is None:
            reason += self._operations_since(record["submitted_at"])
        raise DicomExportDuplicateRiskError(
            f"{reason.rstrip('.')}. Nothing was submitted again, because {self._submission.duplicate_risk}. "
            f"Check the dataset's operations ({self._request.dataset.list_operations_command}) and the "
            "table; remove the rows of an earlier export; then run the task with durable=False, or in a new "
            "run."
        )

    def _operations_since(self, submitted_at: str) -> str:
        since = datetime.fromisoformat(submitted_at) - CLOCK_SKEW
        try:
            names = [
                operation["name"]
                for operation in self._hook.list_operations(self._request.dataset)
                if is_operation_since(operation, since, self._submission.api_method)
            ]
        except DicomExportError:
            return ""
        return f" (operations of this kind in the dataset since then: {', '.join(names) or 'none'})"

    def _read_record(self) -> SubmissionRecord | None:
        if self._state is None:
            return None
        return cast("SubmissionRecord | None", self._state.get(self._submission.state_key))

    def _write_record(self, record: SubmissionRecord) -> None:
        if self._state is not None:
            self._state.set(self._submission.state_key, record, retention=RETENTION)


def is_operation_since(operation: Operation, since: datetime, api_method: str) -> bool:
    """
    Tell whether an Operation was created by a method at or after a time.

    :param operation: the Operation as the API returned it.
    :param since: the time.
    :param api_method: the suffix of the Operation's ``apiMethodName``; an Operation without that field
        matches.
    """
    metadata = operation.get("metadata", {})
    created = metadata.get("createTime")
    return (
        metadata.get("apiMethodName", api_method).endswith(api_method)
        and created is not None
        and datetime.fromisoformat(created) >= since
    )
