"""What is kept of an export's progress: seldom, the newest, and never in the way of its polls."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.longrunning import progress
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.longrunning.progress import (
    Progress,
    ProgressRecord,
    Throttle,
    progress_of,
    write_from_worker,
)

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

NAME = "projects/p/locations/l/datasets/d/operations/77"


def operation(success: int = 0, pending: int = 0, failure: int = 0, **changes: Any) -> Operation:
    counter = {"success": str(success), "pending": str(pending), "failure": str(failure)}
    base: Any = {"name": NAME, "metadata": {"createTime": "2026-11-24T18:00:00Z", "counter": counter}}
    return base | changes  # type: ignore[no-any-return]


class Lines:
    """A log that keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        pass

    def warning(self, message: str, /, *args: object) -> None:
        self.warnings.append(message % args)


@pytest.fixture
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "RECORD_PAUSE", 0.0)


async def stored(values: list[Progress], count: int) -> None:
    async with asyncio.timeout(60):
        while len(values) < count:  # noqa: ASYNC110 - a thread fills it
            await asyncio.sleep(0.01)


def test_at_most_every_15_seconds_and_only_on_change() -> None:
    now = [1000.0]
    throttle = Throttle(lambda: now[0])
    told = []
    for second, done in [(0, 0), (1, 0), (2, 1), (14, 2), (15, 2), (29, 3), (31, 3), (60, 3), (90, 4)]:
        now[0] = 1000.0 + second
        if throttle.should_record(operation(done, 10)):
            told.append((second, done))
    assert told == [(0, 0), (15, 2), (31, 3), (90, 4)]


@pytest.mark.parametrize(
    ("changes", "is_accepted", "state"),
    [
        ({}, True, "RUNNING"),
        ({"done": True}, True, "PARTIAL"),
        ({"done": True, "failure": 0}, True, "SUCCEEDED"),
        ({"done": True}, False, "FAILED"),
        ({"done": True, "error": {"code": 13, "message": "The bucket has gone away."}}, False, "FAILED"),
        ({"done": True, "error": {"code": 1, "message": "stopped"}}, False, "CANCELLED"),
    ],
)
def test_the_record(changes: dict[str, Any], is_accepted: bool, state: str) -> None:
    record = progress_of(operation(5, 4, **{"failure": 1} | changes), is_accepted=is_accepted)
    assert record["state"] == state
    assert (record["operation_name"], record["success"], record["pending"]) == (NAME, 5, 4)
    assert record["create_time"] == "2026-11-24T18:00:00Z"
    assert record["message"] == changes.get("error", {}).get("message")


def test_a_long_message_is_cut() -> None:
    record = progress_of(operation(done=True, error={"code": 13, "message": "x" * 100_000}))
    assert len(record["message"] or "") == progress.MESSAGE_LENGTH


async def test_the_newest_answer_is_stored_while_another_is_being_stored(unthrottled: None) -> None:
    values: list[Progress] = []
    begun, gate = threading.Event(), threading.Event()

    def write(value: Progress) -> None:
        begun.set()
        gate.wait(60)
        values.append(value)

    record = ProgressRecord(write, log=Lines())
    record.on_response(operation(1, 9))
    await asyncio.to_thread(begun.wait, 60)
    for done in range(2, 9):
        record.on_response(operation(done, 10 - done))
    gate.set()
    await stored(values, 2)
    assert [value["success"] for value in values] == [1, 8]


async def test_the_end_is_not_overwritten_by_what_was_waiting(unthrottled: None) -> None:
    values: list[Progress] = []
    begun, gate = threading.Event(), threading.Event()

    def write(value: Progress) -> None:
        begun.set()
        gate.wait(60)
        values.append(value)

    record = ProgressRecord(write, log=Lines())
    record.on_response(operation(1, 9))
    await asyncio.to_thread(begun.wait, 60)
    record.on_response(operation(2, 8))
    closing = asyncio.create_task(record.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    await asyncio.sleep(0)
    assert [value["success"] for value in values] == [1]


async def test_airflows_troubles_are_told_of_once_and_harm_nobody(unthrottled: None) -> None:
    lines, values = Lines(), []
    tries = 0

    def write(value: Progress) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise RuntimeError("the database is away")
        values.append(value)

    records = [ProgressRecord(write, log=lines) for _ in range(4)]
    for record in records:
        record.on_response(operation(1))
    await stored(values, 1)
    assert lines.warnings == ["The progress could not be stored for the web interface: the database is away"]


async def test_a_thousand_exports_take_one_thread(unthrottled: None) -> None:
    values: list[Progress] = []
    threads: set[str] = set()
    at_a_time = [0, 0]

    def write(value: Progress) -> None:
        at_a_time[0] += 1
        at_a_time[1] = max(at_a_time)
        threads.add(threading.current_thread().name)
        values.append(value)
        at_a_time[0] -= 1

    for record in [ProgressRecord(write, log=Lines()) for _ in range(1000)]:
        record.on_response(operation(1))
    assert values == []
    await stored(values, 1000)
    assert at_a_time[1] == 1
    assert threading.main_thread().name not in threads


def test_the_watch_tells_of_answers_while_it_runs_only() -> None:
    seen: list[Operation] = []
    watch = OperationWatch(NAME, poll_interval=30.0, deadline=None, log=Lines(), on_progress=seen.append)
    assert not watch.record_response({"metadata": {"counter": {"success": "1"}}})
    assert watch.record_response(operation(2, done=True))
    assert seen == [{"name": NAME, "metadata": {"counter": {"success": "1"}}}]


def test_a_task_whose_end_cannot_be_stored_ends_all_the_same() -> None:
    class Away:
        def xcom_push(self, key: str, value: object) -> None:
            raise RuntimeError("the API server is away")

    lines = Lines()
    write_from_worker(Away(), operation(1, done=True), log=lines)
    assert lines.warnings == [
        "The progress could not be stored for the web interface: the API server is away"
    ]
