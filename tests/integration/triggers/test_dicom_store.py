"""The trigger: one event, whatever happens; many of them on one loop share polls, not troubles."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from airflow_provider_dicom.longrunning import poll_schedule, polling, progress
from airflow_provider_dicom.triggers import _shared_poller
from airflow_provider_dicom.triggers import dicom_store as module
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from rig.servers import free_port
from tests.support.around_tasks import XCom, attach, say_state
from tests.support.provider_rig import LoopProbe, fire

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def submit(anonymous: str, healthcare: HealthcareEmulator, store: DicomStoreName, bucket: str) -> Any:
    """Submits an export of ``store`` and returns the Operation's name."""

    def submit() -> str:
        with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
            return hook.export(store, ExportRequest(destination=f"gs://{bucket}/out"))["name"]

    return submit


@pytest.fixture
def trigger(anonymous: str, healthcare: HealthcareEmulator) -> Any:
    """Builds triggers with the test's connection."""

    def build(name: str, **changes: Any) -> DicomStoreExportTrigger:
        arguments = {"gcp_conn_id": anonymous, "api_endpoint": healthcare.url, "poll_interval": 0.05}
        return DicomStoreExportTrigger(name, **(arguments | changes))

    return build


def counts(control: Control) -> dict[str, int]:
    return dict(control.requests()["counts"])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


async def test_success(trigger: Any, submit: Any, instances: list[Uids]) -> None:
    name = submit()
    event = await fire(trigger(name))
    assert (event["status"], event["message"]) == ("success", None)
    assert event["operation"]["name"] == name
    assert event["operation"]["metadata"]["counter"] == {"success": "3"}
    assert set(event) == {"status", "operation", "message"}


async def test_error(trigger: Any, submit: Any, instances: list[Uids], control: Control) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    event = await fire(trigger(submit()))
    assert (event["status"], event["message"]) == ("error", "internal trouble")
    assert event["operation"]["error"]["code"] == 13


async def test_cancelled(
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    anonymous: str,
    healthcare: HealthcareEmulator,
) -> None:
    control.settings(advance="manual")
    name = submit()
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        hook.cancel_operation(name)
    event = await fire(trigger(name))
    assert event["status"] == "cancelled"
    assert event["operation"]["error"]["code"] == 1


async def test_timeout(trigger: Any, submit: Any, instances: list[Uids], control: Control) -> None:
    control.settings(advance="manual")
    name = submit()
    control.step(name, 1)
    event = await fire(trigger(name, deadline=time.time() + 1))
    assert event["status"] == "timeout"
    assert name in event["message"]
    assert event["operation"]["name"] == name
    assert event["operation"]["metadata"]["counter"] == {"success": "1", "pending": "2"}
    assert "operations.cancel" not in counts(control), "whether to cancel is the task's decision"
    control.step()


async def test_a_deadline_holds_while_the_api_hangs(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shared_poller, "LATE_RESPONSE", 0.2)
    name = submit()
    control.fault("*", latency_seconds=20.0)
    start = time.monotonic()
    event = await fire(trigger(name, deadline=time.time() + 1))
    assert event["status"] == "timeout"
    assert time.monotonic() - start < 15


async def test_patience_ends(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "UNREACHABLE_TIMEOUT", 1.0)
    name = submit()
    event = await fire(trigger(name, api_endpoint=f"http://127.0.0.1:{free_port()}"))
    assert event["status"] == "error"
    assert event["operation"] == {"name": name}
    assert "no response" in event["message"]


async def test_it_never_submits_or_cancels(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    name = submit()
    control.reset_requests()
    for _ in range(3):
        assert (await fire(trigger(name)))["status"] == "success"
    assert set(counts(control)) <= {"operations.get", "operations.list"}


async def test_a_cancelled_trigger_leaves_nothing_behind(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    name = submit()
    before = asyncio.all_tasks()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        running = asyncio.create_task(fire(trigger(name)))
        await until(lambda: counts(control).get("operations.get"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: asyncio.all_tasks() == before)
        gc.collect()
    assert not _shared_poller._pollers.get(asyncio.get_running_loop())
    control.step()


async def test_a_name_that_is_none_leaves_nothing_behind(trigger: Any) -> None:
    event = await fire(trigger("operations/1"))
    assert event["status"] == "error"
    assert "operations/1" in event["message"]
    assert not _shared_poller._pollers.get(asyncio.get_running_loop())


async def test_many_triggers_share_session_and_polls(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(30)]
    control.reset_requests()
    async with LoopProbe() as probe:
        running = [asyncio.create_task(fire(trigger(name))) for name in names]
        await until(lambda: counts(control).get("operations.list", 0) >= 3)
        await asyncio.to_thread(control.step)
        events = await asyncio.gather(*running)
    assert [event["operation"]["name"] for event in events] == names
    assert {event["status"] for event in events} == {"success"}
    seen = control.requests()
    assert seen["counts"].get("operations.get", 0) < 10 * len(names)
    assert seen["connections"] <= poll_schedule.MAX_CONNECTIONS
    assert probe.longest < 1.0


async def test_what_others_ask_does_not_end_a_deferral_early(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "FIRST_PAUSE", 600.0)
    control.settings(advance="manual", max_running_exports=10)
    others = [asyncio.create_task(fire(trigger(submit()))) for _ in range(3)]
    ended = submit()
    control.step(ended)
    task = asyncio.create_task(fire(trigger(ended, poll_interval=900.0)))
    lists = counts(control).get("operations.list", 0)
    await until(lambda: counts(control).get("operations.list", 0) >= lists + 5)
    assert not task.done(), "Airflow takes the end of a deferral of less than some seconds for a failure"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    control.step()
    assert [event["status"] for event in await asyncio.gather(*others)] == ["success"] * 3


async def test_without_permission_to_list_they_get(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(5)]
    control.fault("operations.list", status=403)
    control.reset_requests()
    running = [asyncio.create_task(fire(trigger(name))) for name in names]
    await until(lambda: counts(control).get("operations.get", 0) >= 10)
    await asyncio.to_thread(control.step)
    events = await asyncio.gather(*running)
    assert {event["status"] for event in events} == {"success"}
    assert counts(control)["operations.list"] == 1, "not asked for again and again"


async def test_one_trouble_is_nobody_elses(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, anonymous: str, connect: Any
) -> None:
    control.settings(advance="manual")
    good = submit()
    gone = f"{good.rpartition('/')[0]}/1"
    elsewhere = connect("elsewhere", is_anonymous=True)
    nobody = f"http://127.0.0.1:{free_port()}"
    running = asyncio.create_task(fire(trigger(good)))
    missing = await fire(trigger(gone))
    assert (missing["status"], missing["operation"]) == ("error", {"name": gone})
    late = await fire(trigger(good, gcp_conn_id=elsewhere, api_endpoint=nobody, deadline=time.time() + 0.5))
    assert late["status"] == "timeout"
    assert not running.done()
    await asyncio.to_thread(control.step)
    assert (await running)["status"] == "success"


async def test_the_end_of_one_subscriber_is_not_the_end_of_the_others(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    running = [asyncio.create_task(fire(trigger(name))) for name in names]
    await until(
        lambda: counts(control).get("operations.list", 0) + counts(control).get("operations.get", 0) > 3
    )
    running[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    await asyncio.to_thread(control.step)
    events = await asyncio.gather(*running[1:])
    assert [event["status"] for event in events] == ["success", "success"]


@pytest.mark.parametrize("route", ["operations.get", "operations.list"])
async def test_a_quota_slows_all_down_and_fails_none(
    route: str, trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(5)]
    if route == "operations.get":
        control.fault("operations.list", status=403)
    control.fault(route, status=429, count=10)
    running = [asyncio.create_task(fire(trigger(name))) for name in names]
    await until(lambda: any(f["fired"] == 10 for f in control.faults()["faults"]))
    await asyncio.to_thread(control.step)
    events = await asyncio.gather(*running)
    assert {event["status"] for event in events} == {"success"}


async def test_a_list_that_costs_more_than_gets_is_given_up(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        submit()
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    monkeypatch.setattr(_shared_poller, "PAGE_SIZE", 1)
    control.reset_requests()
    running = [asyncio.create_task(fire(trigger(name))) for name in names]
    await until(lambda: counts(control).get("operations.get", 0) >= 9)
    assert counts(control)["operations.list"] < len(names)
    await asyncio.to_thread(control.step)
    assert {event["status"] for event in await asyncio.gather(*running)} == {"success"}


async def test_what_the_list_does_not_show_is_asked_for_by_name(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    shown = [submit() for _ in range(3)]
    gone = f"{shown[0].rpartition('/')[0]}/1"
    running = [asyncio.create_task(fire(trigger(name))) for name in shown]
    missing = await fire(trigger(gone))
    assert (missing["status"], missing["operation"]) == ("error", {"name": gone})
    assert counts(control)["operations.list"] >= 3
    # The others may be asked for by name, too, while they are not due at the same time yet.
    asked = [request["path"].endswith(gone) for request in control.requests()["recent"]]
    assert sum(asked) == polling.MAX_CONSECUTIVE_ERRORS
    await asyncio.to_thread(control.step)
    assert {event["status"] for event in await asyncio.gather(*running)} == {"success"}


@pytest.mark.parametrize("body", ["truncated", "html", "empty"])
@pytest.mark.parametrize("route", ["operations.get", "operations.list"])
async def test_garbage_costs_nobody_a_task(
    body: str, route: str, trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    if route == "operations.get":
        control.fault("operations.list", status=403)
    control.fault(route, body=body, count=5)
    running = [asyncio.create_task(fire(trigger(name))) for name in names]
    await until(lambda: any(f["fired"] == 5 for f in control.faults()["faults"]))
    await asyncio.to_thread(control.step)
    assert {event["status"] for event in await asyncio.gather(*running)} == {"success"}


async def test_each_line_is_said_in_the_context_of_its_trigger(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose")
    said: list[tuple[str, str]] = []

    class Log:
        def info(self, message: str, /, *args: object) -> None:
            said.append((whose.get("nobody"), str(args[-1])))

        warning = info

    async def follow(name: str) -> Any:
        whose.set(name)
        return await fire(trigger(name))

    monkeypatch.setattr(DicomStoreExportTrigger, "log", Log())
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    running = [asyncio.create_task(follow(name)) for name in names]
    await until(lambda: len(said) >= len(names))
    await asyncio.to_thread(control.step)
    await asyncio.gather(*running)
    assert {name for name, _ in said} == set(names)
    assert all(name == about for name, about in said)


async def test_gets_are_spread_over_time(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_schedule, "TICK_SECONDS", 0.5)
    monkeypatch.setattr(poll_schedule, "MAX_GETS_PER_SECOND", 4.0)
    monkeypatch.setattr(poll_schedule, "MAX_SWEEP_SECONDS", 1000.0)
    control.settings(advance="manual")
    control.fault("operations.list", status=403)
    names = [submit() for _ in range(6)]
    control.reset_requests()
    start = time.monotonic()
    running = [asyncio.create_task(fire(trigger(name))) for name in names]
    await until(lambda: counts(control).get("operations.get", 0) >= 6)
    assert time.monotonic() - start >= 2 * 0.5, "two at each of three rings"
    await asyncio.to_thread(control.step)
    await asyncio.gather(*running)


async def test_two_watchers_of_one_operation(
    trigger: Any, submit: Any, instances: list[Uids], control: Control
) -> None:
    name = submit()
    events = await asyncio.gather(*(fire(trigger(name)) for _ in range(2)))
    assert [event["operation"]["name"] for event in events] == [name, name]
    assert [event["status"] for event in events] == ["success", "success"]


async def test_its_lines(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    control.settings(advance="manual")
    name = submit()
    lines: list[str] = []

    def told(line: str) -> bool:
        # Airflow's own loggers write to standard output.
        lines.extend(text for text in capsys.readouterr().out.splitlines() if "Export running" in text)
        return any(line in text for text in lines)

    running = asyncio.create_task(fire(trigger(name)))
    for done in range(3):
        await until(lambda done=done: told(f"{done} exported, 0 failed, {3 - done} pending"))
        polls = counts(control)["operations.get"]
        await until(lambda polls=polls: counts(control)["operations.get"] > polls + 5)
        await asyncio.to_thread(control.step, name, 1)
    assert (await running)["status"] == "success"
    assert len(lines) == 3
    assert all(name in line for line in lines)
    assert counts(control)["operations.get"] > 15


@pytest.fixture
def task_state(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Sets what Airflow, which is not here, says of the task's state and of its XCom."""

    def say(state: str, operation_name: str | None = None) -> Any:
        return say_state(monkeypatch, state, operation_name)

    return say


@pytest.mark.airflow("3.0", "triggers store progress for the page beside the log")
async def test_progress_is_stored_for_the_task(
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    task_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: list[dict[str, Any]] = []
    monkeypatch.setattr(XCom, "set", lambda **entry: stored.append(entry))
    monkeypatch.setattr(progress, "RECORD_PAUSE", 0.0)
    control.settings(advance="manual")
    shown = trigger(submit())
    attach(shown, task_state("deferred"))
    running = asyncio.create_task(fire(shown))
    await until(lambda: stored)
    await asyncio.to_thread(control.step, shown.operation_name, 2)
    await until(lambda: stored[-1]["value"]["success"] == 2)
    await asyncio.to_thread(control.step)
    assert (await running)["status"] == "success"
    assert all(json.loads(json.dumps(entry["value"])) == entry["value"] for entry in stored)
    assert {entry["value"]["state"] for entry in stored} == {"RUNNING"}
    assert {(e["key"], e["dag_id"], e["run_id"], e["task_id"], e["map_index"]) for e in stored} == {
        ("progress", "dag", "run", "export", 7)
    }


@pytest.mark.airflow("3.0", "triggers store progress for the page beside the log")
async def test_polling_goes_on_while_progress_cannot_be_stored(
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    task_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Storing hangs, for one export and so for all: the loop, the polls and the end do not."""
    gate = threading.Event()

    def fail(**_: Any) -> None:
        gate.wait(60)
        raise RuntimeError("the database is away")

    monkeypatch.setattr(XCom, "set", fail)
    monkeypatch.setattr(progress, "LAST_RECORD", 0.1)
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    shown = [trigger(name) for name in names]
    for one in shown:
        attach(one, task_state("deferred"))
    running = [asyncio.create_task(fire(one)) for one in shown]
    await until(lambda: sum(counts(control).values()) > 20)
    await asyncio.to_thread(control.step)
    events = await asyncio.gather(*running)
    gate.set()
    assert {event["status"] for event in events} == {"success"}


@pytest.mark.parametrize("state", ["failed", "success", "running", "up_for_retry"])
async def test_a_kill_cancels_the_export(
    state: str, trigger: Any, submit: Any, instances: list[Uids], control: Control, task_state: Any
) -> None:
    control.settings(advance="manual")
    killed = trigger(submit())
    attach(killed, task_state(state))
    await killed.on_kill()
    follower = trigger(killed.operation_name, deadline=time.time() + 30)
    assert (await fire(follower))["status"] == "cancelled"


@pytest.mark.parametrize("same", [True, False], ids=["the same operation", "another operation"])
async def test_a_cleared_task_that_is_deferred_again(
    same: bool, trigger: Any, submit: Any, instances: list[Uids], control: Control, task_state: Any
) -> None:
    control.settings(advance="manual")
    killed = trigger(submit())
    attach(killed, task_state("deferred", killed.operation_name if same else submit()))
    await killed.on_kill()
    assert counts(control).get("operations.cancel", 0) == (not same)
    control.step()


async def test_a_kill_that_airflow_breaks_off_cancels_all_the_same(
    trigger: Any, submit: Any, instances: list[Uids], control: Control, task_state: Any
) -> None:
    control.settings(advance="manual")
    killed = trigger(submit())
    attach(killed, task_state("failed"))
    control.fault("operations.cancel", latency_seconds=1.0, count=1)
    task = asyncio.create_task(killed.on_kill())
    await until(lambda: counts(control).get("operations.cancel"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    follower = trigger(killed.operation_name, deadline=time.time() + 30)
    assert (await fire(follower))["status"] == "cancelled"


@pytest.mark.parametrize("state", ["failed", "deferred"])
async def test_where_airflow_does_not_tell_of_kills_a_cancelled_trigger_finds_out(
    state: str,
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    task_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_AIRFLOW_TELLS_KILLS", False)
    control.settings(advance="manual")
    killed = trigger(submit())
    attach(killed, task_state(state))
    running = asyncio.create_task(fire(killed))
    await until(lambda: counts(control).get("operations.get"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert counts(control).get("operations.cancel", 0) == (state == "failed")
    assert not _shared_poller._pollers.get(asyncio.get_running_loop())
    control.step()


@pytest.mark.parametrize("changes", [{}, {"cancel_on_kill": False}], ids=["handed over", "told not to"])
async def test_what_is_no_kill_cancels_nothing(
    changes: dict[str, Any],
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    task_state: Any,
) -> None:
    control.settings(advance="manual")
    alive = trigger(submit(), **changes)
    attach(alive, task_state("failed" if changes else "deferred"))
    await alive.on_kill()
    assert "operations.cancel" not in counts(control)


async def test_a_kill_that_fails_is_told(
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    task_state: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control.settings(advance="manual")
    killed = trigger(submit())
    attach(killed, task_state("failed"))
    control.fault("operations.cancel", status=403)
    await killed.on_kill()
    assert "could not be cancelled and may go on" in capsys.readouterr().out


async def test_a_kill_after_the_end_says_that_it_had_ended(
    trigger: Any,
    submit: Any,
    instances: list[Uids],
    control: Control,
    task_state: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control.settings(advance="manual")
    ended = submit()
    control.step(ended)
    killed = trigger(ended)
    attach(killed, task_state("failed"))
    control.fault("operations.cancel", status=400, message="The operation has already completed.")
    await killed.on_kill()
    assert "had ended before it could be cancelled" in capsys.readouterr().out
