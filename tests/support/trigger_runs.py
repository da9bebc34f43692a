"""Runs of a trigger as in a triggerer, and Airflow's data about the trigger's task."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger

from rig.releases import chosen_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

IS_AIRFLOW_2 = chosen_release().is_second

if IS_AIRFLOW_2:
    from airflow.models.xcom import XCom
else:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from airflow.sdk.execution_time.xcom import XCom

__all__ = ["XCom", "patch_task_state", "run_trigger", "set_task_instance"]

#: The longest time that a trigger may take, in seconds.
TRIGGER_TIMEOUT = 60.0


async def run_trigger(trigger: BaseTrigger) -> dict[str, Any]:
    """
    Run a trigger to its end, and return the payload of its only event as the task receives it.

    :param trigger: the trigger.
    """
    async with asyncio.timeout(TRIGGER_TIMEOUT):
        events = [event async for event in trigger.run()]
    (event,) = events
    payload: dict[str, Any] = json.loads(json.dumps(event.payload, default=str))
    return payload


def set_task_instance(trigger: BaseTrigger, task_instance: object) -> None:
    """
    Set the task instance of a trigger.

    :param trigger: the trigger.
    :param task_instance: the key of the task instance.
    """
    # Where it is a property, its setter needs more attributes than the key has.
    name = "_task_instance" if hasattr(BaseTrigger, "task_instance") else "task_instance"
    setattr(trigger, name, task_instance)


def patch_task_state(
    monkeypatch: pytest.MonkeyPatch, state: str, operation_name: str | None
) -> SimpleNamespace:
    """
    Let Airflow return a state and an XCom of a task instance, and return the key of that task instance.

    :param monkeypatch: pytest's fixture.
    :param state: the state.
    :param operation_name: the value of the XCom; None if there is none.
    """
    if IS_AIRFLOW_2:
        # The provider reads the state from the database.
        @contextlib.contextmanager
        def create_session() -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(scalar=lambda _: state)

        monkeypatch.setattr("airflow.utils.session.create_session", create_session)
    else:
        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda **_: {"run": {"export_7": state}})
    monkeypatch.setattr(XCom, "get_one", lambda **_: operation_name)
    return SimpleNamespace(dag_id="dag", run_id="run", task_id="export", map_index=7)
