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
- A kill cancels the Operation at every moment (``_kill.py``); the task asks Airflow for its state before it
  defers, because Airflow does not tell a worker about a kill just before a deferral.
- An Operation that was cancelled together with the try that submitted it is no outcome of a later try: the
  later try submits again.
"""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom.api.retry import quota_backoff
from airflow_provider_dicom.api_types import is_cancelled
from airflow_provider_dicom.compat import (
    BUILDS_LINKS_ON_WORKER,
    TaskDeferralError,
    TaskDeferralTimeout,
    context_not_resumed_in,
    is_deferral_timeout,
    task_state,
)
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportQuotaExhaustedError,
    DicomExportTimeoutError,
)
from airflow_provider_dicom.links.dicom_store import store_links
from airflow_provider_dicom.longrunning.outcome import describe_speed
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.longrunning.progress import Throttle, write_from_worker
from airflow_provider_dicom.operators._base import PollingOperator, set_outlet_extra
from airflow_provider_dicom.operators._kill import Cancellation, KillGuard, cancel
from airflow_provider_dicom.operators._submission import Submitter
from airflow_provider_dicom.results import OPERATION_NAME_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.compat import TaskInstanceKey
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators._submission import Submission, SubmittedOperation
    from airflow_provider_dicom.results import DicomExportResult
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent

#: How long after the deadline Airflow itself ends a deferral that its trigger did not end.
GRACE = timedelta(minutes=2)


class LongRunningOperator(PollingOperator):
    """
    An operator that submits a long-running operation and waits for its end.

    A subclass implements ``_submission``, which prepares the submission of its method, and ``_outcome``. Its
    ``execute`` validates the parameters and calls ``_submit``.
    """

    wait_for_completion: bool
    deferrable: bool
    durable: bool
    cancel_on_kill: bool

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._latest_operation: Operation | None = None
        self._is_resumed = False
        self._guard: KillGuard | None = None
        self._is_told_to_end = False

    def hook(self) -> DicomStoreHook:
        """Build the hook, which also cancels the Operation if the task is killed."""
        hook = super().hook()
        if self._guard is not None:
            self._guard.use(hook)
        return hook

    @contextmanager
    def _guarded(self, context: Context) -> Iterator[KillGuard]:
        """Cancel the Operation if the task is killed meanwhile; one guard for nested calls."""
        if self._guard is not None:
            yield self._guard
            return
        task = cast("TaskInstanceKey", context["ti"])
        guard = KillGuard(partial(task_state, task), cancels=self.cancel_on_kill, log=self.log)
        try:
            with guard:
                self._guard = guard
                if self._is_told_to_end:
                    guard.request()
                yield guard
        finally:
            self._guard = None
            self._is_told_to_end = False

    def _submission(self, hook: DicomStoreHook) -> AbstractContextManager[Submission]:
        """
        Prepare the submission.

        :param hook: the hook.
        :raises AirflowSkipException: if there is nothing to submit.
        """
        raise NotImplementedError

    def submit_again(
        self,
        context: Context,
        event: object = None,
        turn: int = 0,
        deadline: float | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult | str:
        """
        Submit again after a pause, because a quota was exhausted.

        :param context: the task's context.
        :param event: the trigger's event, which carries no information.
        :param turn: the number of pauses before this submission.
        :param deadline: the time at which the task gives up, in seconds since the epoch; never if not given.
        :raises DicomExportError: if the Operation fails, or cannot be submitted or polled.
        """
        return self._submit(context, deadline, turn)

    def execute_complete(
        self,
        context: Context,
        event: ExportEvent,
        reattached: bool = False,
        deadline: float | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult | str:
        """
        Return the result of the Operation in the trigger's event.

        :param context: the task's context.
        :param event: the trigger's event.
        :param reattached: an earlier try submitted the Operation.
        :param deadline: the time at which the task gives up, in seconds since the epoch; never if not given.
        :raises DicomExportError: if the Operation failed, or cannot be polled.
        """
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
            if next_method == self.submit_again.__name__:  # nothing was submitted
                raise
            operation_name = self._deferred_operation(context)
            self._latest_operation = {"name": operation_name} if operation_name else None
            if is_deferral_timeout(error):
                message = f"The deferral timed out. Operation: {operation_name}"
                if operation_name is None:
                    raise DicomExportTimeoutError(message) from error
                return self.execute_complete(
                    context,
                    {"status": "timeout", "operation": {"name": operation_name}, "message": message},
                )
            raise DicomExportError(
                f"The trigger failed ({error}); the export itself goes on. Operation: {operation_name}",
                operation_name=operation_name,
            ) from error

    def _deferred_operation(self, context: Context) -> str | None:
        task_instance = context["ti"]
        operation_name: str | None = task_instance.xcom_pull(
            task_ids=self.task_id, key=OPERATION_NAME_KEY, map_indexes=task_instance.map_index
        )
        return operation_name

    def on_kill(self) -> None:
        """
        Cancel the Operation that this task has submitted or waits for, unless only its worker is stopping.

        Airflow calls this method in a signal handler: all that takes time is up to the guard's thread.
        """
        self._is_told_to_end = True
        if self._guard is not None:
            self._guard.request()
        elif not self._is_resumed and (context := context_not_resumed_in()) is not None:
            operation_name = self._deferred_operation(context)
            if operation_name is not None and self.cancel_on_kill:
                self.log.info(self._cancel(operation_name).effect)

    def _deadline(self, context: Context) -> float | None:
        if self.execution_timeout is None:
            return None
        start = context["ti"].start_date
        return (start.timestamp() if start else time.time()) + self.execution_timeout.total_seconds()

    def _submit(
        self, context: Context, deadline: float | None, first_attempt: int = 0
    ) -> DicomExportResult | str:
        with self._guarded(context) as guard:
            for attempt in itertools.count(first_attempt):
                with self.hook() as hook:
                    try:
                        submitted = self._attach(hook, context, guard, deadline)
                    except DicomExportQuotaExhaustedError as error:
                        refusal = error
                    else:
                        return self._wait(hook, submitted, context, guard, deadline)
                self._wait_for_quota(refusal, attempt, guard, deadline)
        raise AssertionError("itertools.count() ended")

    def _attach(
        self, hook: DicomStoreHook, context: Context, guard: KillGuard, deadline: float | None
    ) -> SubmittedOperation:
        with self._submission(hook) as submission:
            send = guard.guarded(submission.send, submission.request, deadline)
            return Submitter(
                replace(submission, send=send),
                hook=hook,
                context=context,
                log=self.log,
                judge=self._outcome,
                durable=self.durable,
                follow=guard.follow,
            ).attach()

    def _wait_for_quota(
        self,
        refusal: DicomExportQuotaExhaustedError,
        attempt: int,
        guard: KillGuard,
        deadline: float | None,
    ) -> None:
        pause = quota_backoff(attempt, refusal.retry_after)
        if deadline is not None and time.time() + pause > deadline:
            raise DicomExportTimeoutError(
                f"{refusal}. The quota stayed exhausted until the deadline; nothing was submitted."
            ) from refusal
        self.log.warning("%s. Nothing was submitted; trying again in %.0f s.", refusal, pause)
        if not self.deferrable:
            guard.sleep(pause)
            return
        from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=pause)),
            method_name=self.submit_again.__name__,
            # Deferred tasks have stored this argument under the name "turn".
            kwargs={"turn": attempt + 1, "deadline": deadline},
        )

    def _wait(
        self,
        hook: DicomStoreHook,
        submitted: SubmittedOperation,
        context: Context,
        guard: KillGuard,
        deadline: float | None,
    ) -> DicomExportResult | str:
        operation = self._latest_operation = submitted.operation
        name = operation["name"]
        guard.follow(None if operation.get("done") else name)
        context["ti"].xcom_push(key=OPERATION_NAME_KEY, value=name)
        if not (self.deferrable and BUILDS_LINKS_ON_WORKER):
            store_links(self, context["ti"], name)
        guard.check(asks=True)
        if not self.wait_for_completion:
            guard.follow(None)
            set_outlet_extra(context, self.outlets, {OPERATION_NAME_KEY: name})
            return name
        if operation.get("done"):
            return self._finish(operation, context)
        if self.deferrable:
            return self._defer(name, deadline, reattached=submitted.reattached)
        try:
            operation = self._wait_on_worker(hook, name, context, guard, deadline)
        except DicomExportTimeoutError as error:
            return self._give_up(error, context)
        if submitted.reattached and is_cancelled(operation):
            return self._submit_after_cancellation(operation, context, deadline)
        return self._finish(operation, context)

    def _submit_after_cancellation(
        self, cancelled: Operation, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        # A cleared task may start before the trigger of the earlier try has cancelled the Operation.
        self.log.info("%s was cancelled with the try that submitted it.", cancelled["name"])
        return self._submit(context, deadline)

    def _wait_on_worker(
        self,
        hook: DicomStoreHook,
        operation_name: str,
        context: Context,
        guard: KillGuard,
        deadline: float | None,
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
        return hook.wait_for_operation(watch, sleep=guard.sleep)

    def _defer(self, operation_name: str, deadline: float | None, *, reattached: bool) -> NoReturn:
        timeout = None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time())) + GRACE
        self.defer_until_done(
            operation_name,
            deadline=deadline,
            cancel_on_kill=self.cancel_on_kill,
            timeout=timeout,
            kwargs={"reattached": reattached, "deadline": deadline},
        )

    def _finish(self, operation: Operation, context: Context) -> DicomExportResult:
        if self._guard is not None:
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
        return result

    def _give_up(self, error: DicomExportTimeoutError, context: Context) -> DicomExportResult:
        """Cancel the Operation at the deadline, and raise; return the result if it had ended before that."""
        name = error.operation_name
        effect = "The export itself goes on."
        if self.cancel_on_kill and name is not None:
            cancellation = self._cancel(name)
            operation, effect = cancellation
            if operation is not None and operation.get("done") and not is_cancelled(operation):
                self.log.info("%s. %s", error, effect)
                return self._finish(operation, context)
        raise DicomExportTimeoutError(
            f"{error}. {effect}", operation=error.operation, operation_name=name
        ) from None

    def _cancel(self, operation_name: str) -> Cancellation:
        try:
            hook = self.hook()
        except DicomExportError as error:
            return Cancellation(None, f"{operation_name} could not be cancelled and may go on: {error}")
        return cancel(hook, operation_name)
