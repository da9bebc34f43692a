"""The shared poller's decisions: which request is sent when, and whom a response or an error reaches."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom import exceptions
from tests.support.fake_operations_api import PolledDatasets, SentRequest
from tests.support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

DATASET = "projects/p/locations/l/datasets/d"


def times(requests: list[SentRequest]) -> list[float]:
    """Return the times at which requests were sent, rounded down to a tenth of a second."""
    return [math.floor(request.time * 10 + 1e-6) / 10 for request in requests]


@pytest.fixture(autouse=True)
def same_jitter() -> None:
    """The same jitter in every run."""
    random.seed(7)


@in_virtual_time
async def test_single_operation_is_polled_by_get_until_it_is_done() -> None:
    polled = PolledDatasets()
    followed = polled.follow(1, end=30)
    operation = await followed.end
    assert operation == {"name": f"{DATASET}/operations/1", "done": True}
    assert {request.kind for request in polled.api.requests} == {"get"}
    first, *others = times(polled.api.requests)
    assert first == 10.0
    assert all(
        8.0 <= later - earlier <= 10.2 for earlier, later in zip([first, *others], others, strict=False)
    )
    requests = len(polled.api.requests)
    await polled.until(1000)
    assert len(polled.api.requests) == requests


@in_virtual_time
async def test_operations_of_a_dataset_are_answered_by_one_list() -> None:
    polled = PolledDatasets()
    followed = [polled.follow(number, end=5) for number in range(5)]
    await polled.until(10.5)
    assert all(one.end.done() for one in followed)
    (request,) = polled.api.requests
    assert (request.kind, request.resource, request.query) == ("list", DATASET, {"pageSize": "1000"})
    assert times([request]) == [10.0]


@in_virtual_time
async def test_running_operations_cost_one_list_a_poll() -> None:
    polled = PolledDatasets()
    for number in range(5):
        polled.follow(number)
    await polled.until(200)
    assert not polled.api.of_kind("get")
    # Each list answers all, so that the schedule of an Operation that polled before the others is void.
    assert 20 <= len(polled.api.requests) <= 25


@in_virtual_time
async def test_operations_of_other_datasets_are_listed_apart() -> None:
    polled = PolledDatasets()
    for number in range(4):
        polled.follow(number, dataset="even" if number % 2 else "odd", end=5)
    await polled.until(11)
    assert sorted(request.resource for request in polled.api.of_kind("list")) == sorted(
        {name.partition("/operations/")[0] for name in polled.api.ends}
    )


@in_virtual_time
async def test_list_does_not_answer_an_operation_before_its_first_pause_is_over() -> None:
    polled = PolledDatasets()
    for number in range(2):
        polled.follow(number, end=50)
    await polled.until(45)
    late = polled.follow(3, end=0)
    await polled.until(54.9)
    assert polled.api.of_kind("list")[-1].time > 45
    assert not late.end.done()
    await polled.until(55.5)
    assert late.end.done()


@in_virtual_time
async def test_operation_that_the_list_leaves_out_is_polled_by_get() -> None:
    polled = PolledDatasets()
    polled.api.unlisted.add(f"{DATASET}/operations/2")
    followed = [polled.follow(number, end=5) for number in range(3)]
    await polled.until(11)
    assert all(one.end.done() for one in followed)
    assert [(request.kind, request.resource) for request in polled.api.requests] == [
        ("list", DATASET),
        ("get", f"{DATASET}/operations/2"),
    ]


@in_virtual_time
async def test_operation_that_the_list_left_out_once_is_looked_for_in_later_lists() -> None:
    polled = PolledDatasets()
    polled.api.unlisted.add(f"{DATASET}/operations/2")
    for number in range(3):
        polled.follow(number)
    await polled.until(15)
    polled.api.unlisted.clear()
    await polled.until(200)
    assert len(polled.api.of_kind("get")) == 1


@in_virtual_time
async def test_refused_list_leads_to_gets_for_a_day() -> None:
    polled = PolledDatasets()

    def forbid_lists(request: SentRequest) -> Exception | None:
        return exceptions.DicomExportPermissionError("403") if request.kind == "list" else None

    polled.api.error = forbid_lists
    followed = [polled.follow(number, poll_interval=600.0) for number in range(3)]
    await polled.until(86_400)
    (refused,) = times(polled.api.of_kind("list"))
    assert 10.0 <= refused <= 12.0
    assert times(polled.api.of_kind("get"))[:3] == [pytest.approx(refused + 0.1, abs=2)] * 3
    assert len(polled.api.of_kind("get")) > 3 * 140
    await polled.until(87_020)
    assert len(polled.api.of_kind("list")) == 2
    assert not any(one.end.done() for one in followed)
    assert polled.log.warnings == []


@in_virtual_time
async def test_transient_error_of_a_list_is_an_error_of_each_operation_that_waited_for_it() -> None:
    polled = PolledDatasets()
    broken = exceptions.DicomExportUnavailableError("503", retry_after=40.0)
    polled.api.error = lambda request: broken if request.resource == DATASET and request.time < 11 else None
    for number in range(3):
        polled.follow(number)
    polled.follow(1, dataset="other")
    await polled.until(55)
    assert times(polled.requests_about("d")) == [10.0, 50.1]
    assert len(polled.requests_about("other")) >= 4
    assert len(polled.log.warnings) == 3
    assert all("503" in line for line in polled.log.warnings)


@in_virtual_time
async def test_transient_error_of_a_list_spares_operations_whose_first_pause_is_not_over() -> None:
    polled = PolledDatasets()
    broken = exceptions.DicomExportUnavailableError("503", retry_after=40.0)
    polled.api.error = lambda request: broken if request.time < 11 else None
    for number in range(2):
        polled.follow(number)
    await polled.until(5)
    polled.follow(2)
    await polled.until(16)
    assert len(polled.log.warnings) == 2
    assert times(polled.api.requests) == [10.0, 15.0]


@in_virtual_time
async def test_unexpected_error_of_a_list_ends_the_waits_of_its_dataset_only() -> None:
    polled = PolledDatasets()
    bug = ZeroDivisionError("bug")
    polled.api.error = lambda request: bug if request.kind == "list" else None
    followed = [polled.follow(number) for number in range(2)]
    other = polled.follow(9, dataset="other", end=15)
    await polled.until(30)
    assert [one.end.exception() for one in followed] == [bug, bug]
    assert other.end.result()["done"]


@in_virtual_time
async def test_unexpected_error_of_a_get_ends_the_wait_for_its_operation_only() -> None:
    polled = PolledDatasets()
    bug = ZeroDivisionError("bug")
    polled.api.error = lambda request: bug if request.resource.endswith("/1") else None
    broken = polled.follow(1)
    sound = polled.follow(2, dataset="other", end=15)
    await polled.until(30)
    assert broken.end.exception() is bug
    assert sound.end.result()["done"]


@in_virtual_time
async def test_429_of_a_get_holds_back_its_dataset_only() -> None:
    polled = PolledDatasets()
    refusal = exceptions.DicomExportQuotaExhaustedError("429", retry_after=100.0)
    polled.api.error = lambda request: refusal if request.resource.startswith(DATASET + "/") else None
    polled.follow(1)
    polled.follow(1, dataset="other")
    await polled.until(10.5)
    for number in (2, 3):
        polled.follow(number)
    polled.api.error = lambda request: None
    await polled.until(110)
    assert [request.resource for request in polled.api.requests].count(f"{DATASET}/operations/1") == 1
    assert {request.resource for request in polled.api.requests if request.time > 11} == {
        "projects/p/locations/l/datasets/other/operations/1"
    }
    await polled.until(112)
    assert polled.api.requests[-1].kind == "list"


@in_virtual_time
async def test_429_of_a_list_holds_back_gets_of_its_dataset_and_doubles() -> None:
    polled = PolledDatasets()
    refusal = exceptions.DicomExportQuotaExhaustedError("429")
    polled.api.error = lambda request: refusal
    for number in range(2):
        polled.follow(number, poll_interval=1.0)
    await polled.until(40)
    sent = times(polled.api.requests)
    pauses = [later - earlier for earlier, later in pairwise(sent)]
    assert [pause // 5 * 5 for pause in pauses] == [5.0, 10.0, 20.0]


@in_virtual_time
async def test_response_ends_the_growth_of_a_backoff() -> None:
    polled = PolledDatasets()
    refusal = exceptions.DicomExportQuotaExhaustedError("429")
    polled.api.error = lambda request: refusal if len(polled.api.requests) % 2 else None
    polled.follow(1, poll_interval=1.0)
    await polled.until(60)
    sent = times(polled.api.requests)
    pauses = [later - earlier for earlier, later in pairwise(sent)]
    assert max(pauses) < 6.5


@in_virtual_time
async def test_list_is_read_page_by_page_until_every_operation_is_answered() -> None:
    polled = PolledDatasets(page_size=2)
    for number in range(4, 100):
        polled.api.ends[f"{DATASET}/operations/{number}"] = math.inf
    polled.api.ends = {f"{DATASET}/operations/{number}": 5.0 for number in range(4)} | polled.api.ends
    followed = [polled.follow(number, end=5) for number in range(4)]
    await polled.until(11)
    assert all(one.end.done() for one in followed)
    assert [request.query.get("pageToken") for request in polled.api.requests] == [None, "2"]
    assert all(request.query["pageSize"] == "1000" for request in polled.api.requests)


@in_virtual_time
async def test_list_is_given_up_when_gets_cost_fewer_requests() -> None:
    polled = PolledDatasets(page_size=1)
    for number in range(100, 200):
        polled.api.ends[f"{DATASET}/operations/{number}"] = math.inf
    followed = [polled.follow(number, end=5) for number in range(4)]
    await polled.until(11)
    assert all(one.end.done() for one in followed)
    assert [request.kind for request in polled.api.requests] == ["list"] * 3 + ["get"] * 4


@in_virtual_time
async def test_list_that_was_too_long_is_not_tried_again_for_as_many_operations() -> None:
    polled = PolledDatasets(page_size=1)
    for number in range(100, 200):
        polled.api.ends[f"{DATASET}/operations/{number}"] = math.inf
    for number in range(4):
        polled.follow(number)
    await polled.until(100)
    assert len(polled.api.of_kind("list")) == 3
    polled.follow(4)
    await polled.until(115)
    assert len(polled.api.of_kind("list")) > 3


@in_virtual_time
async def test_long_page_lets_other_tasks_of_the_event_loop_run_every_500_operations() -> None:
    polled = PolledDatasets(page_size=2000)
    turns: list[str] = []

    def first_of_page(operation: Operation) -> None:
        polled.loop.call_soon(turns.append, "turn")

    seen: list[int] = []
    polled.follow(0, on_progress=first_of_page)
    for number in range(1, 1000):
        polled.api.ends[f"{DATASET}/operations/{number}"] = math.inf
    for number in (499, 500, 999):
        polled.follow(number, on_progress=lambda operation: seen.append(len(turns)))
    await polled.until(10.05)
    assert seen == [0, 1, 1]


@in_virtual_time
async def test_gets_of_one_tick_are_limited_to_fifty() -> None:
    polled = PolledDatasets()
    for number in range(120):
        polled.follow(number, dataset=f"d{number}", end=5)
    await polled.until(11)
    sent = times(polled.api.requests)
    assert [sent.count(tick) for tick in (10.0, 10.1, 10.2)] == [50, 50, 20]


@in_virtual_time
async def test_lists_do_not_count_as_gets_of_a_tick() -> None:
    polled = PolledDatasets()
    for number in range(60):
        polled.follow(2 * number, dataset=f"d{number}", end=5)
        polled.follow(2 * number + 1, dataset=f"d{number}", end=5)
    await polled.until(11)
    assert times(polled.api.requests) == [10.0] * 60


@in_virtual_time
async def test_gets_share_at_most_sixteen_connections() -> None:
    polled = PolledDatasets()
    polled.api.latency = 0.05
    followed = [polled.follow(number, dataset=f"d{number}", end=5) for number in range(200)]
    await polled.until(20)
    assert polled.api.most_in_flight == 16
    assert all(one.end.done() for one in followed)
    await polled.until(21)
    later = [polled.follow(number, dataset=f"d{number}", end=5) for number in range(500, 700)]
    await polled.until(45)
    assert polled.api.most_in_flight == 16
    assert all(one.end.done() for one in later)


@in_virtual_time
async def test_earlier_poll_advances_the_timer() -> None:
    polled = PolledDatasets()
    polled.follow(1)
    soon = polled.follow(2, dataset="d2", poll_interval=1.0, end=0)
    await polled.until(1.5)
    assert soon.end.done()
    await polled.until(10.5)
    assert len(polled.api.requests) == 2


@in_virtual_time
async def test_operation_that_is_no_longer_followed_is_not_polled() -> None:
    polled = PolledDatasets()
    first, second = polled.follow(1), polled.follow(2, dataset="d2")
    assert polled.poller.unfollow(first) == 1
    await polled.until(11)
    assert [request.resource for request in polled.api.requests] == [f"{DATASET}2/operations/2"]
    assert polled.poller.unfollow(second) == 0


@in_virtual_time
async def test_dataset_starts_afresh_after_its_last_operation() -> None:
    polled = PolledDatasets()
    refusal = exceptions.DicomExportQuotaExhaustedError("429", retry_after=1000.0)
    polled.api.error = lambda request: refusal if request.time < 11 else None
    for _ in range(2):
        followed = [polled.follow(number) for number in range(2)]
        await polled.until(polled.loop.time() + 11)
        for one in followed:
            polled.poller.unfollow(one)
    assert len(polled.api.of_kind("list")) == 2


@in_virtual_time
async def test_dataset_keeps_its_state_while_one_of_its_operations_is_followed() -> None:
    polled = PolledDatasets()
    polled.api.error = lambda request: (
        exceptions.DicomExportPermissionError("403") if request.kind == "list" else None
    )
    polled.follow(1)
    for number in range(2, 5):
        followed = [polled.follow(number), polled.follow(10 * number)]
        await polled.until(polled.loop.time() + 11)
        for one in followed:
            polled.poller.unfollow(one)
    assert len(polled.api.of_kind("list")) == 1


@in_virtual_time
async def test_closing_cancels_timer_and_requests_and_closes_the_session() -> None:
    polled = PolledDatasets()
    polled.api.latency = 100.0
    polled.follow(1)
    polled.follow(2, dataset="d2", poll_interval=50.0)
    await polled.until(10.5)
    polled.follow(3, dataset="d3")
    assert polled.api.in_flight >= 1
    await polled.poller.close()
    assert polled.hook.in_flight_at_close == 0
    assert polled.hook.closed == 1
    requests = len(polled.api.requests)
    await polled.until(100)
    assert len(polled.api.requests) == requests
