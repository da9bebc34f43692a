"""One watcher per event loop and credential, shared by all exports that are followed there."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import weakref
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom import api
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportQuotaExhaustedError,
    DicomExportTransientError,
)
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook
from airflow_provider_dicom.resources import DatasetName, OperationName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence

    from airflow_provider_dicom.api import ApiRequest
    from airflow_provider_dicom.operation import Operation, OperationPage
    from airflow_provider_dicom.polling import OperationWatch

#: Connections, and so requests at a time, of one watcher.
MAX_CONNECTIONS = 16
#: Requests a second of one watcher, or as many as it takes to ask about everything within so many seconds.
RATE = 500.0
SPREAD = 2.0
#: Requests are sent at multiples of so many seconds.
GRID = 0.02
#: What is due within so many seconds is asked about together.
WINDOW = 1.0
PAGE_SIZE = 1000
#: How long a dataset's Operations are asked for one by one after a refused or a costly list, in seconds.
LIST_AGAIN_AFTER = 1800.0
#: Pauses of a whole dataset after a 429, in seconds; they double up to the second.
SLOWDOWN = (5.0, 120.0)
#: Waiters woken in one turn of the event loop.
BATCH = 500
#: How long past its deadline a watch may wait for an answer that is under way, in seconds.
LATE_ANSWER = 5.0

_Key = tuple[str, str | tuple[str, ...] | None, str | None]
_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Watcher]] = (
    weakref.WeakKeyDictionary()
)


@contextlib.asynccontextmanager
async def shared_watcher(
    gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None, api_endpoint: str | None
) -> AsyncIterator[Watcher]:
    """
    Take part in the event loop's watcher for a credential; it is closed when the last one leaves.

    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's.
    """
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    chain = impersonation_chain
    key = (gcp_conn_id, chain if chain is None or isinstance(chain, str) else tuple(chain), api_endpoint)
    if key not in watchers:
        watchers[key] = Watcher(
            DicomStoreAsyncHook(gcp_conn_id, chain, api_endpoint, max_connections=MAX_CONNECTIONS)
        )
    watcher = watchers[key]
    watcher.subscribers += 1
    try:
        yield watcher
    finally:
        watcher.subscribers -= 1
        if not watcher.subscribers:
            del watchers[key]
            # A trigger that is cancelled once more must not leave a session open.
            await asyncio.shield(watcher.spawn(watcher.close()))


class Watcher:
    """
    Follows any number of Operations with one HTTP session and one token.

    :param hook: the hook; the watcher closes it.
    """

    def __init__(self, hook: DicomStoreAsyncHook) -> None:
        self.hook = hook
        self.subscribers = 0
        self.pace = _Pace(self)
        self._datasets: dict[DatasetName, _DatasetPoll] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait_for_operation(self, watch: OperationWatch) -> Operation:
        """
        Poll an Operation until it has ended, and return it.

        :param watch: decides when to poll and what each answer means.
        :raises DicomExportError: if the watch gives up.
        """
        name = OperationName.parse(watch.operation_name)
        request = api.get_operation(name)
        dataset = self._datasets.get(name.dataset)
        if dataset is None:
            dataset = self._datasets[name.dataset] = _DatasetPoll(self, name.dataset)
        dataset.subscribers += 1
        try:
            while True:
                pause = watch.pause()
                try:
                    operation = await dataset.ask(request, pause, watch.time_left())
                except DicomExportError as error:
                    watch.failed(error)
                else:
                    if watch.answered(operation):
                        return operation
        finally:
            dataset.subscribers -= 1
            if not dataset.subscribers:
                dataset.stop()
                del self._datasets[name.dataset]

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """
        Run work in a task of its own.

        :param work: the coroutine.
        """
        # With an empty context: in that of one trigger, its task's log would get the lines of all.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Stop all work and close the HTTP session."""
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.hook.close()


class _Ask:
    """One Operation that somebody wants to hear about from a certain moment on."""

    __slots__ = ("answer", "due", "request", "under_way")

    def __init__(self, request: ApiRequest, due: float, answer: asyncio.Future[Operation]) -> None:
        self.request = request
        self.due = due
        self.answer = answer
        self.under_way = False

    def succeed(self, operation: Operation) -> None:
        if not self.answer.done():
            self.answer.set_result(operation)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _DatasetPoll:
    """Asks about the Operations of one dataset: with a list where that is cheaper, else one by one."""

    def __init__(self, watcher: Watcher, dataset: DatasetName) -> None:
        self.subscribers = 0
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._list_request = api.list_operations(dataset, filter_=None, page_size=PAGE_SIZE)
        self._asks: set[_Ask] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._is_ticking = False
        self._not_before = 0.0
        self._slowdown = 0.0
        self._list_not_before = 0.0
        self._list_costs = 0

    async def ask(self, request: ApiRequest, pause: float, time_left: float | None) -> Operation:
        """
        Get the state of an Operation, about so many seconds from now.

        :param request: the request for this one Operation.
        :param pause: when to ask, in seconds from now.
        :param time_left: when nobody needs the answer any more, in seconds from now.
        :raises DicomExportError: if the API gives no good answer.
        """
        ask = _Ask(request, self._loop.time() + pause, self._loop.create_future())
        self._asks.add(ask)
        self._set_alarm(ask.due)
        try:
            if time_left is None:
                return await ask.answer
            async with asyncio.timeout(time_left + LATE_ANSWER):
                return await ask.answer
        except TimeoutError as error:
            raise DicomExportTransientError(f"No answer about {request.operation_name} yet") from error
        finally:
            self._asks.discard(ask)

    def stop(self) -> None:
        """Forget the alarm; nobody is waiting any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set_alarm(self, due: float) -> None:
        if self._is_ticking:
            return
        due = max(due, self._not_before)
        if self._alarm is not None:
            if self._alarm.when() <= due:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._is_ticking = True
        self._watcher.spawn(self._tick())

    async def _tick(self) -> None:
        try:
            waiting = [ask for ask in self._asks if not ask.under_way]
            if self._is_list_worthwhile(len(waiting)):
                await self._list(waiting)
            horizon = self._loop.time() + WINDOW
            for ask in waiting:
                if ask.due <= horizon and not ask.answer.done():
                    ask.under_way = True
                    self._watcher.spawn(self._get(ask))
        except Exception as error:
            # Nobody awaits this task: without this, the triggers would wait for ever.
            for ask in self._asks:
                ask.fail(error)
            raise
        finally:
            self._is_ticking = False
            due = [ask.due for ask in self._asks if not (ask.under_way or ask.answer.done())]
            if due:
                self._set_alarm(min(due))

    def _is_list_worthwhile(self, waiting: int) -> bool:
        now = self._loop.time()
        if now >= self._list_not_before:
            self._list_costs = 0
        elif not self._list_costs:
            return False
        return waiting > max(1, self._list_costs)

    async def _list(self, waiting: Iterable[_Ask]) -> None:
        """Answer from the list, as long as that takes fewer pages than there are Operations to answer."""
        wanted: dict[str, list[_Ask]] = {}
        for ask in waiting:
            wanted.setdefault(cast("str", ask.request.operation_name), []).append(ask)
        affordable = len(wanted) - 1
        request = self._list_request
        try:
            for _ in range(affordable):
                async with self._watcher.pace:
                    page = cast("OperationPage", await self._watcher.hook.ask(request))
                await self._hand_out(page, wanted)
                self._slowdown = 0.0
                token = page.get("nextPageToken")
                if not wanted or not token:
                    return
                request = request.page(token)
            self._list_costs = affordable + 1
            self._list_not_before = self._loop.time() + LIST_AGAIN_AFTER
        except DicomExportTransientError as error:
            self._slow_down(error)
            now = self._loop.time()
            for asks in wanted.values():
                for ask in asks:
                    if ask.due <= now + WINDOW:
                        ask.fail(error)
        except DicomExportError:
            # Most callers may get Operations, but not list them.
            self._list_costs = 0
            self._list_not_before = self._loop.time() + LIST_AGAIN_AFTER

    async def _hand_out(self, page: OperationPage, wanted: dict[str, list[_Ask]]) -> None:
        woken = 0
        for operation in page.get("operations", []):
            for ask in wanted.pop(operation.get("name", ""), ()):
                ask.succeed(operation)
                woken += 1
                if woken % BATCH == 0:
                    await asyncio.sleep(0)

    async def _get(self, ask: _Ask) -> None:
        try:
            async with self._watcher.pace:
                if ask.answer.done():
                    return
                operation = cast("Operation", await self._watcher.hook.ask(ask.request))
        except DicomExportError as error:
            self._slow_down(error)
            ask.fail(error)
        except Exception as error:
            ask.fail(error)
            raise
        else:
            self._slowdown = 0.0
            ask.succeed(operation)

    def _slow_down(self, error: DicomExportError) -> None:
        if not isinstance(error, DicomExportQuotaExhaustedError):
            return
        first, longest = SLOWDOWN
        self._slowdown = min(max(first, self._slowdown * 2), longest)
        self._not_before = self._loop.time() + max(self._slowdown, error.retry_after or 0.0)


class _Pace:
    """Lets so many requests through at a time, and so many a second."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._next = 0.0

    async def __aenter__(self) -> None:
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next)
        self._next = turn + 1 / max(RATE, self._watcher.subscribers / SPREAD)
        if turn > now:
            # On a grid, so that several requests share a turn of the event loop: waking it costs most.
            await asyncio.sleep(math.ceil(turn / GRID) * GRID - now)
        await self._slots.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()
