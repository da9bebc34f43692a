"""The trigger's only event and its log lines, for every end of an Operation."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.longrunning import polling
from airflow_provider_dicom.triggers import _shared_poller
from rig.ports import free_port
from tests.support.healthcare_requests import request_count
from tests.support.trigger_runs import run_trigger
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from rig.control import Control
    from tests.integration.triggers.conftest import ExportSubmitter, TriggerFactory

pytestmark = pytest.mark.usefixtures("quick")


def has_poller() -> bool:
    """Tell whether a poller of this event loop is open."""
    return bool(_shared_poller._pollers.get(asyncio.get_running_loop()))


async def test_finished_operation_ends_in_a_success_event(
    trigger: TriggerFactory, submit: ExportSubmitter
) -> None:
    name = submit()
    event = await run_trigger(trigger(name))
    assert (event["status"], event["message"]) == ("success", None)
    assert event["operation"]["name"] == name
    assert event["operation"]["metadata"]["counter"] == {"success": "3"}
    assert set(event) == {"status", "operation", "message"}


async def test_failed_operation_ends_in_an_error_event(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    event = await run_trigger(trigger(submit()))
    assert (event["status"], event["message"]) == ("error", "internal trouble")
    assert event["operation"]["error"]["code"] == 13


async def test_cancelled_operation_ends_in_a_cancelled_event(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, hook: DicomStoreHook
) -> None:
    control.settings(advance="manual")
    name = submit()
    hook.cancel_operation(name)
    event = await run_trigger(trigger(name))
    assert event["status"] == "cancelled"
    assert event["operation"]["error"]["code"] == 1


async def test_passed_deadline_ends_in_a_timeout_event_without_a_cancellation(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    name = submit()
    control.step(name, 1)
    event = await run_trigger(trigger(name, deadline=time.time() + 1))
    assert event["status"] == "timeout"
    assert name in event["message"]
    assert event["operation"]["name"] == name
    assert event["operation"]["metadata"]["counter"] == {"success": "1", "pending": "2"}
    assert request_count(control, "operations.cancel") == 0, "whether to cancel is the task's decision"
    control.step()


async def test_deadline_holds_while_the_api_does_not_respond(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shared_poller, "LATE_RESPONSE", 0.2)
    name = submit()
    control.fault("*", latency_seconds=20.0)
    start = time.monotonic()
    event = await run_trigger(trigger(name, deadline=time.time() + 0.3))
    assert event["status"] == "timeout"
    assert time.monotonic() - start < 15


async def test_unreachable_api_ends_in_an_error_event(
    trigger: TriggerFactory, submit: ExportSubmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "UNREACHABLE_TIMEOUT", 0.3)
    name = submit()
    start = time.monotonic()
    event = await run_trigger(trigger(name, api_endpoint=f"http://127.0.0.1:{free_port()}"))
    assert time.monotonic() - start >= 0.3
    assert event["status"] == "error"
    assert event["operation"] == {"name": name}
    assert "no response" in event["message"]


async def test_trigger_sends_only_gets_and_lists(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    name = submit()
    control.reset_requests()
    for _ in range(3):
        assert (await run_trigger(trigger(name)))["status"] == "success"
    polls = request_count(control, "operations.get", "operations.list")
    assert request_count(control) == polls >= 3


async def test_cancelled_trigger_closes_poller_session_and_tasks(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    name = submit()
    before = asyncio.all_tasks()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        running = asyncio.create_task(run_trigger(trigger(name)))
        await wait_until(lambda: request_count(control, "operations.get"))
        assert has_poller()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await wait_until(lambda: asyncio.all_tasks() == before)
        gc.collect()
    assert not has_poller()
    control.step()


async def test_invalid_operation_name_ends_in_an_error_event_and_opens_no_poller(
    trigger: TriggerFactory,
) -> None:
    event = await run_trigger(trigger("operations/1"))
    assert event["status"] == "error"
    assert "operations/1" in event["message"]
    assert not has_poller()


async def test_two_triggers_may_follow_one_operation(
    trigger: TriggerFactory, submit: ExportSubmitter
) -> None:
    name = submit()
    events = await asyncio.gather(*(run_trigger(trigger(name)) for _ in range(2)))
    assert [event["operation"]["name"] for event in events] == [name, name]
    assert [event["status"] for event in events] == ["success", "success"]


async def test_log_has_one_line_for_each_change_of_the_counters(
    trigger: TriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control.settings(advance="manual")
    name = submit()
    lines: list[str] = []

    def is_logged(text: str) -> bool:
        # Airflow's own loggers write to standard output.
        lines.extend(line for line in capsys.readouterr().out.splitlines() if "Export running" in line)
        return any(text in line for line in lines)

    def polls() -> int:
        return request_count(control, "operations.get")

    running = asyncio.create_task(run_trigger(trigger(name)))
    for done in range(3):
        await wait_until(lambda done=done: is_logged(f"{done} exported, 0 failed, {3 - done} pending"))  # type: ignore[misc]
        later = polls() + 5
        await wait_until(lambda later=later: polls() > later)  # type: ignore[misc]
        await asyncio.to_thread(control.step, name, 1)
    assert (await running)["status"] == "success"
    is_logged("")
    assert len(lines) == 3
    assert all(name in line for line in lines)
    assert polls() > 15
