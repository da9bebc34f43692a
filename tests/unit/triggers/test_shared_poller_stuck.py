"""A stuck answer, or a broken list, holds up nobody but those who wait for it."""

from __future__ import annotations

import random

import pytest

from airflow_provider_dicom import exceptions
from tests.support.fake_operations_api import PolledDatasets, SentRequest
from tests.support.virtual_time import in_virtual_time

GARBAGE = exceptions.DicomExportUnavailableError("not the expected JSON")


@pytest.fixture(autouse=True)
def same_jitter() -> None:
    """The same jitter in every run."""
    random.seed(7)


@in_virtual_time
async def test_stuck_get_does_not_hold_up_the_gets_behind_it() -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: (
        60.0 if request.resource.endswith("datasets/bad/operations/1") else 0.0
    )
    polled.follow(1, dataset="bad")
    healthy = [polled.follow(number, dataset=f"good-{number}", end=5) for number in range(3)]
    await polled.until(16)
    assert all(one.end.done() for one in healthy)


@in_virtual_time
async def test_stuck_gets_do_not_hold_up_later_polls() -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: 60.0 if "/bad-" in request.resource else 0.0
    for number in range(40):
        polled.follow(number, dataset=f"bad-{number}")
    healthy = polled.follow(1, dataset="good", poll_interval=12.0, end=20)
    await polled.until(50)
    assert healthy.end.done()


@in_virtual_time
async def test_stuck_get_is_polled_again_after_its_own_end() -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: 60.0 if request.time < 11 else 0.0
    polled.api.error = lambda request: GARBAGE if request.time < 11 else None
    followed = polled.follow(1, end=5)
    await polled.until(100)
    assert followed.end.done()
    assert len(polled.api.requests) == 2


@in_virtual_time
async def test_stuck_gets_use_a_bounded_number_of_connections() -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: 60.0
    for number in range(300):
        polled.follow(number, dataset=f"d{number}")
    await polled.until(200)
    assert 16 < polled.api.most_in_flight <= 64


@pytest.mark.parametrize("latency", [6.0, 60.0])
@in_virtual_time
async def test_connections_are_free_again_after_each_wave_of_stuck_gets(latency: float) -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: latency if "/bad-" in request.resource else 0.0
    for wave, size in enumerate([40, 40, 40, 300]):
        for number in range(size):
            polled.follow(number, dataset=f"bad-{wave}-{number}", end=5)
        healthy = polled.follow(1, dataset=f"good-{wave}", poll_interval=12.0, end=5)
        await polled.until(100 * wave + 11)
        assert polled.api.in_flight == min(16, size / 4), "none is stuck yet"
        await polled.until(100 * wave + 50)
        assert healthy.end.done() or size > 40
        await polled.until(100 * wave + 100)
    assert 16 < polled.api.most_in_flight <= 64


@in_virtual_time
async def test_closing_cancels_stuck_gets() -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: 600.0
    for number in range(3):
        polled.follow(number, dataset=f"d{number}")
    await polled.until(30)
    assert polled.api.in_flight == 3
    await polled.poller.close()
    assert polled.api.in_flight == 0


@in_virtual_time
async def test_stuck_list_is_replaced_by_gets() -> None:
    polled = PolledDatasets()
    polled.api.extra_latency = lambda request: 600.0 if request.kind == "list" else 0.0
    followed = [polled.follow(number, end=5) for number in range(3)]
    await polled.until(42)
    assert all(one.end.done() for one in followed)
    assert [request.kind for request in polled.api.requests] == ["list", *["get"] * 3]


@in_virtual_time
async def test_list_that_fails_twice_is_replaced_by_gets() -> None:
    polled = PolledDatasets()
    polled.api.error = lambda request: GARBAGE if request.kind == "list" else None
    followed = [polled.follow(number, end=5) for number in range(3)]
    await polled.until(31)
    assert all(one.end.done() for one in followed)
    assert [request.kind for request in polled.api.requests] == ["list", "list", *["get"] * 3]


@in_virtual_time
async def test_list_whose_pages_lead_back_is_replaced_by_gets() -> None:
    polled = PolledDatasets(page_size=1)
    seen: list[SentRequest] = []

    async def endless(request: object) -> object:
        if "/operations?" not in request.target:  # type: ignore[attr-defined]
            return await respond(request)  # type: ignore[arg-type]
        seen.append(request)  # type: ignore[arg-type]
        return {"operations": [], "nextPageToken": "again"}

    respond = polled.api.respond
    polled.api.respond = endless  # type: ignore[method-assign]
    followed = [polled.follow(number, end=5) for number in range(10)]
    await polled.until(31)
    assert all(one.end.done() for one in followed)
    assert len(seen) == 4, "two lists of two pages each"


@in_virtual_time
async def test_list_that_fails_once_is_tried_again() -> None:
    polled = PolledDatasets()
    polled.api.error = lambda request: GARBAGE if len(polled.api.of_kind("list")) % 2 else None
    for number in range(3):
        polled.follow(number)
    await polled.until(200)
    assert not polled.api.of_kind("get")
