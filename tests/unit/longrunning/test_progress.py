"""Progress records: written rarely, the newest response only, and never in the way of polls."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.longrunning import progress
from airflow_provider_dicom.longrunning.progress import (
    Progress,
    ProgressRecord,
    Throttle,
    progress_of,
    write_from_worker,
)
from tests.support.recorded_log import RecordedLog

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

NAME = "projects/p/locations/l/datasets/d/operations/77"


def operation(success: int = 0, pending: int = 0, failure: int = 0, **changes: Any) -> Operation:
    counter = {"success": str(success), "pending": str(pending), "failure": str(failure)}
    base: Any = {"name": NAME, "metadata": {"createTime": "2026-11-24T18:00:00Z", "counter": counter}}
    return base | changes  # type: ignore[no-any-return]


@pytest.fixture
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "RECORD_PAUSE", 0.0)


async def wait_until_stored(values: list[Progress], count: int) -> None:
    async with asyncio.timeout(60):
        while len(values) < count:  # noqa: ASYNC110 - a thread fills it
            await asyncio.sleep(0.01)


def test_progress_is_recorded_at_most_every_15_seconds_and_only_on_change() -> None:
    now = [1000.0]
    throttle = Throttle(lambda: now[0])
    recorded = []
    for second, done in [(0, 0), (1, 0), (2, 1), (14, 2), (15, 2), (29, 3), (31, 3), (60, 3), (90, 4)]:
        now[0] = 1000.0 + second
        if throttle.should_record(operation(done, 10)):
            recorded.append((second, done))
    assert recorded == [(0, 0), (15, 2), (31, 3), (90, 4)]


@pytest.mark.parametrize(
    ("changes", "is_accepted", "state"),
    [
        ({}, True, "RUNNING"),
        ({"done": True}, True, "PARTIAL"),
        ({"done": True, "failure": 0}, True, "SUCCEEDED"),
        ({"done": True}, False, "FAILED"),
        ({"done": True, "error": {"code": 13, "message": "The bucket has gone away."}}, False, "FAILED"),
        ({"done": True, "error": {"code": 2, "message": "Instances failed."}}, True, "PARTIAL"),
        ({"done": True, "error": {"code": 2, "message": "Instances failed."}}, None, "FAILED"),
        ({"done": True}, None, "PARTIAL"),
        ({"done": True, "error": {"code": 1, "message": "stopped"}}, False, "CANCELLED"),
    ],
)
def test_progress_record_of_an_operation(
    changes: dict[str, Any], is_accepted: bool | None, state: str
) -> None:
    record = progress_of(operation(5, 4, **{"failure": 1} | changes), is_accepted=is_accepted)
    assert record["state"] == state
    assert (record["operation_name"], record["success"], record["pending"]) == (NAME, 5, 4)
    assert record["create_time"] == "2026-11-24T18:00:00Z"
    assert record["message"] == changes.get("error", {}).get("message")


def test_long_error_message_of_a_progress_record_is_cut() -> None:
    record = progress_of(operation(done=True, error={"code": 13, "message": "x" * 100_000}))
    assert len(record["message"] or "") == progress.MESSAGE_LENGTH


async def test_newest_response_is_stored_after_a_slow_write(unthrottled: None) -> None:
    values: list[Progress] = []
    begun, gate = threading.Event(), threading.Event()

    def write(value: Progress) -> None:
        begun.set()
        gate.wait(60)
        values.append(value)

    record = ProgressRecord(write, log=RecordedLog())
    record.on_response(operation(1, 9))
    await asyncio.to_thread(begun.wait, 60)
    for done in range(2, 9):
        record.on_response(operation(done, 10 - done))
    gate.set()
    await wait_until_stored(values, 2)
    assert [value["success"] for value in values] == [1, 8]


async def test_closed_record_drops_the_response_that_waits_to_be_stored(unthrottled: None) -> None:
    values: list[Progress] = []
    begun, gate = threading.Event(), threading.Event()

    def write(value: Progress) -> None:
        begun.set()
        gate.wait(60)
        values.append(value)

    record = ProgressRecord(write, log=RecordedLog())
    record.on_response(operation(1, 9))
    await asyncio.to_thread(begun.wait, 60)
    record.on_response(operation(2, 8))
    closing = asyncio.create_task(record.close(operation(3, 7)))
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    await asyncio.sleep(0)
    assert [value["success"] for value in values] == [1]


async def test_write_that_hangs_does_not_hold_up_other_records(
    unthrottled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SLOW_WRITE", 0.05)
    values: list[Progress] = []
    gate = threading.Event()

    def hang(value: Progress) -> None:
        gate.wait(60)
        values.append(value)

    stuck = [ProgressRecord(hang, log=RecordedLog()) for _ in range(progress.MAX_SLOW_WRITES)]
    for record in stuck:
        record.on_response(operation(1, 9))
    others = [ProgressRecord(values.append, log=RecordedLog()) for _ in range(3)]
    for record in others:
        record.on_response(operation(5, 5))
    await wait_until_stored(values, 3)
    assert [value["success"] for value in values] == [5, 5, 5]
    # One more would be one too many.
    one_more = ProgressRecord(hang, log=RecordedLog())
    one_more.on_response(operation(2, 8))
    others[0].on_response(operation(6, 4))
    await asyncio.sleep(0.3)
    assert len(values) == 3
    gate.set()
    await wait_until_stored(values, 9)


async def test_writes_of_one_record_never_overlap(unthrottled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SLOW_WRITE", 0.01)
    values: list[Progress] = []
    under_way, overlaps = threading.Lock(), []
    gate = threading.Event()

    def write(value: Progress) -> None:
        if not under_way.acquire(blocking=False):
            overlaps.append(value)
            return
        gate.wait(60)
        values.append(value)
        under_way.release()

    record = ProgressRecord(write, log=RecordedLog())
    for done in range(1, 5):
        record.on_response(operation(done, 10 - done))
        await asyncio.sleep(0.05)
    gate.set()
    await wait_until_stored(values, 2)
    assert [value["success"] for value in values] == [1, 4]
    assert not overlaps


@pytest.mark.parametrize("is_done", [True, False])
async def test_write_that_outlasts_the_end_of_the_export_is_followed_by_the_end(
    is_done: bool, unthrottled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LAST_RECORD", 0.05)
    values: list[Progress] = []
    begun, gate = threading.Event(), threading.Event()

    def write(value: Progress) -> None:
        begun.set()
        gate.wait(60)
        values.append(value)

    record = ProgressRecord(write, log=RecordedLog())
    record.on_response(operation(1, 9))
    await asyncio.to_thread(begun.wait, 60)
    await record.close(operation(10, done=True) if is_done else operation(2, 8))
    assert values == []
    gate.set()
    await wait_until_stored(values, 1 + is_done)
    await asyncio.sleep(0.05)
    assert [value["state"] for value in values] == ["RUNNING", "SUCCEEDED"][: 1 + is_done]


async def test_failing_writes_are_logged_once_and_spare_other_records(unthrottled: None) -> None:
    log, values = RecordedLog(), []
    tries = 0

    def write(value: Progress) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise RuntimeError("the database is away")
        values.append(value)

    records = [ProgressRecord(write, log=log) for _ in range(4)]
    for record in records:
        record.on_response(operation(1))
    await wait_until_stored(values, 1)
    assert log.warnings == ["The progress could not be stored for the web interface: the database is away"]


async def test_a_thousand_records_are_stored_one_at_a_time_off_the_event_loop(unthrottled: None) -> None:
    values: list[Progress] = []
    threads: set[str] = set()
    at_a_time = [0, 0]

    def write(value: Progress) -> None:
        at_a_time[0] += 1
        at_a_time[1] = max(at_a_time)
        threads.add(threading.current_thread().name)
        values.append(value)
        at_a_time[0] -= 1

    for record in [ProgressRecord(write, log=RecordedLog()) for _ in range(1000)]:
        record.on_response(operation(1))
    assert values == []
    await wait_until_stored(values, 1000)
    assert at_a_time[1] == 1
    assert threading.main_thread().name not in threads


def test_failing_write_from_a_worker_is_logged_and_not_raised() -> None:
    class Away:
        def xcom_push(self, key: str, value: object) -> None:
            raise RuntimeError("the API server is away")

    log = RecordedLog()
    write_from_worker(Away(), operation(1, done=True), log=log)
    assert log.warnings == ["The progress could not be stored for the web interface: the API server is away"]
