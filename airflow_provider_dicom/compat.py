"""What differs between the Airflow versions supported, and is not in common-compat."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from airflow.providers.common.compat.sdk import AirflowException, BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef]

    try:
        from airflow.exceptions import TaskDeferralTimeout  # type: ignore[no-redef]
    except ImportError:

        class TaskDeferralTimeout(Exception):  # type: ignore[no-redef]  # noqa: N818 - Airflow 3's name
            """Airflow 2 has no such class: it raises a ``TaskDeferralError`` that says so."""


#: Airflow 2 cannot show a page of a plugin beside a task's log.
HAS_TASK_VIEWS = find_spec("airflow.sdk") is not None
#: Airflow 3 builds a task's links on its worker and stores them; Airflow 2 builds them in the web server,
#: where the task's templates are not rendered.
BUILDS_LINKS_ON_WORKER = hasattr(BaseOperatorLink, "xcom_key")

__all__ = [
    "BUILDS_LINKS_ON_WORKER",
    "HAS_TASK_VIEWS",
    "TaskDeferralError",
    "TaskDeferralTimeout",
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
    Tell a deferral that took too long from one whose trigger failed.

    :param error: what Airflow raised instead of resuming the task.
    """
    return isinstance(error, TaskDeferralTimeout) or str(error) == _TIMEOUT_IN_AIRFLOW_2


def context_not_resumed_in() -> Context | None:
    """
    Find the context of a task that Airflow 2 kills instead of resuming it; None in all other cases.

    A task whose ``execution_timeout`` passed while it was deferred is only told by ``on_kill`` there.
    """
    from airflow.providers.common.compat.sdk import get_current_context

    try:
        context = get_current_context()
    except (AirflowException, RuntimeError):  # nothing is being run
        return None
    return context if getattr(context["ti"], "next_method", None) else None


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


def pushed_value(task: TaskInstanceKey, key: str) -> object:
    """
    Read an XCom of a task, or None if there is none; for triggers, and off their event loop.

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
    :param value: what to write.
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
    Read an Airflow Variable, or None if there is none.

    :param name: the Variable's name.
    """
    from airflow.providers.common.compat.sdk import Variable

    # The second parameter has another name in each version.
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
