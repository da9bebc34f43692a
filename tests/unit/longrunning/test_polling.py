"""The schedule of one Operation's polls, and what each response means, with a clock under control."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.longrunning.polling import OperationWatch
from tests.support.recorded_log import RecordedLog

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation
from tests.support.polled_operation import NAME, PolledOperation, forbidden, running, unavailable

INTERVALS = st.floats(0.01, 7200, allow_nan=False)


@given(INTERVALS, st.randoms(use_true_random=False))
def test_pauses_begin_at_ten_seconds_and_grow_to_the_poll_interval(
    interval: float, source: random.Random
) -> None:
    random.seed(source.random())
    polled = PolledOperation(interval)
    pauses = []
    for _ in range(30):
        pauses.append(polled.pause())
        assert not polled.watch.record_response(running())
    assert pauses[0] >= 10.0 or interval < 10.0
    assert all(0 < pause <= interval for pause in pauses)
    # From then on, no pause is further from the interval than the jitter.
    assert all(pause >= interval * 0.79 for pause in pauses[-10:])
    if interval >= 120:
        assert pauses[0] < pauses[3] < pauses[6]


def test_each_pause_is_half_as_long_again_as_the_one_before_less_a_fifth_of_jitter() -> None:
    pauses: list[list[float]] = [[] for _ in range(6)]
    random.seed(1)
    for _ in range(300):
        polled = PolledOperation(600)
        for of_this_poll in pauses:
            of_this_poll.append(polled.pause())
    assert 10.0 <= min(pauses[0]) < 10.1
    assert 11.9 < max(pauses[0]) <= 12.0
    for number, of_this_poll in enumerate(pauses[1:], start=1):
        base = 10.0 * 1.5**number
        assert 0.8 * base <= min(of_this_poll) < 0.81 * base
        assert 0.99 * base < max(of_this_poll) <= base


@pytest.mark.parametrize("interval", [10.0, 11.0])
def test_first_pause_is_at_least_ten_seconds_and_at_most_the_poll_interval(interval: float) -> None:
    random.seed(2)
    for _ in range(50):
        assert 10.0 <= PolledOperation(interval).pause() <= interval


def test_short_poll_interval_shortens_the_first_pause() -> None:
    random.seed(3)
    pauses = [PolledOperation(4).pause() for _ in range(50)]
    assert all(4 * 0.8 <= pause <= 4 for pause in pauses)
    assert len(set(pauses)) == 50


@pytest.mark.parametrize("asked", [45.0, 300.0])
def test_retry_after_lengthens_the_next_pause_only(asked: float) -> None:
    polled = PolledOperation(30)
    polled.pause()
    polled.watch.record_error(unavailable(asked))
    assert polled.pause() == asked
    polled.watch.record_response(running())
    assert polled.pause() <= 30


def test_transient_error_without_retry_after_keeps_the_schedule() -> None:
    polled = PolledOperation(0.05)
    polled.pause()
    polled.watch.record_error(unavailable())
    assert polled.pause() <= 0.05


def test_last_pause_ends_at_the_deadline() -> None:
    polled = PolledOperation(30, timeout=100)
    polls = 0
    while polled.elapsed < 100:
        polled.pause()
        assert not polled.watch.record_response(running(success=3, pending=4))
        polls += 1
    with pytest.raises(exceptions.DicomExportTimeoutError) as error:
        polled.pause()
    assert polled.elapsed == pytest.approx(100)
    assert polls >= 4
    assert str(error.value).startswith(
        "The deadline passed before the export ended. Progress: 3 exported, 0 failed, 4 pending. "
        f"Operation: {NAME}. Logs: https://console.cloud.google.com/logs/"
    )
    assert error.value.operation_name == NAME
    assert error.value.operation == running(success=3, pending=4)


def test_retry_after_does_not_outlast_the_deadline() -> None:
    polled = PolledOperation(30, timeout=50)
    polled.pause()
    polled.watch.record_error(unavailable(600))
    polled.pause()
    assert polled.elapsed == pytest.approx(50)
    with pytest.raises(exceptions.DicomExportTimeoutError):
        polled.pause()


@pytest.mark.parametrize("timeout", [0, -1])
def test_deadline_that_has_passed_ends_the_watch_before_the_first_poll(timeout: float) -> None:
    with pytest.raises(exceptions.DicomExportTimeoutError):
        PolledOperation(30, timeout=timeout).pause()


def test_pause_is_cut_to_the_last_half_second_before_the_deadline() -> None:
    assert PolledOperation(30, timeout=0.5).pause() == 0.5


def test_seconds_left_until_the_deadline() -> None:
    polled = PolledOperation(timeout=100)
    polled.clock.seconds += 40
    assert polled.watch.seconds_left() == 60
    assert PolledOperation().watch.seconds_left() is None


@pytest.mark.parametrize(
    "error",
    [
        forbidden(),
        exceptions.DicomExportNotFoundError("404"),
        exceptions.DicomExportAuthenticationError("401"),
        exceptions.DicomExportInvalidRequestError("400"),
    ],
    ids=str,
)
def test_third_consecutive_error_ends_the_watch(error: exceptions.DicomExportError) -> None:
    polled = PolledOperation()
    for _ in range(2):
        polled.pause()
        polled.watch.record_error(error)
    polled.pause()
    with pytest.raises(type(error)) as raised:
        polled.watch.record_error(error)
    assert str(raised.value) == str(error)
    assert raised.value.operation_name == NAME
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("interruption", ["response", "transient error"])
def test_interrupted_errors_do_not_end_the_watch(interruption: str) -> None:
    polled = PolledOperation()
    for _ in range(15):
        for _ in range(2):
            polled.pause()
            polled.watch.record_error(forbidden())
        polled.pause()
        if interruption == "response":
            polled.watch.record_response(running())
        else:
            polled.watch.record_error(unavailable())
    assert polled.elapsed < 3600


def test_errors_before_a_transient_error_do_not_count() -> None:
    polled = PolledOperation()
    for error in (forbidden(), unavailable(), forbidden(), forbidden()):
        polled.watch.record_error(error)
    with pytest.raises(exceptions.DicomExportPermissionError):
        polled.watch.record_error(forbidden())


def test_watch_without_deadline_gives_up_after_an_hour_without_a_response() -> None:
    polled = PolledOperation()
    polled.pause()
    polled.watch.record_response(running(success=5, pending=5))
    polled.clock.seconds += 3600
    polled.watch.record_error(unavailable())
    polled.clock.seconds += 0.5
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        polled.watch.record_error(unavailable())
    assert error.value.operation_name == NAME
    assert error.value.operation == running(success=5, pending=5)


def test_watch_that_never_got_a_response_gives_up_after_an_hour() -> None:
    polled = PolledOperation()
    with pytest.raises(exceptions.DicomExportUnavailableError):
        polled.fail_every_poll()
    assert 3600 < polled.elapsed <= 3630


def test_watch_with_deadline_outlasts_an_outage_until_the_deadline() -> None:
    polled = PolledOperation(timeout=20_000)
    with pytest.raises(exceptions.DicomExportTimeoutError):
        polled.fail_every_poll()
    assert polled.elapsed == pytest.approx(20_000)


def test_response_restarts_the_hour_without_a_response() -> None:
    polled = PolledOperation()
    for _ in range(3):
        polled.clock.seconds += 3599
        polled.watch.record_error(unavailable())
        polled.watch.record_response(running())


def test_error_shared_by_two_operations_names_each_operation_in_a_copy() -> None:
    other = NAME.replace("/77", "/78")
    shared = unavailable()
    raised = []
    for name in (NAME, other):
        polled = PolledOperation(name=name)
        polled.watch.record_response({**running(success=1), "name": name})
        polled.clock.seconds += 3601
        with pytest.raises(exceptions.DicomExportUnavailableError) as error:
            polled.watch.record_error(shared)
        raised.append(error.value)
    assert [error.operation_name for error in raised] == [NAME, other]
    assert [error.operation["name"] for error in raised if error.operation] == [NAME, other]
    assert (shared.operation_name, shared.operation) == (None, None)


def test_response_without_readable_counters_counts_as_a_failed_poll() -> None:
    polled = PolledOperation()
    unreadable: Operation = {"name": NAME, "done": True, "metadata": {"counter": {"failure": "many"}}}
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        polled.watch.record_response(unreadable)
    polled.watch.record_error(error.value)
    assert polled.log.infos == []
    assert len(polled.log.warnings) == 1


def test_only_a_response_with_done_ends_the_watch() -> None:
    polled = PolledOperation()
    assert polled.watch.record_response({"name": NAME}) is False
    assert polled.watch.record_response({"name": NAME, "done": False}) is False
    assert polled.watch.record_response({"name": NAME, "done": True}) is True


def test_progress_callback_gets_responses_about_the_running_operation_only() -> None:
    polled = PolledOperation()
    polled.watch.record_response(running(success=1, pending=1))
    polled.watch.record_response({**running(success=2), "done": True})
    assert polled.progress == [running(success=1, pending=1)]


def test_watch_without_a_progress_callback() -> None:
    watch = OperationWatch(NAME, poll_interval=30.0, deadline=None, log=RecordedLog())
    assert watch.record_response(running()) is False


def test_response_with_the_projects_number_keeps_its_own_name() -> None:
    polled = PolledOperation()
    by_number: Operation = {"name": NAME.replace("projects/p/", "projects/123/")}
    polled.watch.record_response(by_number)
    assert polled.progress == [by_number]


def watched(seconds: float, done: int, pending: int, timeout: float | None = None) -> PolledOperation:
    """Poll an Operation at its beginning, and again some seconds and instances later."""
    polled = PolledOperation(timeout=timeout)
    polled.watch.record_response(running(pending=done + pending))
    polled.clock.seconds += seconds
    polled.watch.record_response(running(success=done, pending=pending))
    return polled


@pytest.mark.parametrize(
    ("seconds", "done", "pending", "longest"),
    [
        (1000, 1000, 100_000, 300),
        (1000, 1000, 800, 200),
        (1000, 1000, 80, 30),
        (100, 100, 100_000, 100),
        (1000, 0, 100_000, 30),
        (1000, 1000, 0, 30),
    ],
    ids=["far", "nearer", "near", "watched for a moment", "stands still", "nothing pending"],
)
def test_patient_pause_is_a_quarter_of_the_time_that_the_pending_instances_take(
    seconds: float, done: int, pending: int, longest: float
) -> None:
    pauses = [watched(seconds, done, pending).watch.patient_pause(30.0) for _ in range(50)]
    assert max(30.0, longest * 0.8) <= min(pauses)
    assert longest * 0.95 <= max(pauses) <= longest


def test_patient_pause_depends_on_the_fastest_speed_so_far() -> None:
    polled = watched(1000, 10_000, 90_000)
    polled.clock.seconds += 8000
    polled.watch.record_response(running(success=98_000, pending=2000))
    # At 11 a second the rest takes 182 s; at four times that, 45 s.
    assert 36 <= polled.watch.patient_pause(30.0) <= 46


def test_patient_pause_ends_at_the_deadline_and_with_a_failed_poll() -> None:
    polled = watched(1000, 1000, 100_000, timeout=1100.0)
    assert 80 <= polled.watch.patient_pause(30.0) <= 100
    polled.watch.record_error(unavailable())
    assert polled.watch.patient_pause(30.0) == 30.0


def test_first_response_proves_nothing() -> None:
    polled = PolledOperation()
    assert polled.watch.patient_pause(30.0) == 30.0
    polled.watch.record_response(running(success=1000, pending=100_000))
    assert polled.watch.patient_pause(30.0) == 30.0
