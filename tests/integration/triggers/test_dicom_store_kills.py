"""Kills of a deferred task cancel the Operation; a hand-over to another triggerer does not."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.triggers import _shared_poller
from airflow_provider_dicom.triggers import dicom_store as trigger_module
from tests.support.healthcare_requests import request_count
from tests.support.trigger_runs import run_trigger
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from rig.control import Control
    from tests.integration.triggers.conftest import ExportSubmitter, TaskTriggerFactory, TriggerFactory

pytestmark = pytest.mark.usefixtures("quick")


class Questions:
    """
    The answers of an Airflow that cannot be asked for a while.

    :param state: the state of the task.
    :param unanswered: the number of questions that fail.
    :param after: how long a question takes to fail, in seconds.
    """

    def __init__(self, state: str, *, unanswered: int, after: float = 0.0) -> None:
        self.count = 0
        self._state, self._unanswered, self._after = state, unanswered, after

    def __call__(self) -> str:
        """Answer, or fail."""
        self.count += 1
        if self.count > self._unanswered:
            return self._state
        time.sleep(self._after)
        raise RuntimeError("no answer")


@pytest.mark.parametrize("state", ["failed", "success", "running", "up_for_retry"])
async def test_kill_cancels_the_operation(
    state: str,
    trigger: TriggerFactory,
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
) -> None:
    control.settings(advance="manual")
    name = submit()
    await task_trigger(name, state=state).on_kill()
    assert (await run_trigger(trigger(name, deadline=time.time() + 30)))["status"] == "cancelled"


@pytest.mark.parametrize("same", [True, False], ids=["same_operation", "another_operation"])
async def test_clear_cancels_the_operation_unless_the_task_is_deferred_for_it(
    same: bool, task_trigger: TaskTriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    name = submit()
    await task_trigger(name, state="deferred", xcom=name if same else submit()).on_kill()
    assert request_count(control, "operations.cancel") == (not same)
    control.step()


async def test_cancellation_outlives_an_on_kill_that_airflow_cancels(
    trigger: TriggerFactory, task_trigger: TaskTriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    name = submit()
    control.fault("operations.cancel", latency_seconds=1.0, count=1)
    kill = asyncio.create_task(task_trigger(name, state="failed").on_kill())
    await wait_until(lambda: request_count(control, "operations.cancel"))
    kill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await kill
    assert control.operation_state(name) == "RUNNING"
    assert (await run_trigger(trigger(name, deadline=time.time() + 30)))["status"] == "cancelled"


@pytest.mark.parametrize("state", ["failed", "deferred"])
async def test_cancelled_trigger_of_an_airflow_without_on_kill_cancels_only_a_killed_export(
    state: str,
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trigger_module, "_AIRFLOW_TELLS_KILLS", False)
    control.settings(advance="manual")
    running = asyncio.create_task(run_trigger(task_trigger(submit(), state=state)))
    await wait_until(lambda: request_count(control, "operations.get"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert request_count(control, "operations.cancel") == (state == "failed")
    assert not _shared_poller._pollers.get(asyncio.get_running_loop())
    control.step()


@pytest.mark.parametrize(
    ("state", "cancel_on_kill"),
    [
        pytest.param("deferred", True, id="handed_over"),
        pytest.param("failed", False, id="cancel_on_kill_off"),
    ],
)
async def test_hand_over_and_cancel_on_kill_false_cancel_nothing(
    state: str,
    cancel_on_kill: bool,
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
) -> None:
    control.settings(advance="manual")
    await task_trigger(submit(), state=state, cancel_on_kill=cancel_on_kill).on_kill()
    assert request_count(control, "operations.cancel") == 0
    control.step()


@pytest.mark.parametrize("state", ["failed", "deferred"])
async def test_airflow_is_asked_again_if_it_does_not_return_the_state_of_the_task(
    state: str,
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control.settings(advance="manual")
    monkeypatch.setattr(trigger_module, "STATE_PAUSES", (0.05, 0.05, 0.05))
    questions = Questions(state, unanswered=3)
    await task_trigger(submit(), state=questions).on_kill()
    assert questions.count == 4
    assert request_count(control, "operations.cancel") == (state == "failed")
    control.step()


async def test_question_without_an_answer_is_asked_again(
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control.settings(advance="manual")
    monkeypatch.setattr(trigger_module, "STATE_PAUSES", (0.05,))
    monkeypatch.setattr(trigger_module, "STATE_TIMEOUT", 0.2)
    questions = Questions("failed", unanswered=1, after=0.6)
    await task_trigger(submit(), state=questions).on_kill()
    assert questions.count == 2
    assert request_count(control, "operations.cancel") == 1


async def test_nothing_is_cancelled_if_airflow_never_returns_the_state_of_the_task(
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control.settings(advance="manual")
    name = submit()
    monkeypatch.setattr(trigger_module, "STATE_PAUSES", (0.05, 0.05))
    questions = Questions("failed", unanswered=9)
    await task_trigger(name, state=questions).on_kill()
    assert questions.count == 3
    assert request_count(control, "operations.cancel") == 0
    assert f"{name} could not be cancelled and may go on: no answer" in capsys.readouterr().out
    control.step()


async def test_refused_cancellation_is_logged(
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control.settings(advance="manual")
    name = submit()
    control.fault("operations.cancel", status=403)
    await task_trigger(name, state="failed").on_kill()
    assert f"{name} could not be cancelled and may go on" in capsys.readouterr().out
    control.step()


async def test_cancellation_of_a_finished_operation_is_logged_as_too_late(
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control.settings(advance="manual")
    name = submit()
    control.step(name)
    control.fault("operations.cancel", status=400, message="The operation has already completed.")
    await task_trigger(name, state="failed").on_kill()
    assert "had ended before it could be cancelled" in capsys.readouterr().out
