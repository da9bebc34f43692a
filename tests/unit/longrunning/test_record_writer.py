"""Progress records are written in turns, the newest response only, and never in the way of polls."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest

from airflow_provider_dicom.longrunning import record_writer
from airflow_provider_dicom.longrunning.record_writer import ProgressRecord
from tests.support.progress_records import operation, write_records_at_once
from tests.support.recorded_log import RecordedLog
from tests.support.virtual_time import VirtualTimeLoop, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.longrunning.progress import Progress

#: The time of a write in an ordinary triggerer, in seconds.
WRITE = 0.009


@pytest.fixture
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are written at once, whatever they cost."""
    write_records_at_once(monkeypatch)


async def wait_until_stored(values: list[Progress], count: int) -> None:
    async with asyncio.timeout(60):
        while len(values) < count:  # noqa: ASYNC110 - a thread fills it
            await asyncio.sleep(0.01)


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
    monkeypatch.setattr(record_writer, "SLOW_WRITE", 0.05)
    values: list[Progress] = []
    gate = threading.Event()

    def hang(value: Progress) -> None:
        gate.wait(60)
        values.append(value)

    stuck = [ProgressRecord(hang, log=RecordedLog()) for _ in range(record_writer.MAX_SLOW_WRITES)]
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
    ProgressRecord(values.append, log=RecordedLog()).on_response(operation(6, 4))
    await asyncio.sleep(0.3)
    assert len(values) == 3
    gate.set()
    await wait_until_stored(values, 9)


async def test_writes_of_one_record_never_overlap(unthrottled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer, "SLOW_WRITE", 0.01)
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
    monkeypatch.setattr(record_writer, "LAST_RECORD", 0.05)
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


class Exports:
    """
    Exports that one triggerer polls in virtual time, and their records.

    :param number: the number of exports.
    :param seconds: the time of a write, in seconds.
    """

    def __init__(self, number: int, seconds: float = WRITE) -> None:
        self.loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        self.log = RecordedLog()
        #: Times and instances of the records, by export.
        self.stored: list[list[tuple[float, Progress]]] = [[] for _ in range(number)]
        self.spent = 0.0
        self.seconds = seconds
        self.records = [ProgressRecord(self._write(export), log=self.log) for export in range(number)]

    def _write(self, export: int) -> Callable[[Progress], None]:
        def write(progress: Progress) -> None:
            self.stored[export].append((self.loop.time(), progress))
            self.loop.advance(self.seconds)
            self.spent += self.seconds

        return write

    async def poll(self, until: float, interval: float = 5.0, speed: float = 0.01) -> None:
        """
        Poll all exports until a time; their counters move.

        :param until: the time of the event loop, in seconds.
        :param interval: the time between two polls, in seconds.
        :param speed: the share of its instances that an export deals with in a second.
        """
        while self.loop.time() < until:
            done = int(10_000 * speed * self.loop.time())
            for record in self.records:
                record.on_response(operation(done, 10_000 - done))
            await asyncio.sleep(interval)


@in_virtual_time
async def test_few_exports_are_recorded_every_fifteen_seconds() -> None:
    exports = Exports(20)
    await exports.poll(until=300, interval=1.0, speed=0.002)
    for stored in exports.stored:
        times = [time for time, _ in stored]
        assert times[0] < 15
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert all(15 <= pause < 17 for pause in pauses)
        assert len(times) >= 17


@pytest.mark.parametrize("seconds", [WRITE, 0.1, 1.0])
@in_virtual_time
async def test_records_of_many_exports_take_two_percent_of_the_time(seconds: float) -> None:
    exports = Exports(300, seconds)
    await exports.poll(until=600, speed=0.001)
    elapsed = exports.loop.time()
    assert exports.spent <= 0.02 * elapsed + 2 * seconds
    assert exports.spent >= 0.015 * elapsed


@in_virtual_time
async def test_many_exports_take_turns_the_stalest_first() -> None:
    exports = Exports(300)
    await exports.poll(until=600, speed=0.001)
    order = sorted((time, number) for number, stored in enumerate(exports.stored) for time, _ in stored)
    numbers = [number for _, number in order]
    assert len(numbers) > 900
    # In each round every export is recorded once, in the order of the first round.
    assert all(numbers[place] == numbers[place - 300] for place in range(300, len(numbers)))


@in_virtual_time
async def test_first_failure_is_recorded_before_the_records_that_wait() -> None:
    exports = Exports(300)
    await exports.poll(until=20)
    begun = exports.loop.time()
    exports.records.pop().on_response(operation(1000, 8000, failure=1))
    await exports.poll(until=30)
    ((time, progress),) = exports.stored[299]
    assert progress["failure"] == 1
    assert time - begun < 1


@in_virtual_time
async def test_write_that_hangs_for_a_minute_is_logged_once_and_costs_no_other_export_its_record() -> None:
    exports = Exports(5)
    gate = threading.Event()

    def hang(progress: Progress) -> None:
        if not gate.is_set():
            with exports.loop.hang():
                gate.wait(60)
            raise RuntimeError("the database was away")

    stuck = ProgressRecord(hang, log=exports.log)
    await exports.poll(until=30)
    stuck.on_response(operation(1, 9))
    await exports.poll(until=60)
    begun = exports.loop.time()
    await stuck.close(operation(10, done=True))
    assert exports.loop.time() - begun < 1
    await exports.poll(until=95)
    gate.set()
    await exports.poll(until=150)
    for stored in exports.stored:
        times = [time for time, _ in stored]
        assert max(later - earlier for earlier, later in pairwise(times)) < 60
        assert times[-1] > 120
    assert exports.log.warnings == [
        "The progress could not be stored for the web interface: no answer after 5 s"
    ]


@in_virtual_time
async def test_discarded_record_is_not_written_when_its_turn_comes() -> None:
    exports = Exports(3)
    for record in exports.records:
        record.on_response(operation(1, 9))
    exports.records[2].discard()
    await asyncio.sleep(60)
    assert [len(stored) for stored in exports.stored] == [1, 1, 0]
