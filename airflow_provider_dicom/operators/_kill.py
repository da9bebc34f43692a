"""
Kills of a task that runs on a worker: who ends it, and what becomes of its Operation.

Invariants:

- Airflow calls ``on_kill`` in a signal handler, between any two instructions of the task, and the task then
  goes on. ``KillGuard.request`` therefore takes no lock, writes no log and talks to nobody; the guard's own
  thread does the rest. The lock of the channel to Airflow is not reentrant, so that only another thread can
  wait for it.
- A signal alone does not tell a user from a worker that is stopped. The thread asks Airflow for the task's
  state: an Operation is cancelled only if that state says that the task was ended. Without an answer within
  ``STATE_TIMEOUT`` the Operation goes on, and the log says so.
- After a signal nothing is submitted any more, whoever sent it.
- The end of a task that was ended waits for the cancellation, at most ``CANCELLATION_TIMEOUT``. Airflow 3
  itself ends the process 5 seconds after the signal if a user ended the task, so the log names the Operation
  before it is cancelled.
- The hook of the task has loaded its connection before anything is submitted: a cancellation never asks
  Airflow for one.
"""

from __future__ import annotations

import contextvars
import copy
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_dicom.exceptions import (
    DicomExportCancelledError,
    DicomExportError,
    DicomExportSubmissionUnknownError,
    DicomExportTimeoutError,
)
from airflow_provider_dicom.longrunning.outcome import describe_cancellation

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

#: States of a task instance that nobody has ended: it runs, or Airflow itself will run it again. A task that
#: a user cleared while it ran is "restarting".
WANTED_STATES = frozenset({"running", "queued", "scheduled", "deferred", "up_for_retry", "up_for_reschedule"})
#: How long the guard waits for Airflow's answer, and for the reply to a submission that is under way, before
#: it logs what may go on, in seconds; together less than the time that Airflow leaves a killed task.
STATE_TIMEOUT = 3.0
REPLY_TIMEOUT = 1.5
#: How long the end of a task waits for a cancellation that is under way, in seconds.
CANCELLATION_TIMEOUT = 30.0


class KillGuard:
    """
    Cancels the Operation of a task that is ended while it runs on a worker.

    It guards as a context manager, in the main thread.

    :param task_state: returns the task's state from Airflow; it may block and may fail.
    :param cancels: cancel the Operation of a task that is ended.
    :param note: returns a sentence, or nothing, about what else may run.
    :param log: the log.
    """

    def __init__(
        self,
        task_state: Callable[[], str | None],
        *,
        cancels: bool,
        note: Callable[[], str] = lambda: "",
        log: Log,
    ) -> None:
        self._task_state = task_state
        self._cancels = cancels
        self._note = note
        self._log = log
        #: One item for every signal: whether its sender is known to end the task; None ends the thread. The
        #: queue is the only one of Python's that may be used in a signal handler. An Operation that becomes
        #: known after a signal is such an item, too.
        self._requests: SimpleQueue[bool | None] = SimpleQueue()
        self._signals = 0
        self._changed = threading.Condition()
        #: Operations that became known after a signal; each is a request of its own.
        self._late_operations = 0
        self._requests_dealt_with = 0
        self._hook: DicomStoreHook | None = None
        self._operation_name: str | None = None
        self._submitting: ApiRequest | None = None
        self._unanswered: ApiRequest | None = None
        self._is_ended = False
        self._operation_dealt_with: str | None = None
        #: What became of the Operation of a task that was ended.
        self._effect: str | None = None
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._watch,), name="dicom-export-kill", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, AirflowTaskTimeout):
            self.request(is_end=True)
        self._requests.put(None)
        self._thread.join(STATE_TIMEOUT + CANCELLATION_TIMEOUT)
        if self._is_ended and (error is None or isinstance(error, TaskDeferred)):
            # Airflow would refuse the result, or the deferral, of a task that was ended.
            raise self._error() from None

    def request(self, *, is_end: bool = False) -> None:
        """
        Note a signal to end; nothing else is safe in a signal handler.

        :param is_end: the task is known to be ended; otherwise Airflow is asked.
        """
        self._signals += 1
        self._requests.put(is_end)

    def use(self, hook: DicomStoreHook) -> None:
        """
        Set the hook whose connection and credentials a cancellation uses.

        :param hook: the hook.
        """
        self._hook = hook

    def follow(self, operation_name: str | None) -> None:
        """
        Set the Operation to cancel if the task is ended.

        :param operation_name: the full name of the Operation; None if there is none, or if it is done.
        """
        with self._changed:
            is_late = self._signals > 0 and operation_name not in (None, self._operation_name)
            self._operation_name, self._unanswered = operation_name, None
            self._changed.notify_all()
        if is_late:
            # The Operation of an earlier try became known after the signal, perhaps after its effect.
            self._late_operations += 1
            self._requests.put(False)

    def guarded(
        self, send: Callable[[], Operation], request: ApiRequest, deadline: float | None
    ) -> Callable[[], Operation]:
        """
        Wrap a submission: it is refused after a signal or after the deadline, and its Operation is followed.

        :param send: sends the request, and returns the Operation.
        :param request: the request.
        :param deadline: the time at which the task gives up, in seconds since the epoch; never if not given.
        """

        def guarded_send() -> Operation:
            self._refuse(deadline)
            with self._changed:
                self._submitting = request
            operation = None
            is_unanswered = True
            try:
                operation = send()
            except DicomExportSubmissionUnknownError:
                raise
            except DicomExportError:  # certainly not accepted
                is_unanswered = self._unanswered is not None
                raise
            finally:
                with self._changed:
                    self._submitting = None
                    if operation is not None:
                        self._operation_name, self._unanswered = operation["name"], None
                    elif is_unanswered:
                        self._unanswered = request
                    self._changed.notify_all()
            return operation

        return guarded_send

    def _refuse(self, deadline: float | None) -> None:
        kind: type[DicomExportError] = DicomExportCancelledError
        if self._signals:
            reason = "The task was told to end before the submission"
        elif deadline is not None and time.time() >= deadline:
            reason, kind = "The deadline passed before the submission", DicomExportTimeoutError
        else:
            return
        if self._unanswered is not None:
            raise kind(f"{reason} was repeated. {_may_run(self._unanswered)}")
        raise kind(f"{reason}; nothing was submitted.{self._note()}")

    def check(self, *, asks: bool = False) -> None:
        """
        Raise an error if the task was ended, after its Operation has been dealt with.

        :param asks: ask Airflow even if there was no signal: Airflow tells a worker with its next heartbeat
            that a task was ended, and never if the task defers before that.
        :raises DicomExportCancelledError: if the task was ended.
        """
        if asks and not self._signals:
            try:
                state = self._task_state()
            except Exception:  # Airflow may raise anything here, and then nothing is known, as before
                return
            if state is None or state in WANTED_STATES:
                return
            self.request(is_end=True)
        with self._changed:
            self._changed.wait_for(self._is_dealt_with, STATE_TIMEOUT + CANCELLATION_TIMEOUT)
        if self._is_ended:
            raise self._error()

    def sleep(self, seconds: float) -> None:
        """
        Sleep, or raise an error as soon as the task has been ended and its Operation dealt with.

        :param seconds: the time.
        :raises DicomExportCancelledError: if the task was ended.
        """
        with self._changed:
            is_end = self._changed.wait_for(
                lambda: self._effect is not None and self._is_dealt_with(), seconds
            )
        if is_end:
            raise self._error()

    def _is_dealt_with(self) -> bool:
        return self._requests_dealt_with >= self._signals + self._late_operations

    def _error(self) -> DicomExportCancelledError:
        effect = self._effect or f"The cancellation of {self._operation_name} is not confirmed."
        return DicomExportCancelledError(f"The task was ended. {effect}", operation_name=self._operation_name)

    def _watch(self) -> None:
        while (is_end := self._requests.get()) is not None:
            self._is_ended = self._is_ended or is_end or self._was_ended()
            is_open = self._effect is None or self._operation_name not in (None, self._operation_dealt_with)
            effect = self._deal_with_end() if self._is_ended and is_open else self._effect
            with self._changed:
                self._effect = effect
                self._requests_dealt_with += 1
                self._changed.notify_all()

    def _was_ended(self) -> bool:
        answer = self._ask()
        if not isinstance(answer, Exception) and answer not in WANTED_STATES:
            return True
        if isinstance(answer, Exception):
            why = f"Airflow does not say whether it was ended or its worker is stopping: {answer}"
        else:
            why = f"its state is still {answer!r}, so its worker is stopping"
        self._log.warning(
            "The task got a signal to end, and %s. %s; a retry re-attaches to an export where Airflow keeps "
            "task state.",
            why,
            f"{self._operation_name} goes on" if self._operation_name else "No export is cancelled",
        )
        return False

    def _ask(self) -> str | Exception | None:
        """Return the task's state, or an error; in a thread of its own, because the channel may be stuck."""
        answers: SimpleQueue[str | Exception | None] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._task_state())
            except Exception as error:  # Airflow may raise anything here
                answers.put(error)

        threading.Thread(target=ask, name="dicom-export-state", daemon=True).start()
        try:
            return answers.get(timeout=STATE_TIMEOUT)
        except Empty:
            return TimeoutError(f"no answer within {STATE_TIMEOUT:.0f} s")

    def _deal_with_end(self) -> str:
        """Cancel the Operation if there is one, and return a sentence about the effect."""
        self._wait_for_reply()
        name, hook = self._operation_name, self._hook
        self._operation_dealt_with = name
        if name is None and self._unanswered is not None:
            effect = _may_run(self._unanswered)
        elif name is None:
            effect = "The task knows of no running export."
        elif not self._cancels:
            effect = f"{name} goes on, because cancel_on_kill=False."
        elif hook is None:
            effect = f"{name} could not be cancelled and may go on: the connection was not loaded yet."
        else:
            self._log.info("The task was ended; requesting the cancellation of %s.", name)
            effect = cancel(hook, name).effect
        effect += self._note()
        self._log.info("The task was ended. %s", effect)
        return effect

    def _wait_for_reply(self) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: self._submitting is None, REPLY_TIMEOUT):
                return
            if self._submitting is not None:
                self._log.warning("The task was ended during the submission. %s", _may_run(self._submitting))
            self._changed.wait_for(lambda: self._submitting is None)


class Cancellation(NamedTuple):
    """
    The effect of a cancellation.

    :param operation: the Operation as the API returned it last; None if the API refused.
    :param effect: a sentence about the effect.
    """

    operation: Operation | None
    effect: str


def cancel(hook: DicomStoreHook, operation_name: str) -> Cancellation:
    """
    Cancel an Operation, in any thread.

    :param hook: a hook, which another thread may use at the same time.
    :param operation_name: the full name of the Operation.
    """
    try:
        # Another thread needs an HTTP session of its own; the connection and the credentials are loaded.
        twin = copy.copy(hook)
        twin.__dict__.pop("_transport", None)
        with twin:
            operation = twin.cancel_and_confirm(operation_name)
            return Cancellation(operation, describe_cancellation(operation))
    except Exception as error:  # credentials may raise anything, and the effect has to be known
        return Cancellation(None, f"{operation_name} could not be cancelled and may go on: {error}")


def _may_run(request: ApiRequest) -> str:
    return (
        f"The API may have accepted the request to {request.action}, and the operation may go on; the "
        f"dataset's operations show it: {request.dataset.list_operations_command}"
    )
