"""What Airflow does around a task, in the way of the version that is installed."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, timeout
from airflow.triggers.base import BaseTrigger

from rig.releases import chosen_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from airflow.providers.common.compat.sdk import BaseOperator

    from tests.support.provider_rig import Run

IS_AIRFLOW_2 = chosen_release().is_second

if IS_AIRFLOW_2:
    from airflow.models.taskinstance import set_current_context
    from airflow.models.xcom import XCom
else:
    from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
    from airflow.sdk.execution_time.context import set_current_context
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from airflow.sdk.execution_time.xcom import XCom

try:
    from airflow.sdk.execution_time.task_runner import _run_execute_callable
except ImportError:
    _run_execute_callable = None

__all__ = [
    "XCom",
    "attach",
    "end_deferral",
    "execute",
    "say_state",
    "set_current_context",
]


def execute(task: BaseOperator, run: Run) -> Any:
    """Execute a task under its ``execution_timeout``."""
    if _run_execute_callable is not None:
        return _run_execute_callable(run.context, task.execute, task)
    # Before Airflow 3.3 it is in the middle of something longer.
    assert task.execution_timeout is not None
    try:
        with timeout(task.execution_timeout.total_seconds()):
            return task.execute(run.context)
    except AirflowTaskTimeout:
        task.on_kill()
        raise


def end_deferral(task: BaseOperator, run: Run, *, timed_out: bool) -> Any:
    """Resume a task whose trigger took too long, or crashed."""
    if IS_AIRFLOW_2:
        error = "Trigger/execution timeout" if timed_out else "Trigger failure"
        return task.resume_execution("__fail__", {"error": error}, run.context)
    reason = TriggerFailureReason.TRIGGER_TIMEOUT if timed_out else TriggerFailureReason.TRIGGER_FAILURE
    return task.resume_execution(TRIGGER_FAIL_REPR, {"error": reason}, run.context)


def say_state(monkeypatch: pytest.MonkeyPatch, state: str, operation_name: str | None) -> Any:
    """Make Airflow say that a task is in a state and has an XCom, and return the task's key."""
    if IS_AIRFLOW_2:
        # It asks the database itself.
        @contextlib.contextmanager
        def session() -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(scalar=lambda _: state)

        monkeypatch.setattr("airflow.utils.session.create_session", session)
    else:
        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda **_: {"run": {"export_7": state}})
    monkeypatch.setattr(XCom, "get_one", lambda **_: operation_name)
    return SimpleNamespace(dag_id="dag", run_id="run", task_id="export", map_index=7)


def attach(trigger: BaseTrigger, task: Any) -> None:
    """Tell a trigger whose it is, and no more than that."""
    # Where it is a property, setting it asks more of a task than it has here.
    name = "_task_instance" if hasattr(BaseTrigger, "task_instance") else "task_instance"
    setattr(trigger, name, task)
