"""
Submission of a long-running operation at most once, across the tries of a task.

Airflow 3.3 keeps task state: values that outlive a try. Submissions are recorded there
(``_submission_record.py``). Invariants:

1. The record is written before the request is sent, as an intent, and again with the Operation's name as
   soon as the API has answered. That the API certainly did not accept a request is recorded as well.
2. A later try with a record re-attaches to the recorded Operation: running, or finished with an accepted
   outcome that was not delivered yet. It submits again only if the request has changed, if the earlier
   submission is lost, gone or failed and the submission is repeatable, or if the result was delivered and
   the new export overwrites it.
3. A submission that is not repeatable (``WRITE_APPEND``) is never sent while it is uncertain whether an
   earlier one wrote rows; that is refused with ``DicomExportDuplicateRiskError``.
4. A repeatable submission is sent only after the Operation that it replaces has ended, and after all
   Operations that a submission without a reply may have started, as far as the account may list Operations:
   what ends later would overwrite what the new export writes. The API does not say which DICOM store an
   Operation is for: a listed Operation is waited for, but never adopted, and never cancelled.
5. An attempt that was superseded by another one cannot read its own intent back; it submits nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import tenacity

from airflow_provider_dicom.api.retry import Backoff
from airflow_provider_dicom.exceptions import (
    DicomExportDuplicateRiskError,
    DicomExportError,
    DicomExportNotFoundError,
    DicomExportQuotaExhaustedError,
    DicomExportSubmissionUnknownError,
    DicomExportTransientError,
)
from airflow_provider_dicom.longrunning.outcome import counters, describe_cancellation
from airflow_provider_dicom.operators._submission_record import (
    State,
    SubmissionRecord,
    SubmissionRecords,
    Unknown,
    Verdict,
    assess_operation,
    assess_record,
    is_operation_within,
    seen_by_try,
    state_of,
    unknown_time,
    unknown_time_of,
    wrote_nothing,
)
from airflow_provider_dicom.operators._submission_types import (
    DeliveredResult,
    Predecessor,
    QuotaRefusal,
    SubmittedOperation,
    destination_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators._submission_record import Assessment, TaskStateStore
    from airflow_provider_dicom.operators._submission_types import Decision, Step, Submission


class Submitter:
    """
    Submits a long-running operation, unless an earlier try of the task did.

    :param submission: the submission.
    :param hook: the hook.
    :param context: the task's context.
    :param log: the log.
    :param judge: raises a ``DicomExportError`` if a finished Operation is not accepted as a result.
    :param durable: record submissions, where Airflow keeps task state.
    :param unknown: the time in which submissions of this try may have been accepted, although their reply was
        lost.
    :param follow: is given the name of an earlier try's Operation before the API is asked about it.
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
        unknown: Unknown | None = None,
        follow: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._submission = submission
        self._request = submission.request
        self._hook = hook
        self._context = context
        self._log = log
        self._judge = judge
        self._follow = follow
        self._records = SubmissionRecords(
            task_state_store(context) if durable else None, submission.state_key
        )
        self._may_be_forgotten = self._reason_to_doubt() if durable and context["ti"].try_number > 1 else None
        #: The time in which submissions may have been accepted that the task does not know.
        self.unknown: Unknown = unknown_time(unknown)

    @property
    def decision(self) -> Decision:
        """What a deferral carries."""
        return self._submission.decision(self.unknown)

    def attach(self) -> Step:
        """
        Re-attach to the Operation of an earlier try, or submit.

        :return: the Operation to wait for, or what stands against a submission at the moment.
        :raises DicomExportDuplicateRiskError: if a submission could write the same rows twice.
        :raises DicomExportError: if the submission fails, or the recorded Operation cannot be read.
        """
        records = self._records.read()
        record = seen_by_try((records or {}).get(self._submission.record_key), self._context["ti"].max_tries)
        may_be_forgotten = self._may_be_forgotten if records is None else None
        forgotten = None if may_be_forgotten is None else _since_run_start(self._context)
        self.unknown = unknown_time(unknown_time_of(record), forgotten, self.unknown)
        assessment = assess_record(
            record,
            self._intent(),
            overwrites=self._submission.overwrites,
            may_be_forgotten=may_be_forgotten,
        )
        operation = None
        if record is not None and assessment.verdict is Verdict.LOOK_UP:
            operation, assessment = self._look_up(record)
        match assessment.verdict:
            case Verdict.REATTACH if operation is not None:
                self._log.info(
                    "Re-attached to %s of an earlier try: %s.", operation["name"], counters(operation)
                )
                return SubmittedOperation(operation, reattached=True)
            case Verdict.RETURN if record is not None:
                return self._deliver_again(record)
            case Verdict.REPLACE if record is not None:
                if not self._has_ended(record):
                    return Predecessor(str(record["operation_name"]), is_own=True)
            case Verdict.UNCERTAIN:
                self._refuse_unless_repeatable(assessment.reason)
                if record is not None:
                    self._log.warning(
                        "%s. Submitting again: the data cannot be duplicated.", assessment.reason
                    )
        return self._running_twin(record) or self._submit(record)

    def _submit(self, record: SubmissionRecord | None) -> Step:
        """Submit, and record the submission."""
        self._submission.prepare()
        intent = self._intent()
        self._write_record(intent)
        if self._records.are_kept and self._own_record() != intent:
            raise DicomExportError("Another attempt of this task has taken over; nothing was submitted.")
        try:
            operation = self._send(intent)
        except DicomExportSubmissionUnknownError:
            raise
        except DicomExportError as error:
            self._record_refusal(record, intent)
            if isinstance(error, DicomExportQuotaExhaustedError):
                return QuotaRefusal(error)
            if self._submission.only_into_empty and self.unknown["unknown_since"] is not None:
                explained = destination_error(
                    error,
                    destination=self._request.destination,
                    list_operations_command=self._request.dataset.list_operations_command,
                )
                raise explained or error from error.__cause__
            raise
        if isinstance(operation, Predecessor):
            return operation
        name = operation["name"]
        self._log.info("Submitted the request to %s. Operation: %s", self._request.action, name)
        self._note(
            {**intent, **self.unknown, "operation_name": name, "state": State.SUBMITTED.value},
            f"the operation's name, so a retry cannot re-attach to {name}",
        )
        return SubmittedOperation(operation, reattached=False)

    def _intent(self) -> SubmissionRecord:
        return {
            "dicom_store": str(self._request.store),
            "request": dict(self._request.body or {}),
            "filter_digest": self._submission.filter_digest,
            "submitted_at": datetime.now(UTC).isoformat(),
            "operation_name": None,
            "state": State.INTENT.value,
            "repeatable": self._submission.repeatable,
            "unknown_since": self.unknown["unknown_since"],
            "unknown_until": self.unknown["unknown_until"],
        }

    def _send(self, intent: SubmissionRecord) -> Operation | Predecessor:
        def may_repeat(error: BaseException) -> bool:
            return isinstance(error, DicomExportSubmissionUnknownError) and self._submission.repeatable

        def log_retry(retry_state: tenacity.RetryCallState) -> None:
            error = retry_state.outcome.exception() if retry_state.outcome else None
            self._log.warning("%s. Submitting again: the data cannot be duplicated.", error)

        def send() -> Operation | Predecessor:
            if attempts and (twin := self._running_twin(intent)):
                return twin
            attempts.append(datetime.now(UTC).isoformat())
            try:
                return self._submission.send()
            except DicomExportSubmissionUnknownError:
                lost: Unknown = {
                    "unknown_since": attempts[-1],
                    "unknown_until": datetime.now(UTC).isoformat(),
                }
                self.unknown = unknown_time(lost, self.unknown)
                self._note({**intent, **self.unknown}, "that a reply was lost")
                raise

        attempts: list[str] = []
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_repeat),
            stop=tenacity.stop_after_attempt(self._hook.num_retries + 1),
            wait=Backoff(),
            before_sleep=log_retry,
            reraise=True,
        )
        try:
            return retrying(send)
        except DicomExportSubmissionUnknownError as error:
            self._refuse_unless_repeatable(str(error), list_operations=False)
            raise

    def _record_refusal(self, record: SubmissionRecord | None, intent: SubmissionRecord) -> None:
        """Record that the last request was not accepted; what an earlier one may have written is kept."""
        if record is None or wrote_nothing(record):
            record = {**intent, "state": State.NOT_ACCEPTED.value}
        self._note({**record, **self.unknown}, "that nothing was accepted")

    def _look_up(self, record: SubmissionRecord) -> tuple[Operation | None, Assessment]:
        name = str(record["operation_name"])
        self._follow(name)
        try:
            operation = self._hook.get_operation(name, num_retries=0)
        except DicomExportNotFoundError as error:
            return None, assess_operation(None, error)
        except DicomExportTransientError as error:
            # Whoever polls has more patience: only the submission must not be repeated.
            self._log.warning("%s. The export itself goes on; polling continues.", str(error).rstrip("."))
            operation = {"name": name}
        if operation.get("done"):
            try:
                self._judge(operation)
            except DicomExportError as error:
                return operation, assess_operation(operation, error)
        is_delivered = state_of(record) is State.DELIVERED
        return operation, assess_operation(
            operation, None, export_again=is_delivered and self._submission.overwrites
        )

    def _deliver_again(self, record: SubmissionRecord) -> DeliveredResult:
        name = str(record["operation_name"])
        age = datetime.now(UTC) - datetime.fromisoformat(record["submitted_at"])
        self._log.warning(
            "An earlier try has delivered the result of %s, which was submitted at %s (%s ago). It is "
            "returned again, because the write disposition overwrites nothing. To export again on purpose, "
            "empty the table, then run the task with durable=False, or in a new run.",
            name,
            record["submitted_at"],
            str(age).partition(".")[0],
        )
        return DeliveredResult(name, record.get("result", name))

    def _has_ended(self, record: SubmissionRecord) -> bool:
        """Cancel the Operation of a request that has changed, and tell whether it has ended."""
        name = str(record["operation_name"])
        self._log.warning("The request has changed since an earlier try, which submitted %s.", name)
        self._follow(name)
        try:
            if self._hook.get_operation(name, num_retries=0).get("done"):
                return True
        except DicomExportNotFoundError:
            return True
        except DicomExportTransientError as error:
            self._log.warning("%s. Waiting for the end of the operation.", str(error).rstrip("."))
            return False
        try:
            operation = self._hook.cancel_and_confirm(name)
        except DicomExportError as error:
            self._log.warning("%s could not be cancelled and may go on: %s", name, error)
            return False
        self._log.info("%s", describe_cancellation(operation))
        return bool(operation.get("done"))

    def _running_twin(self, record: SubmissionRecord | None) -> Predecessor | None:
        """Find a running Operation that a submission without a reply may have started."""
        if self.unknown["unknown_until"] is None:
            return None
        if record is not None and record.get("unknown_until") is None:
            # Later Operations are those of others: the end of the time must not move.
            self._write_record({**record, **self.unknown})
        try:
            running = [operation for operation in self._twins() if not operation.get("done")]
        except DicomExportError as error:
            self._log.warning(
                "The dataset's operations cannot be listed, so an earlier submission may run on unseen: %s",
                error,
            )
            return None
        if not running:
            return None
        names = ", ".join(operation["name"] for operation in running)
        self._log.warning("An earlier submission, whose reply was lost, may be one of: %s.", names)
        return Predecessor(running[0]["name"], is_own=False)

    def _twins(self) -> Iterator[Operation]:
        recorded = {record["operation_name"] for record in (self._records.read() or {}).values()}
        for operation in self._hook.list_operations(self._request.dataset):
            if operation["name"] not in recorded and is_operation_within(
                operation, self.unknown, self._submission.api_method
            ):
                yield operation

    def _refuse_unless_repeatable(self, reason: str, *, list_operations: bool = True) -> None:
        if self._submission.repeatable:
            return
        if list_operations and self.unknown["unknown_until"] is not None:
            reason += self._operations_since()
        raise DicomExportDuplicateRiskError(
            f"{reason.rstrip('.')}. Nothing was submitted again, because {self._submission.duplicate_risk}. "
            f"Check the dataset's operations ({self._request.dataset.list_operations_command}) and the "
            "table; remove the rows of an earlier export; then run the task with durable=False, or in a new "
            "run."
        )

    def _operations_since(self) -> str:
        try:
            names = [operation["name"] for operation in self._twins()]
        except DicomExportError:
            return ""
        return f" (operations of this kind in the dataset since then: {', '.join(names) or 'none'})"

    def _reason_to_doubt(self) -> str:
        if not self._records.are_kept:
            return (
                "This is a retry, and this version of Airflow does not record what the earlier try submitted"
            )
        return (
            "This is a later try, and Airflow has no record of what the earlier tries submitted "
            "(clear_on_success, a clean-up or the retention of the task state removes records)"
        )

    def _own_record(self) -> SubmissionRecord | None:
        return (self._records.read() or {}).get(self._submission.record_key)

    def _note(self, record: SubmissionRecord, what: str) -> None:
        """Write a record after the request was sent: nothing that it led to may be lost with the record."""
        try:
            self._write_record(record)
        except Exception as error:  # Airflow may raise anything here
            self._log.warning("Airflow did not store %s: %s", what, error)

    def _write_record(self, record: SubmissionRecord) -> None:
        self._records.write(self._submission.record_key, record)


def task_state_store(context: Context) -> TaskStateStore | None:
    """
    Return the store of a task's state; None where Airflow has none.

    :param context: the task's context.
    """
    return cast("TaskStateStore | None", context.get("task_state_store"))


def _since_run_start(context: Context) -> Unknown:
    """Return the time since which tries that Airflow has forgotten may have submitted."""
    start = getattr(context.get("dag_run"), "start_date", None)
    return {"unknown_since": start.isoformat() if start else None, "unknown_until": None}
