"""
Differences between the supported Airflow versions that common-compat does not cover, and Airflow's protocols.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

from airflow.providers.common.compat.sdk import AirflowException, BaseOperatorLink, Context

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef]

    try:
        from airflow.exceptions import TaskDeferralTimeout  # type: ignore[no-redef]
    except ImportError:

        class TaskDeferralTimeout(Exception):  # type: ignore[no-redef]  # noqa: N818 - Airflow 3's name
            """
            Stands in for Airflow 3's class; Airflow 2 raises ``TaskDeferralError`` with a message instead.
            """


try:
    from airflow.sdk.definitions.asset import AssetRef
except ImportError:

    class AssetRef:  # type: ignore[no-redef]
        """Stands in for Airflow 3's references to assets; Airflow 2 has none."""


try:
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
except ImportError:  # Airflow 2
    from airflow.models.mappedoperator import OperatorPartial  # type: ignore[import-not-found,no-redef]
    from airflow.utils.mixins import ResolveMixin  # type: ignore[import-not-found,no-redef]

#: Airflow 2 cannot show a plugin's page beside a task's log.
HAS_TASK_VIEWS = find_spec("airflow.sdk") is not None
#: Airflow 3.3 keeps values between the tries of a task.
HAS_TASK_STATE = "task_state_store" in getattr(Context, "__annotations__", {})
#: Airflow 3 builds a task's extra links on the worker and stores them; Airflow 2 builds them in the web
#: server, where the task's templates are not rendered.
BUILDS_LINKS_ON_WORKER = hasattr(BaseOperatorLink, "xcom_key")

__all__ = [
    "BUILDS_LINKS_ON_WORKER",
    "HAS_TASK_STATE",
    "HAS_TASK_VIEWS",
    "AssetRef",
    "Log",
    "OperatorPartial",
    "ResolveMixin",
    "TaskDeferralError",
    "TaskDeferralTimeout",
    "TaskInstance",
    "TaskInstanceKey",
    "context_not_resumed_in",
    "is_deferral_timeout",
    "push_value",
    "pushed_value",
    "read_variable",
    "task_state",
]

_TIMEOUT_IN_AIRFLOW_2 = "Trigger/execution timeout"


def is_deferral_timeout(error: Exception) -> bool:
    """
    Distinguish a deferral that timed out from a deferral whose trigger failed.

    :param error: the error that Airflow raised instead of resuming the task.
    """
    return isinstance(error, TaskDeferralTimeout) or str(error) == _TIMEOUT_IN_AIRFLOW_2


def context_not_resumed_in() -> Context | None:
    """
    Return the context of a task that Airflow 2 kills instead of resuming it; None in all other cases.

    Airflow 2 calls nothing but ``on_kill`` of a task whose ``execution_timeout`` passed during its deferral.
    """
    from airflow.providers.common.compat.sdk import get_current_context

    try:
        context = get_current_context()
    except (AirflowException, RuntimeError):  # no task is running
        return None
    return context if getattr(context["ti"], "next_method", None) else None


class Log(Protocol):
    """The methods that the loggers of all Airflow versions share."""

    def info(self, message: str, /, *args: object) -> None:
        """Log a change."""

    def warning(self, message: str, /, *args: object) -> None:
        """Log a problem."""


class TaskInstance(Protocol):
    """The part of a running task instance that this provider uses."""

    def xcom_push(self, key: str, value: object) -> None:
        """Write an XCom."""


class TaskInstanceKey(Protocol):
    """The identity of a task instance, the same in all versions."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def task_state(task: TaskInstanceKey) -> str | None:
    """
    Return a task's state from Airflow; in triggers, off their event loop; on workers, never in a signal
    handler.

    :param task: the task instance.
    """
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        return _task_state_in_database(task)
    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
    )
    # The answer holds one task instance; its key is the task's id, followed by the map index if there is one.
    return next(iter(states.get(task.run_id, {}).values()), None)


def pushed_value(task: TaskInstanceKey, key: str) -> object:
    """
    Return the value of a task's XCom, or None if there is none; for triggers, and off their event loop.

    :param task: the task instance.
    :param key: the XCom's key.
    """
    try:
        from airflow.sdk.execution_time.xcom import XCom
    except ImportError:  # Airflow 2
        from airflow.models.xcom import XCom  # type: ignore[no-redef]
    value: object = XCom.get_one(
        key=key, dag_id=task.dag_id, task_id=task.task_id, run_id=task.run_id, map_index=task.map_index
    )
    return value


def push_value(task: TaskInstanceKey, key: str, value: object) -> None:
    """
    Write an XCom of a task; for triggers of Airflow 3, and off their event loop.

    :param task: the task instance.
    :param key: the XCom's key.
    :param value: the XCom's value.
    """
    from airflow.sdk.execution_time.xcom import XCom

    XCom.set(
        key=key,
        value=value,
        dag_id=task.dag_id,
        task_id=task.task_id,
        run_id=task.run_id,
        map_index=task.map_index,
    )


def read_variable(name: str) -> str | None:
    """
    Return the value of an Airflow Variable, or None if there is none.

    :param name: the Variable's name.
    """
    from airflow.providers.common.compat.sdk import Variable

    # The second parameter's name differs between the versions.
    value: str | None = Variable.get(name, None)
    return value


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
