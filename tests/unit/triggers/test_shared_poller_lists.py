"""The shared poller's lists beside other polls of their dataset, and the timers and tasks that it keeps."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import random
import weakref
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom import exceptions
from tests.support.fake_operations_api import PolledDatasets, SentRequest
from tests.support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

UNLISTED = "projects/p/locations/l/datasets/d/operations/2"


@pytest.fixture(autouse=True)
def same_jitter() -> None:
    """The same jitter in every run."""
    random.seed(7)


@in_virtual_time
async def test_list_spares_an_operation_whose_get_is_under_way() -> None:
    polled = PolledDatasets()
    polled.api.unlisted.add(UNLISTED)

    def delay_gets(request: SentRequest) -> None:
        polled.api.latency = 5.0 if request.kind == "get" else 0.01

    polled.api.on_request = delay_gets
    for number in (0, 1):
        polled.follow(number, poll_interval=1.0)
    polled.follow(2)
    await polled.until(15)
    assert [request.resource for request in polled.api.of_kind("get")] == [UNLISTED]
    assert len([request for request in polled.api.of_kind("list") if request.time > 10.1]) >= 3


@in_virtual_time
async def test_response_of_a_list_ends_the_growth_of_a_backoff() -> None:
    polled = PolledDatasets()
    refusal = exceptions.DicomExportQuotaExhaustedError("429")
    polled.api.error = lambda request: refusal if len(polled.api.requests) % 2 else None
    for number in range(2):
        polled.follow(number, poll_interval=1.0)
    await polled.until(60)
    assert not polled.api.of_kind("get")
    sent = [request.time for request in polled.api.requests]
    assert len(sent) >= 10
    assert max(later - earlier for earlier, later in pairwise(sent)) < 6.5


@in_virtual_time
async def test_wait_that_ends_before_its_first_poll_does_not_disturb_the_list() -> None:
    polled = PolledDatasets()
    polled.api.unlisted.add(UNLISTED)
    ended = polled.follow(9, timeout=-1)
    followed = [polled.follow(number, end=5) for number in range(3)]
    await polled.until(11)
    assert all(one.end.result()["done"] for one in followed)
    assert isinstance(ended.end.exception(), exceptions.DicomExportTimeoutError)


@in_virtual_time
async def test_poller_keeps_no_task_of_a_request_that_has_ended() -> None:
    polled = PolledDatasets()
    tasks: list[weakref.ref[asyncio.Task[object] | None]] = []
    polled.api.on_request = lambda request: tasks.append(weakref.ref(asyncio.current_task()))
    polled.follow(1)
    await polled.until(50)
    assert len(tasks) >= 4
    gc.collect()
    assert [task for task in tasks if task() is not None] == []


@in_virtual_time
async def test_poller_has_one_timer_at_a_time() -> None:
    polled = PolledDatasets()
    timers: list[asyncio.TimerHandle] = []
    call_at = polled.loop.call_at

    def record(when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        timer = call_at(when, callback)
        if getattr(callback, "__self__", None) is polled.poller:
            timers.append(timer)
        return timer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polled.loop, "call_at", record)
        polled.follow(1)
        polled.follow(2, dataset="other", poll_interval=1.0)
        polled.follow(3, dataset="third")
    assert len(timers) == 2
    (pending,) = [timer for timer in timers if not timer.cancelled()]
    assert pending.when() < 1.5


@in_virtual_time
async def test_a_thousand_operations_that_begin_together_cost_one_list_a_poll() -> None:
    polled = PolledDatasets()
    # A response takes a while, and the triggerer a moment to start a thousand triggers.
    polled.api.latency = 0.4
    for number in range(1000):
        polled.follow(number, poll_interval=5.0)
        if number % 100 == 99:
            await asyncio.sleep(0.1)
    await polled.until(61)
    assert not polled.api.of_kind("get")
    assert len(polled.api.of_kind("list")) <= 20


@in_virtual_time
async def test_end_is_noticed_within_the_poll_interval_and_a_second_by_lists() -> None:
    polled = PolledDatasets()
    polled.api.latency = 0.2
    delays: list[float] = []

    def note(end: float, _: object) -> None:
        delays.append(polled.loop.time() - end)

    for number in range(400):
        end = 4 + random.uniform(0, 60)
        followed = polled.follow(number, poll_interval=5.0, end=max(end, polled.loop.time()))
        followed.end.add_done_callback(functools.partial(note, end))
        await asyncio.sleep(random.choice([0.0, 0.0, 0.05]))
    await polled.until(90)
    assert len(delays) == 400
    assert max(delays) <= 6.0 + 2 * polled.api.latency


@in_virtual_time
async def test_operation_that_becomes_due_during_a_list_waits_for_the_next_one() -> None:
    polled = PolledDatasets()
    polled.api.latency = 3.0
    for number in range(3):
        polled.follow(number)
    await polled.until(1)
    late = [polled.follow(number, end=5) for number in range(3, 6)]
    await polled.until(20)
    assert [request.kind for request in polled.api.requests] == ["list", "list"]
    assert all(one.end.done() for one in late)


@in_virtual_time
async def test_list_that_never_shows_our_operations_is_read_once_in_half_an_hour() -> None:
    polled = PolledDatasets(page_size=10)
    for number in range(100, 150):
        polled.api.ends[f"projects/p/locations/l/datasets/d/operations/{number}"] = math.inf
    for number in range(20):
        polled.api.unlisted.add(f"projects/p/locations/l/datasets/d/operations/{number}")
        polled.follow(number)
    await polled.until(1700)
    assert len(polled.api.of_kind("list")) == 5
    assert len(polled.api.of_kind("get")) > 20 * 150


@in_virtual_time
async def test_list_is_not_read_to_its_end_for_the_few_operations_that_it_does_not_show() -> None:
    polled = PolledDatasets(page_size=10)
    followed = [polled.follow(number) for number in range(10)]
    polled.api.unlisted.add(followed[3].watch.operation_name)
    for number in range(100, 200):
        polled.api.ends[f"projects/p/locations/l/datasets/d/operations/{number}"] = math.inf
    await polled.until(15)
    # The first page answers nine; the second shows none of ours, and a get costs no more than the third.
    assert [request.kind for request in polled.api.requests] == ["list", "list", "get"]
