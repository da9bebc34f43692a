"""Runs of a task with its tries, deferrals and resumptions, and with what Airflow keeps between them."""

from __future__ import annotations

import asyncio
import functools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred, timeout

from airflow_provider_dicom.operators.dicom_store import STATE_KEY
from rig.releases import chosen_release
from rig.triggers import through_the_database
from tests.support.trigger_runs import run_trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.providers.common.compat.sdk import BaseOperator

IS_AIRFLOW_2 = chosen_release().is_second

if IS_AIRFLOW_2:
    from airflow.exceptions import AirflowRescheduleException
    from airflow.models.taskinstance import set_current_context  # type: ignore[attr-defined]
else:
    from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
    from airflow.sdk.execution_time.context import set_current_context

    try:
        from airflow.sdk.exceptions import AirflowRescheduleException
    except ImportError:  # Airflow 3.1
        from airflow.exceptions import AirflowRescheduleException

try:
    from airflow.sdk.execution_time.task_runner import _run_execute_callable
except ImportError:
    _run_execute_callable = None

__all__ = [
    "FakeTaskInstance",
    "TaskRun",
    "TaskStateStore",
    "both_modes",
    "records_in",
    "set_current_context",
]

#: Runs a test with a task that defers, and with one that polls on the worker.
both_modes = pytest.mark.parametrize(
    "deferrable", [pytest.param(True, id="deferred"), pytest.param(False, id="on_worker")]
)


@dataclass
class FakeTaskInstance:
    """The part of a task instance that the provider uses."""

    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "export"
    map_index: int = -1
    try_number: int = 1
    start_date: datetime = field(default_factory=lambda: datetime.now(UTC))
    next_method: str | None = None
    first_reschedule: datetime | None = None
    xcoms: dict[str, Any] = field(default_factory=dict)

    def get_first_reschedule_date(self, context: object) -> datetime | None:
        """Return the time of a sensor's first reschedule."""
        del context
        return self.first_reschedule

    def xcom_push(self, key: str, value: object) -> None:
        """Store an XCom; like Airflow, as JSON."""
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> object:
        """Return an XCom of this task instance, or None."""
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)


class TaskStateStore:
    """Airflow's ``task_state_store``: JSON values that outlive a try."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: object = None) -> Any:
        """Return a value."""
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        """Store a value."""
        self.values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        """Delete a value."""
        self.values.pop(key, None)


def records_in(value: Any) -> list[dict[str, Any]]:
    """
    Return the records in a value of the task state, which may be a record itself.

    :param value: the value.
    """
    return [value] if "operation_name" in value else list(value.values())


class TaskRun:
    """
    One task instance with its tries, its XComs, its task state, and all its deferrals and events.

    :param ti: attributes of the task instance.
    """

    def __init__(self, **ti: Any) -> None:
        self.ti = FakeTaskInstance(**ti)
        # Airflow's Context, which has dozens of keys that the provider does not read.
        self.context: Any = {"ti": self.ti, "task_state_store": TaskStateStore()}
        self.deferrals: list[TaskDeferred] = []
        self.events: list[dict[str, Any]] = []

    @property
    def record(self) -> dict[str, Any]:
        """The only record of a submission in the task state."""
        (record,) = self._records().values()
        return dict(record)

    def change_record(self, **changes: Any) -> None:
        """
        Change the only record of a submission in the task state.

        :param changes: the changes.
        """
        ((key, record),) = self._records().items()
        self.context["task_state_store"].set(STATE_KEY, {key: record | changes})

    def _records(self) -> dict[str, Any]:
        # Imported where it is used: release 0.1.0, which runs steps of this module as well, does not have it.
        from airflow_provider_dicom.operators._submission_record import SubmissionRecords

        records: Any = SubmissionRecords(self.context["task_state_store"], STATE_KEY).read()
        return dict(records)

    @property
    def operation_name(self) -> str:
        """The XCom with the Operation's name."""
        return str(self.ti.xcoms["operation_name"])

    def run(self, task: BaseOperator, *, delivers: bool = True) -> Any:
        """
        Run a try to its end with all its triggers, and return the task's return value.

        :param task: the task.
        :param delivers: the worker lives long enough to end the task, and not only its own code.
        """
        return self._run_to_end(task, functools.partial(task.execute, self.context), delivers=delivers)

    def resume(self, task: BaseOperator, deferral: TaskDeferred, event: object) -> Any:
        """
        Resume a deferred task with an event, and run it to its end.

        :param task: the task.
        :param deferral: the deferral that the event ends.
        :param event: the payload of the trigger's event.
        """
        return self._run_to_end(task, self._resumption(task, deferral, event))

    def _run_to_end(self, task: BaseOperator, step: Callable[[], Any], *, delivers: bool = True) -> Any:
        while True:
            try:
                result = step()
                if delivers:
                    # Airflow 3 leaves the result out.
                    task.post_execute(self.context)
                return result
            except TaskDeferred as deferral:
                self.deferrals.append(deferral)
                event = asyncio.run(run_trigger(through_the_database(deferral.trigger)))
                self.events.append(event)
                step = self._resumption(task, deferral, event)

    def _resumption(self, task: BaseOperator, deferral: TaskDeferred, event: object) -> Callable[[], Any]:
        # Like Airflow, as JSON.
        kwargs = {**json.loads(json.dumps(deferral.kwargs or {})), "event": event}
        return functools.partial(task.resume_execution, deferral.method_name, kwargs, self.context)

    def begin_next_try(self) -> None:
        """Begin the next try, for a retry or after a clear; Airflow has deleted the XComs of the last one."""
        self.ti.try_number += 1
        self.ti.xcoms.clear()

    def run_until_deferred(self, task: BaseOperator) -> TaskDeferred:
        """
        Run a try until it defers, and return the deferral.

        :param task: the task.
        """
        with pytest.raises(TaskDeferred) as deferral:
            task.execute(self.context)
        return deferral.value

    def resume_until_deferred(
        self, task: BaseOperator, deferral: TaskDeferred, event: Mapping[str, object]
    ) -> TaskDeferred:
        """
        Resume a deferred task with an event, and return its next deferral.

        :param task: the task.
        :param deferral: the deferral that the event ends.
        :param event: the payload of the trigger's event.
        """
        kwargs = {**(deferral.kwargs or {}), "event": event}
        with pytest.raises(TaskDeferred) as next_deferral:
            task.resume_execution(deferral.method_name, kwargs, self.context)
        return next_deferral.value

    def run_with_reschedules(self, task: BaseOperator) -> Any:
        """
        Run a sensor's try to its end with all its triggers and reschedules, each step under Airflow's alarm.

        :param task: the sensor.
        """
        step: Callable[..., Any] = task.execute
        while True:
            try:
                return self.run_under_timeout(task, step)
            except AirflowRescheduleException:
                self.ti.first_reschedule = self.ti.first_reschedule or datetime.now(UTC)
            except TaskDeferred as deferral:
                event = asyncio.run(run_trigger(through_the_database(deferral.trigger)))
                kwargs = {**(deferral.kwargs or {}), "event": event}
                step = functools.partial(task.resume_execution, deferral.method_name, kwargs)

    def run_under_timeout(self, task: BaseOperator, step: Callable[..., Any] | None = None) -> Any:
        """
        Run a try that does not defer, while Airflow's alarm enforces its ``execution_timeout``.

        :param task: the task.
        :param step: what is run instead of ``execute``; it is given the context.
        """
        step = step or task.execute
        if _run_execute_callable is not None:
            return _run_execute_callable(self.context, step, task)
        # Before Airflow 3.3 this is a part of a longer function.
        if task.execution_timeout is None:
            return step(context=self.context)
        try:
            with timeout(task.execution_timeout.total_seconds()):
                return step(context=self.context)
        except AirflowTaskTimeout:
            task.on_kill()
            raise

    def end_deferral(self, task: BaseOperator, *, timed_out: bool) -> Any:
        """
        Resume a task as Airflow does when the deferral timed out, or when the trigger raised an error.

        :param task: the task.
        :param timed_out: whether the deferral timed out.
        """
        if IS_AIRFLOW_2:
            error = "Trigger/execution timeout" if timed_out else "Trigger failure"
            return task.resume_execution("__fail__", {"error": error}, self.context)
        reason = TriggerFailureReason.TRIGGER_TIMEOUT if timed_out else TriggerFailureReason.TRIGGER_FAILURE
        return task.resume_execution(TRIGGER_FAIL_REPR, {"error": reason}, self.context)
