"""An operator whose Operation is cancelled when the task is killed on its worker; see ``_kill.py``."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom.compat import context_not_resumed_in, task_state
from airflow_provider_dicom.exceptions import DicomExportError
from airflow_provider_dicom.operators._base import PollingOperator
from airflow_provider_dicom.operators._kill import Cancellation, KillGuard, cancel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from typing import Any, Never

    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_dicom.compat import TaskInstanceKey
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook


class KillableOperator(PollingOperator):
    """An operator that submits, resumes and waits under a guard, which the hook and deferrals know."""

    cancel_on_kill: bool

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_resumed = False
        self._is_told_to_end = False
        self._current_guard: KillGuard | None = None

    @contextmanager
    def _guarded(self, context: Context) -> Iterator[KillGuard]:
        """Cancel the Operation if the task is killed meanwhile; nested calls share one guard."""
        if self._current_guard is not None:
            yield self._current_guard
            return
        task = cast("TaskInstanceKey", context["ti"])
        guard = KillGuard(
            partial(task_state, task), cancels=self.cancel_on_kill, note=self._note_on_twins, log=self.log
        )
        try:
            with guard:
                self._current_guard = guard
                if self._is_told_to_end:
                    guard.request()
                yield guard
        finally:
            self._current_guard = None
            self._is_told_to_end = False

    @property
    def _guard(self) -> KillGuard:
        if self._current_guard is None:
            raise AssertionError("no guard")
        return self._current_guard

    def hook(self) -> DicomStoreHook:
        """Build the hook, which also cancels the Operation if the task is killed."""
        hook = super().hook()
        if self._current_guard is not None:
            self._current_guard.use(hook)
        return hook

    def defer(
        self,
        *,
        trigger: BaseTrigger,
        method_name: str,
        kwargs: dict[str, Any] | None = None,
        timeout: timedelta | float | None = None,
    ) -> Never:
        """
        Defer, unless the task was ended: Airflow tells a worker about that with a heartbeat, or never.

        :param trigger: as in Airflow.
        :param method_name: as in Airflow.
        :param kwargs: as in Airflow.
        :param timeout: as in Airflow, in seconds.
        :raises DicomExportCancelledError: if the task was ended.
        """
        if self._current_guard is not None:
            self._current_guard.check(asks=True)
        super().defer(trigger=trigger, method_name=method_name, kwargs=kwargs, timeout=timeout)
        raise AssertionError("defer() returned")

    def on_kill(self) -> None:
        """
        Cancel the Operation that this task has submitted or waits for, unless only its worker is stopping.

        Airflow calls this method in a signal handler: all that takes time is up to the guard's thread.
        """
        self._is_told_to_end = True
        if self._current_guard is not None:
            self._current_guard.request()
        elif not self._is_resumed and (context := context_not_resumed_in()) is not None:
            operation_name = self._deferred_operation(context)
            if operation_name is not None and self.cancel_on_kill:
                self.log.info(self._cancel(operation_name).effect)

    def _deferred_operation(self, context: Context) -> str | None:
        """Return the name of the Operation that a deferred task waits for."""
        raise NotImplementedError

    def _cancel(self, operation_name: str) -> Cancellation:
        try:
            hook = self.hook()
        except DicomExportError as error:
            return Cancellation(None, f"{operation_name} could not be cancelled and may go on: {error}")
        return cancel(hook, operation_name)

    def _note_on_twins(self) -> str:
        """Return a sentence about submissions without a reply, which no kill can cancel; or nothing."""
        return ""
