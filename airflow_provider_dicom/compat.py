"""What differs between the Airflow versions supported, and is not in common-compat."""

from __future__ import annotations

from typing import Protocol

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef]

    try:
        from airflow.exceptions import TaskDeferralTimeout  # type: ignore[no-redef]
    except ImportError:

        class TaskDeferralTimeout(Exception):  # type: ignore[no-redef]  # noqa: N818 - Airflow 3's name
            """Airflow 2 has no such class: it raises a ``TaskDeferralError`` that says so."""


__all__ = [
    "TaskDeferralError",
    "TaskDeferralTimeout",
    "TaskInstanceKey",
    "is_deferral_timeout",
    "task_state",
]

_TIMEOUT_IN_AIRFLOW_2 = "Trigger/execution timeout"


def is_deferral_timeout(error: Exception) -> bool:
    """
    Tell a deferral that took too long from one whose trigger failed.

    :param error: what Airflow raised instead of resuming the task.
    """
    return isinstance(error, TaskDeferralTimeout) or str(error) == _TIMEOUT_IN_AIRFLOW_2


class TaskInstanceKey(Protocol):
    """The part of a task instance that tells it from all others, in all versions."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def task_state(task: TaskInstanceKey) -> str | None:
    """
    Ask Airflow for a task's state; for triggers, and off their event loop.

    :param task: the task instance.
    """
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        return _task_state_in_database(task)
    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
    )
    # One task instance was asked for; the key is the task's id, with the index behind it if it is mapped.
    return next(iter(states.get(task.run_id, {}).values()), None)


def _task_state_in_database(task: TaskInstanceKey) -> str | None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        state: str | None = session.scalar(
            select(TaskInstance.state).where(
                TaskInstance.dag_id == task.dag_id,
                TaskInstance.run_id == task.run_id,
                TaskInstance.task_id == task.task_id,
                TaskInstance.map_index == task.map_index,
            )
        )
    return state
