"""
The life of a long-running operation in a task, whatever the API method: submit, defer, resume, cancel.

Invariants:

- ``execute`` and ``submit_again`` lead to one submission at most (``_submission.py``); the XCom with the
  Operation's name is written before the task defers or polls.
- The task ends with the Operation's outcome, or with an error that carries the Operation's name.
- A 429 of the submission pauses the task, deferred, without using up a retry; the deadline limits the pauses.
- The deadline is ``execution_timeout`` after the task's start; it travels through every deferral. Airflow
  itself ends a deferral ``GRACE`` later, in case no triggerer runs. Nothing is submitted after the deadline,
  and an Operation that turns out to be done when the task gives up counts with its outcome.
- An Operation that was cancelled together with the try that submitted it is no outcome of a later try: the
  later try submits again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.api_types import is_cancelled
from airflow_provider_dicom.compat import (
    BUILDS_LINKS_ON_WORKER,
    TaskDeferralError,
    TaskDeferralTimeout,
    is_deferral_timeout,
)
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportTimeoutError,
)
from airflow_provider_dicom.links.dicom_store import store_links
from airflow_provider_dicom.longrunning.outcome import describe_speed
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.longrunning.progress import write_from_worker
from airflow_provider_dicom.longrunning.record_schedule import Throttle
from airflow_provider_dicom.operators._base import deferral_timeout
from airflow_provider_dicom.operators._submission import task_state_store
from airflow_provider_dicom.operators._submission_record import SubmissionRecords
from airflow_provider_dicom.operators._submitting import SubmittingOperator
from airflow_provider_dicom.results import OPERATION_NAME_KEY

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators._submission_types import Decision, SubmittedOperation
    from airflow_provider_dicom.results import DicomExportResult
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent


class LongRunningOperator(SubmittingOperator):
    """
    An operator that submits a long-running operation and waits for its end.

    A subclass implements ``_submission``, which prepares the submission of its method, and ``_outcome``. Its
    ``execute`` validates the parameters and calls ``_submit``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._latest_operation: Operation | None = None

    @property
    def submitted_operation(self) -> Operation | None:
        """The latest state of the Operation that the task has submitted or waits for; None before that."""
        return self._latest_operation

    def execute_complete(
        self,
        context: Context,
        event: ExportEvent,
        reattached: bool = False,
        deadline: float | None = None,
        submission: Decision | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult | str:
        """
        Return the result of the Operation in the trigger's event.

        :param context: the task's context.
        :param event: the trigger's event.
        :param reattached: an earlier try submitted the Operation.
        :param deadline: the time at which the task gives up, in seconds since the epoch; never if not given.
        :param submission: what the first rendering of the templates decided.
        :raises DicomExportError: if the Operation failed, or cannot be polled.
        """
        self._decision = submission
        self._latest_operation = event["operation"]
        with self._guarded(context) as guard:
            if not event["operation"].get("done"):
                guard.follow(event["operation"]["name"])
            try:
                operation = self.operation_of(event)
            except DicomExportTimeoutError as error:
                return self._give_up(error, context)
            if operation is None:
                return self._defer(event["operation"]["name"], deadline, reattached=reattached)
            if reattached and is_cancelled(operation):
                return self._submit_after_cancellation(operation, context, deadline)
            return self._finish(operation, context)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> object:
        """
        Resume after a deferral; the Operation is not lost if Airflow itself ended the deferral.

        :param next_method: the name of the method that resumes.
        :param next_kwargs: the method's arguments.
        :param context: the task's context.
        """
        self._is_resumed = True
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            operation_name = self._deferred_operation(context)
            if operation_name is None:
                raise self._ended_before_submission(error) from error
            self._latest_operation = {"name": operation_name}
            if is_deferral_timeout(error):
                message = f"The deferral timed out. Operation: {operation_name}"
                return self.execute_complete(
                    context,
                    {"status": "timeout", "operation": {"name": operation_name}, "message": message},
                )
            raise DicomExportError(
                f"The trigger failed ({error}); the export itself goes on. Operation: {operation_name}",
                operation_name=operation_name,
            ) from error

    @staticmethod
    def _ended_before_submission(error: Exception) -> DicomExportError:
        kind = DicomExportTimeoutError if is_deferral_timeout(error) else DicomExportError
        return kind(
            f"The deferral ended ({error}) while the task was waiting to submit. This try is not known to "
            "have submitted anything."
        )

    def _deferred_operation(self, context: Context) -> str | None:
        task_instance = context["ti"]
        operation_name: str | None = task_instance.xcom_pull(
            task_ids=self.task_id, key=OPERATION_NAME_KEY, map_indexes=task_instance.map_index
        )
        if operation_name is None and self.durable:  # Airflow may not have stored the XCom
            records = SubmissionRecords(task_state_store(context), self.state_key)
            operation_name = records.only_operation()
        return operation_name

    def _wait(
        self, hook: DicomStoreHook, submitted: SubmittedOperation, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        operation = self._latest_operation = submitted.operation
        name = operation["name"]
        self._guard.follow(None if operation.get("done") else name)
        self._publish_name(name, context)
        if not self.wait_for_completion:
            self._guard.check(asks=True)
            return self._deliver_name(name, context)
        if operation.get("done"):
            return self._finish(operation, context)
        if self.deferrable:
            return self._defer(name, deadline, reattached=submitted.reattached)
        try:
            operation = self._wait_on_worker(hook, name, context, deadline)
        except DicomExportTimeoutError as error:
            return self._give_up(error, context)
        if submitted.reattached and is_cancelled(operation):
            return self._submit_after_cancellation(operation, context, deadline)
        return self._finish(operation, context)

    def _publish_name(self, operation_name: str, context: Context) -> None:
        operation = self._latest_operation
        if operation is None or operation["name"] != operation_name:
            operation = self._latest_operation = {"name": operation_name}
        try:
            context["ti"].xcom_push(key=OPERATION_NAME_KEY, value=operation_name)
            if not (self.deferrable and BUILDS_LINKS_ON_WORKER):
                store_links(self, context["ti"], operation)
        except Exception as error:  # Airflow may raise anything here, and the export runs
            self.log.warning(
                "Airflow did not store the XCom with the operation's name; the task goes on with %s: %s",
                operation_name,
                error,
            )

    def _submit_after_cancellation(
        self, cancelled: Operation, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        # A cleared task may start before the trigger of the earlier try has cancelled the Operation.
        self.log.info("%s was cancelled with the try that submitted it.", cancelled["name"])
        return self._submit(context, deadline)

    def _wait_on_worker(
        self, hook: DicomStoreHook, operation_name: str, context: Context, deadline: float | None
    ) -> Operation:
        throttle = Throttle()

        def record_progress(operation: Operation) -> None:
            if throttle.should_record(operation):
                write_from_worker(context["ti"], operation, log=self.log)

        watch = OperationWatch(
            operation_name,
            poll_interval=self.poll_interval,
            deadline=deadline,
            log=self.log,
            on_progress=record_progress,
        )
        return hook.wait_for_operation(watch, sleep=self._guard.sleep)

    def _defer(self, operation_name: str, deadline: float | None, *, reattached: bool) -> NoReturn:
        self.defer_until_done(
            operation_name,
            deadline=deadline,
            cancel_on_kill=self.cancel_on_kill,
            timeout=deferral_timeout(deadline),
            kwargs={"reattached": reattached, "deadline": deadline, "submission": self._decision},
        )

    def _finish(self, operation: Operation, context: Context) -> DicomExportResult:
        self._guard.follow(None)
        self._latest_operation = operation
        result = self.record_outcome(operation, context)
        self.log.info(
            "Export ended as %s: %d exported, %d failed%s, from %s to %s. Operation: %s",
            result["state"],
            result["success"],
            result["failure"],
            describe_speed(operation),
            result["dicom_store"],
            result["destination"],
            result["operation_name"],
        )
        self._delivery = result["operation_name"], result
        return result

    def _give_up(self, error: DicomExportTimeoutError, context: Context) -> DicomExportResult:
        """Cancel the Operation at the deadline, and raise; return the result if it had ended before that."""
        name = error.operation_name
        effect = "The export itself goes on."
        if self.cancel_on_kill and name is not None:
            operation, effect = self._cancel(name)
            if operation is not None and operation.get("done") and not is_cancelled(operation):
                self.log.info("%s. %s", error, effect)
                return self._finish(operation, context)
        raise DicomExportTimeoutError(
            f"{error}. {effect}{self._note_on_twins()}", operation=error.operation, operation_name=name
        ) from None
