"""Waits for Operations at the shared poller: what ends a wait, and which waits share a poller."""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.longrunning import poll_schedule
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.triggers import _shared_poller
from airflow_provider_dicom.triggers._shared_poller import wait_for_operation
from tests.support.fake_operations_api import FakeHook, FakeOperationsApi, PolledDatasets, SentRequest
from tests.support.recorded_log import RecordedLog
from tests.support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_dicom.api_types import Operation

DATASET = "projects/p/locations/l/datasets/d"
NAME = f"{DATASET}/operations/1"
TRIGGER: contextvars.ContextVar[str] = contextvars.ContextVar("TRIGGER", default="none")


@pytest.fixture(autouse=True)
def same_jitter() -> None:
    """The same jitter in every run."""
    random.seed(7)


@in_virtual_time
async def test_unreadable_counters_are_an_error_of_the_poll() -> None:
    polled = PolledDatasets()
    followed = polled.follow(1)
    assert followed.on_response({"name": "x", "metadata": {"counter": {"failure": "many"}}}) is not None
    assert "no readable counters" in polled.log.warnings[0]
    assert not followed.end.done()


@in_virtual_time
async def test_error_that_the_watch_does_not_tolerate_ends_the_wait() -> None:
    polled = PolledDatasets()
    polled.api.error = lambda request: exceptions.DicomExportNotFoundError("404")
    followed = polled.follow(1)
    await polled.until(100)
    assert len(polled.api.requests) == 3
    assert isinstance(followed.end.exception(), exceptions.DicomExportNotFoundError)


@in_virtual_time
async def test_exception_of_a_progress_callback_ends_its_own_wait_only() -> None:
    polled = PolledDatasets()
    bug = ZeroDivisionError("bug")

    def fail(operation: Operation) -> None:
        raise bug

    broken = polled.follow(1, on_progress=fail)
    sound = polled.follow(2, end=15)
    await polled.until(30)
    assert broken.end.exception() is bug
    assert sound.end.result()["done"]


@in_virtual_time
async def test_wait_that_has_ended_ignores_later_responses_and_errors() -> None:
    polled = PolledDatasets()
    followed = polled.follow(1)
    done: Operation = {"name": f"{DATASET}/operations/1", "done": True}
    assert followed.on_response(done) is None
    assert followed.on_response({"name": "other"}) is None
    assert followed.on_error(exceptions.DicomExportError("late")) is None
    followed.fail(ZeroDivisionError("late"))
    assert followed.end.result() == done
    await polled.until(30)
    assert polled.api.requests == []


@in_virtual_time
async def test_deadline_that_has_passed_ends_the_wait_before_the_first_poll() -> None:
    polled = PolledDatasets()
    followed = polled.follow(1, timeout=-1)
    assert isinstance(followed.end.exception(), exceptions.DicomExportTimeoutError)
    await polled.until(30)
    assert polled.api.requests == []


@in_virtual_time
async def test_watch_runs_in_the_context_of_its_trigger_and_requests_in_none() -> None:
    polled = PolledDatasets()
    seen: list[str] = []
    requested: list[str] = []
    polled.api.on_request = lambda request: requested.append(TRIGGER.get())
    for trigger in ("one", "two"):
        TRIGGER.set(trigger)
        polled.follow(len(trigger), dataset=trigger, on_progress=lambda _: seen.append(TRIGGER.get()))
    await polled.until(11)
    assert seen == ["one", "two"]
    assert requested == ["none", "none"]


class Triggers:
    """Triggers on one event loop, each of which waits for an Operation with its own connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = FakeOperationsApi()
        self.hooks: list[FakeHook] = []
        self.close_seconds = 0.0
        monkeypatch.setattr(_shared_poller, "DicomStoreAsyncHook", self._hook)

    def _hook(
        self,
        gcp_conn_id: str,
        impersonation_chain: str | Sequence[str] | None,
        api_endpoint: str | None,
        *,
        max_connections: int,
    ) -> FakeHook:
        hook = FakeHook(
            self.api, gcp_conn_id, impersonation_chain, api_endpoint, max_connections=max_connections
        )
        hook.close_seconds = self.close_seconds
        self.hooks.append(hook)
        return hook

    def wait(
        self,
        number: int = 1,
        *,
        end: float = math.inf,
        timeout: float | None = None,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
    ) -> asyncio.Task[Operation]:
        """
        Start a trigger.

        :param number: the number at the end of the Operation's name.
        :param end: the time at which the Operation ends, in seconds of the event loop.
        :param timeout: the time to the deadline, in seconds.
        """
        loop = asyncio.get_running_loop()
        name = f"{DATASET}/operations/{number}"
        self.api.ends[name] = end
        watch = OperationWatch(
            name,
            poll_interval=10.0,
            deadline=None if timeout is None else loop.time() + timeout,
            log=RecordedLog(),
            now=loop.time,
        )
        return asyncio.create_task(
            wait_for_operation(
                watch,
                gcp_conn_id=gcp_conn_id,
                impersonation_chain=impersonation_chain,
                api_endpoint=api_endpoint,
            )
        )


@pytest.fixture
def triggers(monkeypatch: pytest.MonkeyPatch) -> Triggers:
    """Triggers whose hooks send their requests to a fake API."""
    return Triggers(monkeypatch)


@in_virtual_time
async def test_wait_returns_the_operation_and_closes_the_session(triggers: Triggers) -> None:
    assert await triggers.wait(end=5) == {"name": NAME, "done": True}
    (hook,) = triggers.hooks
    assert hook.closed == 1
    assert hook.max_connections == poll_schedule.MAX_CONNECTIONS + poll_schedule.MAX_STUCK == 64
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_waits_with_the_same_connection_share_a_session_until_the_last_one_ends(
    triggers: Triggers,
) -> None:
    chain = ["a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com"]
    first = triggers.wait(1, end=15, impersonation_chain=chain, api_endpoint="https://host.example")
    second = triggers.wait(2, end=25, impersonation_chain=tuple(chain), api_endpoint="https://host.example")
    await first
    (hook,) = triggers.hooks
    assert hook.closed == 0
    await second
    assert hook.closed == 1
    assert hook.connection == ("google_cloud_default", chain, "https://host.example")


@pytest.mark.parametrize(
    "connection",
    [
        {"gcp_conn_id": "other"},
        {"impersonation_chain": "a@p.iam.gserviceaccount.com"},
        {"impersonation_chain": ["a@p.iam.gserviceaccount.com"]},
        {"api_endpoint": "https://host.example"},
    ],
    ids=str,
)
@in_virtual_time
async def test_waits_with_different_connections_have_sessions_of_their_own(
    connection: dict[str, str], triggers: Triggers
) -> None:
    await asyncio.gather(triggers.wait(1, end=5), triggers.wait(2, end=5, **connection))  # type: ignore[arg-type]
    assert [hook.closed for hook in triggers.hooks] == [1, 1]
    assert not triggers.api.of_kind("list")


@in_virtual_time
async def test_wait_after_the_last_one_has_ended_opens_a_new_session(triggers: Triggers) -> None:
    await triggers.wait(end=5)
    await triggers.wait(end=5)
    assert [hook.closed for hook in triggers.hooks] == [1, 1]


@in_virtual_time
async def test_wait_ends_at_the_deadline(triggers: Triggers) -> None:
    with pytest.raises(exceptions.DicomExportTimeoutError, match=NAME):
        await triggers.wait(timeout=25)
    # The last poll is sent at the deadline.
    assert 25 <= asyncio.get_running_loop().time() < 25.2
    assert triggers.hooks[0].closed == 1


@in_virtual_time
async def test_wait_for_a_response_that_does_not_come_ends_five_seconds_after_the_deadline(
    triggers: Triggers,
) -> None:
    triggers.api.latency = 1000.0
    with pytest.raises(exceptions.DicomExportTimeoutError, match=NAME):
        await triggers.wait(timeout=25)
    assert asyncio.get_running_loop().time() == pytest.approx(30)
    assert triggers.hooks[0].closed == 1


@in_virtual_time
async def test_response_that_comes_up_to_five_seconds_after_the_deadline_counts(triggers: Triggers) -> None:
    triggers.api.latency = 4.0
    assert (await triggers.wait(timeout=10.5, end=12))["done"]


@in_virtual_time
async def test_wait_with_an_unexpected_error_closes_the_session(triggers: Triggers) -> None:
    triggers.api.error = lambda request: ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        await triggers.wait()
    assert triggers.hooks[0].closed == 1


@in_virtual_time
async def test_cancelled_wait_does_not_end_the_others(triggers: Triggers) -> None:
    cancelled, other = triggers.wait(1), triggers.wait(2, end=15)
    await asyncio.sleep(1)
    cancelled.cancel()
    assert (await other)["done"]
    assert cancelled.cancelled()
    assert triggers.hooks[0].closed == 1
    assert {request.resource for request in triggers.api.requests} == {f"{DATASET}/operations/2"}


@in_virtual_time
async def test_session_is_closed_even_if_the_wait_is_cancelled_twice(triggers: Triggers) -> None:
    triggers.close_seconds = 5.0
    wait = triggers.wait()
    await asyncio.sleep(11)
    for _ in range(2):
        wait.cancel()
        await asyncio.sleep(1)
    assert wait.cancelled()
    assert triggers.hooks[0].closed == 0
    await asyncio.sleep(5)
    assert triggers.hooks[0].closed == 1


@in_virtual_time
async def test_operation_name_that_is_refused_leaves_no_session_behind(triggers: Triggers) -> None:
    watch = OperationWatch("operations/1", poll_interval=10.0, deadline=None, log=RecordedLog())
    with pytest.raises(exceptions.DicomExportInvalidRequestError):
        await wait_for_operation(watch, gcp_conn_id="c", impersonation_chain=None, api_endpoint=None)
    await triggers.wait(end=5, gcp_conn_id="c")
    assert [hook.closed for hook in triggers.hooks] == [0, 1]


@in_virtual_time
async def test_refused_list_is_remembered_after_the_last_wait_of_its_credential(triggers: Triggers) -> None:
    def forbid_lists(request: SentRequest) -> Exception | None:
        return exceptions.DicomExportPermissionError("403") if request.kind == "list" else None

    triggers.api.error = forbid_lists
    for night in range(3):
        await asyncio.gather(*(triggers.wait(number, end=5 + 1000 * night) for number in range(2)))
    assert len(triggers.hooks) == 3
    assert len(triggers.api.of_kind("list")) == 1
    await asyncio.gather(*(triggers.wait(number, end=5, gcp_conn_id="other") for number in range(2)))
    assert len(triggers.api.of_kind("list")) == 2
