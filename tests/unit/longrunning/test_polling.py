"""The schedule of polls, and what is made of their answers, with a clock of the test's own."""

from __future__ import annotations

import random
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.resource_names import DatasetName, OperationName
from airflow_provider_dicom.longrunning import polling
from airflow_provider_dicom.longrunning.polling import OperationWatch

NAME = str(OperationName(DatasetName("p", "l", "d"), "77"))


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        self.infos.append(message % args)

    def warning(self, message: str, /, *args: object) -> None:
        self.warnings.append(message % args)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Rig:
    """A watch with its clock and its log."""

    def __init__(self, poll_interval: float = 30.0, timeout: float | None = None) -> None:
        self.clock = Clock()
        self.lines = Lines()
        self.start = self.clock.seconds
        self.watch = OperationWatch(
            NAME,
            poll_interval=poll_interval,
            deadline=None if timeout is None else self.start + timeout,
            log=self.lines,
            now=self.clock,
        )

    def sleep(self) -> float:
        pause = self.watch.next_pause()
        self.clock.seconds += pause
        return pause

    def fail_for_ever(self) -> NoReturn:
        while True:
            self.sleep()
            self.watch.record_error(unavailable())

    @property
    def elapsed(self) -> float:
        return self.clock.seconds - self.start


def running(success: int = 0, failure: int = 0, pending: int = 0) -> Any:
    counter = {"success": success, "failure": failure, "pending": pending}
    return {"name": NAME, "metadata": {"counter": {k: str(v) for k, v in counter.items() if v}}}


def unavailable(retry_after: float | None = None) -> exceptions.DicomExportError:
    return exceptions.DicomExportUnavailableError("Could not get: 503", retry_after=retry_after)


def refused() -> exceptions.DicomExportError:
    return exceptions.DicomExportPermissionError("Could not get: 403")


INTERVALS = st.floats(0.01, 7200, allow_nan=False)


@given(INTERVALS, st.randoms(use_true_random=False))
def test_pauses_start_at_ten_seconds_grow_and_never_pass_the_interval(
    interval: float, source: random.Random
) -> None:
    random.seed(source.random())
    rig = Rig(interval)
    pauses = []
    for _ in range(40):
        pauses.append(rig.sleep())
        assert not rig.watch.record_response(running())
    assert pauses[0] >= 10.0 or interval < 10.0
    assert all(0 < pause <= interval for pause in pauses)
    # They grow: by the end none is more than the jitter away from the interval.
    assert all(pause >= interval * 0.79 for pause in pauses[-20:])
    if interval >= 120:
        assert pauses[0] < pauses[3] < pauses[6]


def test_pauses_are_jittered() -> None:
    firsts = {Rig(600).sleep() for _ in range(20)}
    assert len(firsts) > 15
    assert max(firsts) - min(firsts) > 0.1


@pytest.mark.parametrize("asked", [45.0, 300.0])
def test_retry_after_is_honoured_once(asked: float) -> None:
    rig = Rig(30)
    rig.sleep()
    rig.watch.record_error(unavailable(asked))
    assert rig.sleep() >= asked
    rig.watch.record_response(running())
    assert rig.sleep() <= 30


def test_the_last_pause_ends_at_the_deadline() -> None:
    rig = Rig(30, timeout=100)
    polls = 0
    while rig.elapsed < 100:
        rig.sleep()
        assert not rig.watch.record_response(running(success=3, pending=4))
        polls += 1
    with pytest.raises(exceptions.DicomExportTimeoutError) as error:
        rig.sleep()
    assert rig.elapsed == pytest.approx(100)
    assert polls >= 4
    assert "3 exported, 0 failed, 4 pending" in str(error.value)
    assert NAME in str(error.value)
    assert error.value.operation_name == NAME
    assert error.value.operation == running(success=3, pending=4)


def test_a_retry_after_does_not_outlast_the_deadline() -> None:
    rig = Rig(30, timeout=50)
    rig.sleep()
    rig.watch.record_error(unavailable(600))
    rig.sleep()
    assert rig.elapsed == pytest.approx(50)
    with pytest.raises(exceptions.DicomExportTimeoutError):
        rig.sleep()


def test_a_deadline_in_the_past_ends_it_at_once() -> None:
    with pytest.raises(exceptions.DicomExportTimeoutError):
        Rig(30, timeout=-1).sleep()


@pytest.mark.parametrize(
    "error",
    [
        refused(),
        exceptions.DicomExportNotFoundError("404"),
        exceptions.DicomExportAuthenticationError("401"),
        exceptions.DicomExportInvalidRequestError("400"),
    ],
    ids=lambda error: str(error),
)
def test_a_refusal_is_believed_the_third_time(error: exceptions.DicomExportError) -> None:
    rig = Rig()
    for _ in range(2):
        rig.sleep()
        rig.watch.record_error(error)
    rig.sleep()
    with pytest.raises(type(error)) as raised:
        rig.watch.record_error(error)
    assert str(raised.value) == str(error)
    assert raised.value.operation_name == NAME


@pytest.mark.parametrize("between", ["answer", "blip"])
def test_refusals_count_in_a_row_only(between: str) -> None:
    rig = Rig()
    for _ in range(20):
        rig.sleep()
        rig.watch.record_error(refused())
        rig.sleep()
        rig.watch.record_error(refused())
        rig.sleep()
        if between == "answer":
            rig.watch.record_response(running())
        else:
            rig.watch.record_error(unavailable())
        if rig.elapsed > 3000:
            break


def test_without_a_deadline_patience_lasts_an_hour() -> None:
    rig = Rig()
    rig.sleep()
    rig.watch.record_response(running(success=5, pending=5))
    since = rig.elapsed
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        rig.fail_for_ever()
    assert 3600 < rig.elapsed - since < 3700
    assert error.value.operation_name == NAME
    assert error.value.operation == running(success=5, pending=5)


def test_with_a_deadline_patience_lasts_until_then() -> None:
    rig = Rig(timeout=20_000)
    with pytest.raises(exceptions.DicomExportTimeoutError):
        rig.fail_for_ever()
    assert rig.elapsed == pytest.approx(20_000)


def test_an_answer_renews_patience() -> None:
    rig = Rig()
    while rig.elapsed < 20_000:
        rig.sleep()
        rig.watch.record_error(unavailable())
        if rig.elapsed % 3000 > 2900:
            rig.watch.record_response(running())


def test_one_error_for_two_watches() -> None:
    first, second = Rig(), Rig()
    second.watch = OperationWatch(
        NAME.replace("/77", "/78"), poll_interval=30, deadline=None, log=second.lines, now=second.clock
    )
    shared = unavailable()
    caught = []
    for rig in (first, second):
        rig.watch.record_response({**running(success=1), "name": rig.watch.operation_name})
        rig.clock.seconds += 3601
        with pytest.raises(exceptions.DicomExportError) as error:
            rig.watch.record_error(shared)
        caught.append(error.value)
    assert [error.operation_name for error in caught] == [NAME, NAME.replace("/77", "/78")]
    assert [error.operation["name"] for error in caught if error.operation] == [
        NAME,
        NAME.replace("/77", "/78"),
    ]


def test_an_answer_without_readable_counters_is_no_answer() -> None:
    rig = Rig()
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        rig.watch.record_response({"name": NAME, "done": True, "metadata": {"counter": {"failure": "many"}}})
    rig.watch.record_error(error.value)
    assert rig.lines.infos == []
    assert len(rig.lines.warnings) == 1


def test_the_end_is_told() -> None:
    rig = Rig()
    assert not rig.watch.record_response({"name": NAME})
    assert not rig.watch.record_response({"name": NAME, "done": False})
    assert rig.watch.record_response({"name": NAME, "done": True})


def test_lines_say_what_changed() -> None:
    rig = Rig()
    rig.sleep()
    rig.watch.record_response(running(pending=1000))
    assert len(rig.lines.infos) == 1
    assert "0 exported, 0 failed, 1000 pending" in rig.lines.infos[0]
    assert NAME in rig.lines.infos[0]
    for done in range(1, 1001):
        rig.clock.seconds += 0.1
        rig.watch.record_response(running(success=done, pending=1000 - done))
    assert 10 <= len(rig.lines.infos) <= 12
    assert "100% done" in rig.lines.infos[-1]


def test_the_first_failure_is_told_at_once() -> None:
    rig = Rig()
    rig.watch.record_response(running(success=10, pending=990))
    rig.watch.record_response(running(success=11, failure=1, pending=988))
    assert "1 failed" in rig.lines.infos[-1]
    assert len(rig.lines.infos) == 2
    rig.watch.record_response(running(success=11, failure=2, pending=987))
    assert len(rig.lines.infos) == 2


def test_a_heartbeat_when_nothing_changes() -> None:
    rig = Rig()
    while rig.elapsed < 6 * 3600:
        rig.sleep()
        rig.watch.record_response(running(success=1, pending=9))
    beats = 6 * 3600 / polling.HEARTBEAT
    assert beats - 5 <= len(rig.lines.infos) <= beats + 1
    assert rig.lines.warnings == []


def test_trouble_is_told_when_it_begins_and_ends_and_now_and_then() -> None:
    rig = Rig(timeout=100_000)
    rig.sleep()
    rig.watch.record_response(running(pending=5))
    since = rig.elapsed
    while rig.elapsed - since < 3600:
        rig.sleep()
        rig.watch.record_error(unavailable())
    assert 4 <= len(rig.lines.warnings) <= 8
    assert all("503" in line and "goes on" in line for line in rig.lines.warnings)
    rig.watch.record_response(running(pending=5))
    assert any("answers again" in line for line in rig.lines.infos)
