"""The shared poller's lists beside other polls of their dataset, and the timers and tasks that it keeps."""

from __future__ import annotations

import asyncio
import gc
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
