"""When progress records are written: what anybody could see, and never more than two percent of the time."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.longrunning.record_schedule import Throttle, WriteBudget
from tests.support.polled_operation import Clock
from tests.support.progress_records import operation


def recorded(responses: list[tuple[float, int, int, int]]) -> list[float]:
    """Return the times of the recorded responses; each has a time, and instances in the three states."""
    clock = Clock()
    start, throttle, times = clock.seconds, Throttle(clock), []
    for seconds, success, failure, pending in responses:
        clock.seconds = start + seconds
        if throttle.should_record(operation(success, pending, failure)):
            times.append(seconds)
    return times


def test_progress_is_recorded_at_most_every_15_seconds_and_only_on_change() -> None:
    responses = [(0, 0), (1, 0), (2, 1), (14, 2), (15, 2), (29, 3), (31, 3), (60, 3), (90, 4)]
    assert recorded([(time, done, 0, 10 - done) for time, done in responses]) == [0, 15, 31, 90]


@pytest.mark.parametrize(
    ("done", "seconds", "is_recorded"),
    [(99, 59, False), (100, 59, True), (1, 59, False), (1, 60, True), (0, 3600, False)],
)
def test_progress_is_recorded_when_it_has_moved_by_a_percent_or_a_minute_has_passed(
    done: int, seconds: int, is_recorded: bool
) -> None:
    times = recorded([(0, 0, 0, 10_000), (seconds, done, 0, 10_000 - done)])
    assert times == ([0, seconds] if is_recorded else [0])


def test_growth_of_all_instances_by_a_percent_is_recorded() -> None:
    assert recorded([(0, 10, 0, 90), (20, 10, 0, 90), (25, 10, 0, 190)]) == [0, 25]


def test_first_failure_is_recorded_at_once() -> None:
    assert recorded([(0, 1, 0, 9999), (1, 1, 1, 9998), (2, 1, 2, 9997)]) == [0, 1]


def write_all(seconds: list[float]) -> tuple[list[float], float]:
    """Write records as fast as the budget permits; return the pause after each, and the time of all."""
    clock = Clock()
    start, budget, pauses = clock.seconds, WriteBudget(clock), []
    for took in seconds:
        clock.seconds += took
        budget.spend(took)
        pauses.append(budget.pause())
        clock.seconds += pauses[-1]
    return pauses, clock.seconds - start


@pytest.mark.parametrize("seconds", [0.001, 0.009, 0.05, 0.3, 0.31, 0.7, 4.0, 60.0])
def test_writes_take_two_percent_of_the_time_whatever_one_takes(seconds: float) -> None:
    _, elapsed = write_all([seconds] * 200)
    assert 200 * seconds <= 0.02 * elapsed + 2 * max(seconds, 0.3)
    assert 200 * seconds >= 0.019 * elapsed - 2 * seconds


@pytest.mark.parametrize("slow", [4.0, 60.0])
def test_one_slow_write_does_not_stop_the_records_and_is_paid_for(slow: float) -> None:
    pauses, elapsed = write_all([slow, *[0.009] * 20_000])
    assert pauses[0] == pytest.approx(15.0)
    assert max(pauses[1:]) == pytest.approx(0.9)
    assert slow + 20_000 * 0.009 <= 0.02 * elapsed + 0.01
    assert pauses[-1] == pytest.approx(0.45)


def test_slow_writes_are_not_forgiven_before_the_debt_is_repaid() -> None:
    _, elapsed = write_all([60.0, 0.009] * 50)
    assert 0.02 * elapsed + 120 >= 50 * 60.009


def test_budget_that_was_not_used_is_not_saved_up() -> None:
    clock = Clock()
    budget = WriteBudget(clock)
    clock.seconds += 100_000
    budget.spend(0.2)
    assert budget.pause() == pytest.approx(10.0)


def test_write_under_way_that_takes_long_holds_the_next_one_for_fifteen_seconds() -> None:
    clock = Clock()
    budget = WriteBudget(clock)
    budget.hold()
    assert budget.pause() == pytest.approx(15.0)
    clock.seconds += 15
    assert budget.pause() == 0
