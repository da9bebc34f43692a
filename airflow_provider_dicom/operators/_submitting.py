"""
How an operator comes to its Operation, whatever the API method: checks, waits, re-attaches, submits.

Every submission goes through ``_submit``, whatever led to it: ``execute``, the end of a pause for a quota,
the end of an Operation that had to end first, or a re-attached Operation that turns out to be cancelled.
Invariants:

- ``_check_submission`` is called before each of them. What the first rendering of the templates decided
  (DICOM store, request, filter) travels through every deferral, and later renderings change nothing about it.
- A 429 of the submission pauses the task, deferred, without using up a retry; the deadline limits the pauses.
  A 429 of any other request is a transient error like others.
- The records of the task state say that a result was delivered only when the task has nothing left to do.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.resource_names import DicomStoreName
from airflow_provider_dicom.api.retry import quota_backoff
from airflow_provider_dicom.exceptions import (
    DicomExportNotFoundError,
    DicomExportQuotaExhaustedError,
    DicomExportTimeoutError,
)
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.operators._base import deferral_timeout, set_outlet_extra
from airflow_provider_dicom.operators._killable import KillableOperator
from airflow_provider_dicom.operators._submission import Submitter, task_state_store
from airflow_provider_dicom.operators._submission_record import SubmissionRecords
from airflow_provider_dicom.operators._submission_types import (
    DeliveredResult,
    Predecessor,
    QuotaRefusal,
    SubmittedOperation,
)
from airflow_provider_dicom.results import OPERATION_NAME_KEY

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators._submission_types import Decision, Step, Submission
    from airflow_provider_dicom.results import DicomExportResult


class SubmittingOperator(KillableOperator):
    """
    An operator that submits a long-running operation at most once.

    A subclass implements ``_check_submission`` and ``_submission`` for its method, and ``_wait``.
    """

    #: The key of the records in the task state. Running deployments have stored it: it must never be renamed.
    state_key: str
    wait_for_completion: bool
    deferrable: bool
    durable: bool

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: What the first rendering of the templates decided; None before that.
        self._decision: Decision | None = None
        #: What is being submitted; it knows of lost submissions before the decision does.
        self._submitter: Submitter | None = None
        #: The Operation's name and the result with which the task ends.
        self._delivery: tuple[str, DicomExportResult | str] | None = None

    def _begin(self, context: Context) -> None:
        """Note in the first try that nothing was submitted, which later tries know by it wherever it ends."""
        store = task_state_store(context) if self.durable else None
        if store is not None and context["ti"].try_number == 1:
            SubmissionRecords(store, self.state_key).open()

    def _check_submission(self) -> None:
        """
        Refuse or skip what must not be submitted.

        :raises DicomExportInvalidRequestError: if a parameter is invalid.
        :raises AirflowSkipException: if there is nothing to submit.
        """
        raise NotImplementedError

    def _submission(self, hook: DicomStoreHook) -> AbstractContextManager[Submission]:
        """
        Prepare the submission: that of ``_decision``, if there is one.

        :param hook: the hook.
        :raises AirflowSkipException: if there is nothing to submit.
        """
        raise NotImplementedError

    def _wait(
        self, hook: DicomStoreHook, submitted: SubmittedOperation, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        """Wait for the end of an Operation, or defer, and return what the task returns."""
        raise NotImplementedError

    def _publish_name(self, operation_name: str, context: Context) -> None:
        """Write the XCom with the Operation's name, and the links; must not raise."""
        raise NotImplementedError

    def submit_again(
        self,
        context: Context,
        event: object = None,
        turn: int = 0,
        deadline: float | None = None,
        submission: Decision | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult | str:
        """
        Submit again after a pause for a quota, or after the end of an Operation that had to end first.

        :param context: the task's context.
        :param event: the trigger's event.
        :param turn: the number of pauses for a quota before this submission.
        :param deadline: the time at which the task gives up, in seconds since the epoch; never if not given.
        :param submission: what the first rendering of the templates decided.
        :raises DicomExportError: if the Operation fails, or cannot be submitted or polled.
        """
        self._decision = submission
        if isinstance(event, dict) and event.get("status") == "timeout":
            raise self._waited_in_vain(event.get("message"))
        return self._submit(context, deadline, turn)

    def post_execute(self, context: Context, result: Any = None) -> None:
        """
        Record that the result is delivered, as the last step of the task.

        :param context: the task's context.
        :param result: the result; Airflow 3 leaves it out.
        """
        super().post_execute(context, result)
        if self._delivery is None or not self.durable:
            return
        try:
            records = SubmissionRecords(task_state_store(context), self.state_key)
            records.deliver(*self._delivery, max_tries=context["ti"].max_tries)
        except Exception as error:  # Airflow may raise anything here, and the task has its result
            self.log.warning(
                "Airflow did not store that the result is delivered; a cleared task will return it again: %s",
                error,
            )

    def _submit(self, context: Context, deadline: float | None, refusals: int = 0) -> DicomExportResult | str:
        with self._guarded(context):
            while True:
                self._check_submission()
                with self.hook() as hook:
                    step = self._attach(hook, context, deadline)
                    if isinstance(step, SubmittedOperation):
                        return self._wait(hook, step, context, deadline)
                    if isinstance(step, DeliveredResult):
                        return self._deliver_again(hook, step, context, deadline)
                    if isinstance(step, Predecessor):
                        self._wait_for_predecessor(hook, step, deadline)
                if isinstance(step, QuotaRefusal):
                    self._wait_for_quota(step.error, refusals, deadline)
                    refusals += 1

    def _attach(self, hook: DicomStoreHook, context: Context, deadline: float | None) -> Step:
        with self._submission(hook) as submission:
            send = self._guard.guarded(submission.send, submission.request, deadline)
            self._submitter = submitter = Submitter(
                replace(submission, send=send),
                hook=hook,
                context=context,
                log=self.log,
                judge=self._outcome,
                durable=self.durable,
                unknown=self._decision,
                follow=self._guard.follow,
            )
            step = submitter.attach()
            self._decision = submitter.decision
            return step

    def _deliver_name(self, operation_name: str, context: Context) -> str:
        self._guard.follow(None)
        set_outlet_extra(context, self.outlets, {OPERATION_NAME_KEY: operation_name}, log=self.log)
        self._delivery = operation_name, operation_name
        return operation_name

    def _deliver_again(
        self, hook: DicomStoreHook, delivered: DeliveredResult, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        name, result = delivered.operation_name, delivered.result
        if self.wait_for_completion and isinstance(result, str):
            return self._wait(hook, SubmittedOperation({"name": name}, reattached=True), context, deadline)
        self._publish_name(name, context)
        if not self.wait_for_completion or isinstance(result, str):
            return self._deliver_name(name, context)
        set_outlet_extra(context, self.outlets, result, log=self.log)
        return result

    def _wait_for_predecessor(
        self, hook: DicomStoreHook, predecessor: Predecessor, deadline: float | None
    ) -> None:
        name = predecessor.operation_name
        self._guard.follow(name if predecessor.is_own else None)
        self.log.warning("Waiting for the end of %s, which would overwrite a new export.", name)
        if self.deferrable:
            self.defer_until_done(
                name,
                deadline=deadline,
                cancel_on_kill=self.cancel_on_kill and predecessor.is_own,
                timeout=deferral_timeout(deadline),
                method_name=self.submit_again.__name__,
                kwargs={"deadline": deadline, "submission": self._decision},
            )
        watch = OperationWatch(name, poll_interval=self.poll_interval, deadline=deadline, log=self.log)
        try:
            hook.wait_for_operation(watch, sleep=self._guard.sleep)
        except DicomExportNotFoundError:
            self.log.info("%s does not exist any more.", name)
        except DicomExportTimeoutError as error:
            raise self._waited_in_vain(str(error)) from error

    @staticmethod
    def _waited_in_vain(message: object) -> DicomExportTimeoutError:
        return DicomExportTimeoutError(
            f"{message} The task was waiting for the end of this operation; nothing was submitted."
        )

    def _wait_for_quota(
        self, refusal: DicomExportQuotaExhaustedError, attempt: int, deadline: float | None
    ) -> None:
        pause = quota_backoff(attempt, refusal.retry_after)
        if deadline is not None and time.time() + pause > deadline:
            raise DicomExportTimeoutError(
                f"{refusal}. The quota stayed exhausted until the deadline; nothing was submitted."
            ) from refusal
        self.log.warning("%s. Nothing was submitted; trying again in %.0f s.", refusal, pause)
        if not self.deferrable:
            self._guard.sleep(pause)
            return
        from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=pause)),
            method_name=self.submit_again.__name__,
            # Deferred tasks have stored this argument under the name "turn".
            kwargs={"turn": attempt + 1, "deadline": deadline, "submission": self._decision},
        )

    def _note_on_twins(self) -> str:
        """Return a sentence about submissions without a reply, which no kill can cancel; or nothing."""
        decision = self._decision if self._submitter is None else self._submitter.decision
        if decision is None or decision["unknown_until"] is None:
            return ""
        dataset = DicomStoreName.parse(decision["dicom_store"]).dataset
        return (
            f" A submission since {decision['unknown_since']} whose reply was lost may run on; only "
            f"somebody who may list the dataset's operations can find it: {dataset.list_operations_command}"
        )
