"""The schedule of a shared poller: ticks, rate limit, lists, and the backoff after a 429."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import (
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportUnavailableError,
)
from airflow_provider_dicom.longrunning import poll_schedule
from airflow_provider_dicom.longrunning.poll_schedule import DatasetSchedule, Step

#: A time of the event loop, in seconds.
NOW = 5_000.0


def next_step(
    schedule: DatasetSchedule, *, now: float = NOW, operations: int = 10, is_unlisted: bool = False
) -> Step:
    return schedule.next_step(now, operations, is_unlisted=is_unlisted)


def quota_exhausted(retry_after: float | None = None) -> DicomExportQuotaExhaustedError:
    return DicomExportQuotaExhaustedError("429", retry_after=retry_after)


@pytest.mark.parametrize(("due", "tick"), [(7.0, 7.0), (7.01, 7.1), (7.09, 7.1), (0.0, 0.0)])
def test_polls_are_coalesced_to_tenths_of_a_second(due: float, tick: float) -> None:
    assert poll_schedule.next_tick(due) == pytest.approx(tick)


@given(st.floats(0, 10**7))
def test_tick_is_never_early_and_less_than_a_tenth_of_a_second_late(due: float) -> None:
    assert due - 1e-6 <= poll_schedule.next_tick(due) < due + 0.1 + 1e-6


@pytest.mark.parametrize(("operations", "gets"), [(0, 50), (1000, 50), (1001, 51), (2000, 100), (9000, 450)])
def test_rate_limit_is_500_gets_per_second_or_one_sweep_in_two_seconds(operations: int, gets: int) -> None:
    assert poll_schedule.gets_per_tick(operations) == gets


@pytest.mark.parametrize(
    ("connections", "waiting_gets", "needed"),
    [
        (0, 1, True),
        (1, 4, False),
        (1, 5, True),
        (15, 60, False),
        (15, 61, True),
        (16, 64, False),
        (16, 1000, False),
    ],
)
def test_one_more_connection_is_used_for_each_four_waiting_gets_up_to_sixteen(
    connections: int, waiting_gets: int, needed: bool
) -> None:
    assert poll_schedule.needs_connection(connections, waiting_gets) is needed


def test_new_dataset_is_listed_unless_it_has_one_operation_only() -> None:
    assert next_step(DatasetSchedule(), now=0.0, operations=1) is Step.GET
    assert next_step(DatasetSchedule(), now=0.0, operations=2) is Step.LIST


def test_operation_that_the_list_did_not_contain_is_polled_by_get() -> None:
    assert next_step(DatasetSchedule(), is_unlisted=True) is Step.GET


def test_operation_waits_for_the_list_that_is_under_way() -> None:
    schedule = DatasetSchedule()
    schedule.is_listing = True
    assert next_step(schedule) is Step.WAIT_FOR_LIST
    assert next_step(schedule, operations=1) is Step.WAIT_FOR_LIST
    schedule.is_listing = False
    assert next_step(schedule) is Step.LIST


def test_refused_list_is_tried_again_after_a_day() -> None:
    schedule = DatasetSchedule()
    assert schedule.record_list_refused(NOW) == NOW + 86_400
    assert next_step(schedule) is Step.GET
    assert next_step(schedule, now=NOW + 86_399.5, operations=10_000) is Step.GET
    assert next_step(schedule, now=NOW + 86_400, operations=2) is Step.LIST


def test_refusal_that_an_earlier_schedule_recorded_counts() -> None:
    schedule = DatasetSchedule(refused_until=NOW + 60)
    assert next_step(schedule) is Step.GET
    assert next_step(schedule, now=NOW + 60) is Step.LIST


def test_list_without_an_answer_is_tried_again_after_half_an_hour() -> None:
    schedule = DatasetSchedule()
    schedule.record_list_without_answer(NOW)
    assert next_step(schedule, now=NOW + 1799.5, operations=10_000) is Step.GET
    assert next_step(schedule, now=NOW + 1800, operations=2) is Step.LIST


@pytest.mark.parametrize(
    ("pages", "answered", "step"),
    [(1, 0, Step.GET), (1, 1, Step.LIST), (300, 299, Step.GET), (300, 1000, Step.LIST)],
)
def test_list_that_answers_fewer_operations_than_it_has_pages_is_not_read_again(
    pages: int, answered: int, step: Step
) -> None:
    schedule = DatasetSchedule()
    schedule.record_list(pages, answered, NOW)
    assert next_step(schedule, now=NOW + 1799.5, operations=1000) is step
    assert next_step(schedule, now=NOW + 1800, operations=1000) is Step.LIST


def test_lists_of_a_dataset_begin_at_least_a_second_apart() -> None:
    schedule = DatasetSchedule()
    schedule.begin_list(NOW)
    assert next_step(schedule, now=NOW + 0.5) is Step.WAIT_FOR_LIST
    schedule.is_listing = False
    assert next_step(schedule, now=NOW + 0.9) is Step.WAIT_FOR_NEXT_LIST
    assert next_step(schedule, now=NOW + 0.9, is_unlisted=True) is Step.GET
    assert next_step(schedule, now=NOW + 0.9, operations=1) is Step.GET
    assert next_step(schedule, now=NOW + 1) is Step.LIST


def test_list_with_too_many_pages_is_used_for_more_operations_than_pages() -> None:
    schedule = DatasetSchedule()
    schedule.record_list_too_long(10, NOW)
    assert next_step(schedule, operations=10) is Step.GET
    assert next_step(schedule, operations=11) is Step.LIST


def test_list_with_too_many_pages_is_tried_again_after_half_an_hour() -> None:
    schedule = DatasetSchedule()
    schedule.record_list_too_long(10, NOW)
    assert next_step(schedule, now=NOW + 1799.5, operations=2) is Step.GET
    assert next_step(schedule, now=NOW + 1800, operations=2) is Step.LIST
    assert next_step(schedule, now=NOW + 1800.5, operations=2) is Step.LIST


def test_list_of_no_page_does_not_make_a_single_operation_worth_a_list() -> None:
    schedule = DatasetSchedule()
    schedule.record_list_too_long(0, NOW)
    assert next_step(schedule, operations=1) is Step.GET
    assert next_step(schedule, operations=2) is Step.LIST


def test_refused_list_after_a_long_one_stays_refused() -> None:
    schedule = DatasetSchedule()
    schedule.record_list_too_long(3, NOW)
    schedule.record_list_refused(NOW + 1)
    assert next_step(schedule, now=NOW + 2, operations=100) is Step.GET


@pytest.mark.parametrize("is_unlisted", [True, False])
def test_no_operation_of_a_dataset_is_polled_until_its_backoff_is_over(is_unlisted: bool) -> None:
    schedule = DatasetSchedule()
    schedule.record_error(quota_exhausted(), NOW)
    for operations in (1, 10):
        step = next_step(schedule, now=NOW + 4.9, operations=operations, is_unlisted=is_unlisted)
        assert step is Step.WAIT_FOR_BACKOFF
        assert next_step(schedule, now=NOW + 5, operations=operations) is not Step.WAIT_FOR_BACKOFF


def test_backoff_doubles_from_five_seconds_to_two_minutes() -> None:
    schedule = DatasetSchedule()
    backoffs = []
    for _ in range(7):
        schedule.record_error(quota_exhausted(), NOW)
        backoffs.append(schedule.not_before - NOW)
    assert backoffs == [5, 10, 20, 40, 80, 120, 120]


def test_response_ends_the_growth_of_the_backoff() -> None:
    schedule = DatasetSchedule()
    for _ in range(3):
        schedule.record_error(quota_exhausted(), NOW)
    schedule.record_response()
    schedule.record_error(quota_exhausted(), NOW)
    assert schedule.not_before == NOW + 5


@pytest.mark.parametrize(("retry_after", "backoff"), [(2.0, 5.0), (7.0, 7.0), (600.0, 600.0)])
def test_backoff_is_never_shorter_than_retry_after(retry_after: float, backoff: float) -> None:
    schedule = DatasetSchedule()
    schedule.record_error(quota_exhausted(retry_after), NOW)
    assert schedule.not_before == NOW + backoff


@pytest.mark.parametrize("error", [DicomExportUnavailableError("503"), DicomExportPermissionError("403")])
def test_errors_other_than_429_begin_no_backoff(
    error: DicomExportUnavailableError | DicomExportPermissionError,
) -> None:
    schedule = DatasetSchedule()
    schedule.record_error(error, NOW)
    assert next_step(schedule) is Step.LIST


@pytest.mark.parametrize(("wanted", "pages"), [(1, 0), (2, 1), (1000, 999)])
def test_list_may_take_fewer_pages_than_there_are_operations(wanted: int, pages: int) -> None:
    assert poll_schedule.page_budget(wanted) == pages
