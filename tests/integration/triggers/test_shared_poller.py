"""Many triggers on one event loop: they share polls and connections, and no trigger suffers from another."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_dicom.longrunning import poll_schedule, polling
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.triggers import _shared_poller
from airflow_provider_dicom.triggers._followed import Followed
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from rig.ports import free_port
from tests.support.healthcare_requests import request_count
from tests.support.loop_probe import LoopProbe
from tests.support.trigger_runs import run_trigger
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from rig.control import Control
    from tests.integration.triggers.conftest import ExportSubmitter, TriggerFactory
    from tests.support.provider_fixtures import Connect

pytestmark = pytest.mark.usefixtures("quick")
Events = list[dict[str, Any]]


def start(trigger: TriggerFactory, names: list[str]) -> list[asyncio.Task[dict[str, Any]]]:
    """Start one trigger for each Operation."""
    return [asyncio.create_task(run_trigger(trigger(name))) for name in names]


async def finish(control: Control, running: list[asyncio.Task[dict[str, Any]]]) -> Events:
    """Let all exports end, and return the events of the triggers."""
    await asyncio.to_thread(control.step)
    return await asyncio.gather(*running)


def statuses(events: Events) -> list[str]:
    return [event["status"] for event in events]


def has_fired(control: Control, times: int) -> bool:
    """Tell whether a fault has been returned a number of times."""
    return any(fault["fired"] >= times for fault in control.faults()["faults"])


async def test_many_operations_are_polled_by_lists_with_few_connections(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(30)]
    control.reset_requests()
    async with LoopProbe() as probe:
        running = start(trigger, names)
        await wait_until(lambda: request_count(control, "operations.list") >= 3)
        events = await finish(control, running)
    assert [event["operation"]["name"] for event in events] == names
    assert statuses(events) == ["success"] * len(names)
    assert request_count(control, "operations.get") <= len(names)
    assert control.requests()["connections"] <= poll_schedule.MAX_CONNECTIONS
    assert probe.longest < 1.0


async def test_list_ends_no_trigger_before_its_first_pause(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "FIRST_PAUSE", 600.0)
    control.settings(advance="manual", max_running_exports=10)
    others = start(trigger, [submit() for _ in range(3)])
    ended = submit()
    control.step(ended)
    early = asyncio.create_task(run_trigger(trigger(ended, poll_interval=900.0)))
    lists = request_count(control, "operations.list") + 5
    await wait_until(lambda: request_count(control, "operations.list") >= lists)
    assert not early.done(), "Airflow can fail a task whose deferral ends within seconds"
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    assert statuses(await finish(control, others)) == ["success"] * 3


async def test_operations_are_polled_by_gets_if_the_list_is_forbidden(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(5)]
    control.fault("operations.list", status=403)
    control.reset_requests()
    running = start(trigger, names)
    await wait_until(lambda: request_count(control, "operations.get") >= 10)
    assert statuses(await finish(control, running)) == ["success"] * 5
    assert request_count(control, "operations.list") == 1, "a forbidden list is not requested again"


async def test_errors_of_one_operation_or_endpoint_do_not_end_other_triggers(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, connect: Connect
) -> None:
    control.settings(advance="manual")
    good = submit()
    gone = f"{good.rpartition('/')[0]}/1"
    running = start(trigger, [good])
    missing = await run_trigger(trigger(gone))
    assert (missing["status"], missing["operation"]) == ("error", {"name": gone})
    unreachable = {
        "gcp_conn_id": connect("elsewhere", is_anonymous=True),
        "api_endpoint": f"http://127.0.0.1:{free_port()}",
    }
    late = await run_trigger(trigger(good, deadline=time.time() + 0.3, **unreachable))
    assert late["status"] == "timeout"
    assert not running[0].done()
    assert statuses(await finish(control, running)) == ["success"]


async def test_fifty_triggers_look_up_their_connection_once(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    look_up = BaseHook.get_connection

    def counted(conn_id: str) -> Any:
        looked_up.append(conn_id)
        return look_up(conn_id)

    monkeypatch.setattr(BaseHook, "get_connection", staticmethod(counted))
    control.settings(advance="manual")
    name = submit()
    looked_up.clear()
    control.reset_requests()
    running = start(trigger, [name] * 50)
    await wait_until(lambda: request_count(control, "operations.list", "operations.get") >= 3)
    assert statuses(await finish(control, running)) == ["success"] * 50
    assert looked_up == ["anonymous"]


async def start_and_cancel(trigger: TriggerFactory, names: list[str]) -> set[type]:
    """Start one trigger for each Operation, cancel all of them, and return the types of their results."""
    running = start(trigger, names)
    # The first turn of the loop starts the triggers; in the second one they wait for their polls.
    for _ in range(2):
        await asyncio.sleep(0)
    for task in running:
        task.cancel()
    return {type(end) for end in await asyncio.gather(*running, return_exceptions=True)}


async def test_ten_thousand_cancelled_triggers_leave_nothing_behind(
    trigger: TriggerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "FIRST_PAUSE", 600.0)

    def build(operation_name: str, **changes: object) -> DicomStoreExportTrigger:
        return trigger(operation_name, cancel_on_kill=False, poll_interval=900.0, **changes)

    names = [f"projects/p/locations/l/datasets/d/operations/{number}" for number in range(1_000)]
    kinds = (DicomStoreExportTrigger, OperationWatch, Followed, _shared_poller.SharedPoller)
    of_other_tests = [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
    # It keeps the poller, and with it whatever the poller does not forget.
    (staying,) = start(build, names[:1])
    for _ in range(10):
        assert await start_and_cancel(build, names) == {asyncio.CancelledError}
    # In the turn of the loop that resumes this test, the loop still holds the last results.
    await asyncio.sleep(0)
    gc.collect()
    left = [
        type(thing)
        for thing in gc.get_objects()
        if issubclass(type(thing), kinds) and not any(thing is other for other in of_other_tests)
    ]
    assert sorted(left, key=kinds.index) == list(kinds)
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)
    await wait_until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert not _shared_poller._pollers.get(asyncio.get_running_loop())


async def test_cancelled_trigger_does_not_end_other_triggers(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    running = start(trigger, [submit() for _ in range(3)])
    await wait_until(lambda: request_count(control, "operations.list", "operations.get") > 3)
    running[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    assert statuses(await finish(control, running[1:])) == ["success", "success"]


@pytest.mark.parametrize("route", ["operations.get", "operations.list"])
async def test_429_of_a_poll_pauses_the_polls_of_the_dataset_and_ends_no_trigger(
    route: str,
    trigger: TriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backoff = 0.5
    monkeypatch.setattr(poll_schedule, "BACKOFF_INITIAL", backoff)
    monkeypatch.setattr(poll_schedule, "BACKOFF_MAX", backoff)
    control.settings(advance="manual")
    names = [submit() for _ in range(5)]
    if route == "operations.get":
        control.fault("operations.list", status=403)
    control.fault(route, status=429)
    control.reset_requests()
    running = start(trigger, names)
    await wait_until(lambda: request_count(control, route))
    begin, requests = time.monotonic(), request_count(control, route)
    # Without a backoff, requests follow one another; until it is over, each Operation is polled at most once.
    two_sweeps = 2 * (len(names) if route == "operations.get" else 1)
    await wait_until(lambda: request_count(control, route) >= requests + two_sweeps)
    assert time.monotonic() - begin >= backoff
    monkeypatch.setattr(poll_schedule, "BACKOFF_INITIAL", 0.05)
    monkeypatch.setattr(poll_schedule, "BACKOFF_MAX", 0.05)
    await wait_until(lambda: has_fired(control, 10))
    control.clear_faults()
    assert statuses(await finish(control, running)) == ["success"] * 5


async def test_list_with_more_pages_than_operations_is_replaced_by_gets(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        submit()
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    monkeypatch.setattr(_shared_poller, "PAGE_SIZE", 1)
    control.reset_requests()
    running = start(trigger, names)

    def gets() -> int:
        """Return the number of gets of the Operation that was polled by the fewest gets."""
        paths: list[str] = [request["path"] for request in control.requests()["recent"]]
        return min(sum(path.endswith(name) for path in paths) for name in names)

    # The triggers do not start at the same moment. A list for two Operations may precede one for all three.
    await wait_until(lambda: gets() >= 3)
    lists = request_count(control, "operations.list")
    assert lists >= 1, "a permitted list is tried before gets"
    more_gets = gets() + 5
    await wait_until(lambda: gets() >= more_gets)
    assert request_count(control, "operations.list") == lists, "a list with too many pages is not repeated"
    assert statuses(await finish(control, running)) == ["success"] * 3


async def test_operation_that_the_list_does_not_contain_is_polled_by_get(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    listed = [submit() for _ in range(3)]
    gone = f"{listed[0].rpartition('/')[0]}/1"
    running = start(trigger, listed)
    missing = await run_trigger(trigger(gone))
    assert (missing["status"], missing["operation"]) == ("error", {"name": gone})
    assert request_count(control, "operations.list") >= 3
    # Listed Operations may be polled by get as well, if they are due at another time than the others.
    gets = [request["path"].endswith(gone) for request in control.requests()["recent"]]
    assert sum(gets) == polling.MAX_CONSECUTIVE_ERRORS
    assert statuses(await finish(control, running)) == ["success"] * 3


@pytest.mark.parametrize("body", ["truncated", "html", "empty"])
@pytest.mark.parametrize(
    # Gets replace a list that fails twice.
    ("route", "count"),
    [("operations.get", 5), ("operations.list", 2)],
)
async def test_malformed_response_ends_no_trigger(
    body: str, route: str, count: int, trigger: TriggerFactory, submit: ExportSubmitter, control: Control
) -> None:
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    if route == "operations.get":
        control.fault("operations.list", status=403)
    control.fault(route, body=body, count=count)
    running = start(trigger, names)
    await wait_until(lambda: has_fired(control, count))
    assert statuses(await finish(control, running)) == ["success"] * 3


async def test_log_lines_are_written_in_the_context_of_their_own_trigger(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: contextvars.ContextVar[str] = contextvars.ContextVar("current")
    lines: list[tuple[str, str]] = []

    class RecordingLog:
        def info(self, message: str, /, *args: object) -> None:
            lines.append((current.get("no trigger"), str(args[-1])))

        warning = info

    async def follow(name: str) -> dict[str, Any]:
        current.set(name)
        return await run_trigger(trigger(name))

    monkeypatch.setattr(DicomStoreExportTrigger, "log", RecordingLog())
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    running = [asyncio.create_task(follow(name)) for name in names]
    await wait_until(lambda: len(lines) >= len(names))
    await finish(control, running)
    assert {context for context, _ in lines} == set(names)
    assert all(context == operation for context, operation in lines)


async def test_gets_are_spread_over_ticks(
    trigger: TriggerFactory, submit: ExportSubmitter, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = 0.3
    monkeypatch.setattr(poll_schedule, "TICK_SECONDS", tick)
    monkeypatch.setattr(poll_schedule, "MAX_GETS_PER_SECOND", 2 / tick)
    monkeypatch.setattr(poll_schedule, "MAX_SWEEP_SECONDS", 1000.0)
    control.settings(advance="manual")
    control.fault("operations.list", status=403)
    names = [submit() for _ in range(6)]
    control.reset_requests()
    begin = time.monotonic()
    running = start(trigger, names)
    await wait_until(lambda: request_count(control, "operations.get") >= 6)
    assert time.monotonic() - begin >= 2 * tick, "two gets at each of three ticks"
    await finish(control, running)
