"""
The shared poller: one per event loop and credential, for all Operations that triggers follow there.

Modes: an Operation is polled by ``operations.get``, or together with the others of its dataset by
``operations.list`` where that is permitted and cheaper (``longrunning/poll_schedule.py`` decides). What a
response means, and the pause until the next poll, is up to each Operation's watch
(``longrunning/polling.py``).

Lifecycle invariants:

- The first Operation that is followed with a credential creates its poller; the last one closes it, session
  and all, even if that trigger is being cancelled.
- Everything that an Operation's watch raises ends that Operation's wait only, never the poller nor other
  waits.
- An Operation is either scheduled (``Followed.due`` is set), waiting for a get, or waiting for a list; every
  path ends with a new schedule, a result or an error. An unexpected exception becomes an error of the
  Operations that waited for the request, because nobody awaits the poller's own tasks.
- A get without an answer after ``STUCK_AFTER`` keeps its connection until its own end, but holds nobody up:
  another task takes on the gets that wait. A list without an answer after ``LIST_TIMEOUT`` is given up for
  gets.
- A response from a list counts only for Operations whose shortest first pause was over when the list began
  (``Followed.not_before``): Airflow can fail deferrals that end within seconds. Only those are taken for
  missing from a list; others that become due meanwhile wait for the next list.
- A refused list is remembered as long as the event loop lives, also while nothing in its dataset is followed.
- The poller's tasks run in an empty context, and each watch in the context of its own trigger: Airflow uses
  the context to find the task whose log a line belongs to.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import weakref
from collections import deque
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.paging import Pages
from airflow_provider_dicom.api.resource_names import DatasetName, OperationName
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportTransientError
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook
from airflow_provider_dicom.longrunning import poll_schedule
from airflow_provider_dicom.longrunning.poll_schedule import Step
from airflow_provider_dicom.triggers._followed import Followed, PolledDataset

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from airflow_provider_dicom.api_types import Operation, OperationPage
    from airflow_provider_dicom.longrunning.polling import OperationWatch

#: Operations on a page of a list.
PAGE_SIZE = 1000
#: Operations of a page that are processed before other tasks of the event loop get their turn.
BATCH_SIZE = 500
#: How long past its deadline a watch waits for a response that is under way, in seconds.
LATE_RESPONSE = 5.0

_Key = tuple[str, str | tuple[str, ...] | None, str | None]
_pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, SharedPoller]] = (
    weakref.WeakKeyDictionary()
)
#: The times of the event loop until which datasets are not listed with a credential, in seconds.
_refused_lists: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, dict[DatasetName, float]]] = (
    weakref.WeakKeyDictionary()
)


async def wait_for_operation(
    watch: OperationWatch,
    *,
    gcp_conn_id: str,
    impersonation_chain: str | Sequence[str] | None,
    api_endpoint: str | None,
) -> Operation:
    """
    Poll an Operation until it is done, and return it.

    :param watch: the state of polling the Operation.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's.
    :raises DicomExportError: if the watch gives up.
    """
    loop = asyncio.get_running_loop()
    pollers = _pollers.setdefault(loop, {})
    chain = impersonation_chain
    key = (gcp_conn_id, chain if chain is None or isinstance(chain, str) else tuple(chain), api_endpoint)
    poller = pollers.get(key) or SharedPoller(
        DicomStoreAsyncHook(
            gcp_conn_id,
            chain,
            api_endpoint,
            max_connections=poll_schedule.MAX_CONNECTIONS + poll_schedule.MAX_STUCK,
        ),
        _refused_lists.setdefault(loop, {}).setdefault(key, {}),
    )
    followed = poller.follow(watch)
    pollers[key] = poller
    try:
        if (left := watch.seconds_left()) is None:
            return await followed.end
        async with asyncio.timeout(left + LATE_RESPONSE):
            return await followed.end
    except TimeoutError:
        raise watch.timeout_error() from None
    finally:
        if not poller.unfollow(followed):
            del pollers[key]
            # The session must be closed even if the trigger is cancelled a second time meanwhile.
            await asyncio.shield(poller.spawn(poller.close()))


class _Connection:
    """A task that sends gets, one after the other."""

    __slots__ = ("is_stuck",)

    def __init__(self) -> None:
        self.is_stuck = False


class SharedPoller:
    """
    Polls any number of Operations with one HTTP session and one token.

    One timer finds the Operations whose polls are due, and a few tasks send the requests. A running Operation
    costs one entry in a heap and, where lists are not permitted, its requests.

    :param hook: the hook; the poller closes it.
    :param refused_lists: the times of the event loop until which datasets are not listed, in seconds.
    """

    def __init__(
        self, hook: DicomStoreAsyncHook, refused_lists: dict[DatasetName, float] | None = None
    ) -> None:
        self.hook = hook
        self._refused_lists = {} if refused_lists is None else refused_lists
        self._loop = asyncio.get_running_loop()
        self._datasets: dict[DatasetName, PolledDataset] = {}
        self._numbers = itertools.count()
        self._followed: dict[int, Followed] = {}
        #: Times and numbers of due polls; an entry is void unless its time still is its Operation's ``due``.
        self._queue: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_gets: deque[Followed] = deque()
        self._connections = 0
        self._stuck = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, watch: OperationWatch) -> Followed:
        """
        Begin to poll an Operation.

        :param watch: the state of polling the Operation.
        """
        name = OperationName.parse(watch.operation_name).dataset
        dataset = self._datasets.get(name)
        if dataset is None:
            dataset = self._datasets[name] = PolledDataset(name, self._refused_lists.get(name, 0.0))
        followed = Followed(next(self._numbers), watch, dataset, self._loop.create_future())
        self._followed[followed.number] = followed
        dataset.followed.add(followed)
        shortest = watch.shortest_first_pause
        if (pause := followed.first_pause()) is not None:
            followed.not_before = self._loop.time() + min(shortest, pause)
            self._schedule(followed, pause)
        return followed

    def unfollow(self, followed: Followed) -> int:
        """
        Stop polling an Operation, and return the number of Operations that are still followed.

        :param followed: the return value of ``follow``.
        """
        dataset = followed.dataset
        dataset.followed.discard(followed)
        if not dataset.followed:
            self._datasets.pop(dataset.name, None)
        del self._followed[followed.number]
        return len(self._followed)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """
        Run work in a task of the poller.

        :param work: the coroutine.
        """
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel all tasks, and close the HTTP session."""
        if self._timer is not None:
            self._timer.cancel()
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.hook.close()

    def _schedule(self, followed: Followed, pause: float | None) -> None:
        if pause is None:
            return
        followed.due = self._loop.time() + pause
        heapq.heappush(self._queue, (followed.due, followed.number))
        self._set_timer(followed.due)

    def _set_timer(self, due: float) -> None:
        when = poll_schedule.next_tick(due)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._poll_due)

    def _poll_due(self) -> None:
        """Start the polls that are due, up to the rate limit; the rest waits for the next tick."""
        self._timer = None
        now = self._loop.time()
        gets = poll_schedule.gets_per_tick(len(self._followed))
        while self._queue and self._queue[0][0] <= now and gets:
            due, number = heapq.heappop(self._queue)
            followed = self._followed.get(number)
            if followed is not None and followed.due == due and self._start_poll(followed, now) is Step.GET:
                gets -= 1
        if self._queue:
            self._set_timer(max(self._queue[0][0], now + poll_schedule.TICK_SECONDS / 2))

    def _start_poll(self, followed: Followed, now: float) -> Step:
        dataset = followed.dataset
        schedule = dataset.schedule
        step = schedule.next_step(now, len(dataset.followed), is_unlisted=followed.is_unlisted)
        if step is Step.WAIT_FOR_BACKOFF:
            self._schedule(followed, schedule.not_before - now)
        elif step is Step.WAIT_FOR_NEXT_LIST:
            self._schedule(followed, schedule.next_list - now)
        elif step is Step.LIST:
            schedule.begin_list(now)
            self.spawn(self._list(dataset))
        elif step is Step.GET:
            self._queue_get(followed)
        return step

    def _queue_get(self, followed: Followed) -> None:
        followed.due, followed.is_unlisted = None, False
        self._waiting_gets.append(followed)
        if poll_schedule.needs_connection(self._connections, len(self._waiting_gets)):
            self._start_connection()

    def _start_connection(self) -> None:
        self._connections += 1
        self.spawn(self._send_gets(_Connection()))

    async def _send_gets(self, connection: _Connection) -> None:
        try:
            while self._waiting_gets and not connection.is_stuck:
                timer = self._loop.call_later(poll_schedule.STUCK_AFTER, self._replace, connection)
                try:
                    await self._get(self._waiting_gets.popleft())
                finally:
                    timer.cancel()
        finally:
            if connection.is_stuck:
                self._stuck -= 1
            else:
                self._connections -= 1

    def _replace(self, connection: _Connection) -> None:
        """Let another connection take on the gets that wait behind one that got no answer."""
        if self._stuck >= poll_schedule.MAX_STUCK:
            return
        connection.is_stuck = True
        self._stuck += 1
        self._connections -= 1
        if self._waiting_gets:
            self._start_connection()

    async def _get(self, followed: Followed) -> None:
        if followed.end.done():
            return
        schedule = followed.dataset.schedule
        try:
            operation = cast("Operation", await self.hook.send_once(followed.request))
        except DicomExportError as error:
            schedule.record_error(error, self._loop.time())
            self._schedule(followed, followed.on_error(error))
        except Exception as error:  # nobody awaits this task: the trigger would wait for ever
            followed.fail(error)
        else:
            schedule.record_response()
            pause = followed.on_response(operation)
            is_one_of_many = len(self._followed) > poll_schedule.MANY_OPERATIONS
            self._schedule(followed, followed.patient_pause(pause) if is_one_of_many else pause)

    async def _list(self, dataset: PolledDataset) -> None:
        schedule = dataset.schedule
        now = self._loop.time()
        wanted: dict[str, list[Followed]] = {}
        for followed in dataset.followed:
            if followed.not_before <= now:
                wanted.setdefault(followed.watch.operation_name, []).append(followed)
        try:
            async with asyncio.timeout(poll_schedule.LIST_TIMEOUT):
                await self._list_pages(dataset, wanted)
        except TimeoutError:
            schedule.record_list_without_answer(self._loop.time())
        except DicomExportTransientError as error:
            schedule.record_error(error, self._loop.time())
            schedule.record_list_error(error, self._loop.time())
            for followed in self._overdue(dataset):
                self._schedule(followed, followed.on_error(error))
        except DicomExportError:
            self._refused_lists[dataset.name] = schedule.record_list_refused(self._loop.time())
        except Exception as error:  # as in _get
            for followed in dataset.followed:
                followed.fail(error)
        finally:
            schedule.is_listing = False
        missing = {followed for group in wanted.values() for followed in group}
        for followed in self._overdue(dataset):
            followed.is_unlisted = followed in missing
            self._schedule(followed, 0.0)

    async def _list_pages(self, dataset: PolledDataset, wanted: dict[str, list[Followed]]) -> None:
        """
        Answer Operations from the list, as long as that takes fewer requests than gets.

        :param dataset: the dataset.
        :param wanted: the Operations that the list shall answer; those that it answers are removed.
        """
        schedule = dataset.schedule
        asked, pages_in_vain = len(wanted), 0
        budget = poll_schedule.page_budget(asked)
        pages = Pages(methods.list_operations(dataset.name, filter_=None, page_size=PAGE_SIZE))
        for number in range(1, budget + 1):
            if pages.request is None:
                break
            left = len(wanted)
            page = cast("OperationPage", await self.hook.send_once(pages.request))
            schedule.record_response()
            await self._answer_from_page(page, wanted)
            pages.advance(page)
            pages_in_vain = pages_in_vain + 1 if len(wanted) == left else 0
            if pages.request is None or pages_in_vain >= len(wanted):
                schedule.record_list(number, asked - len(wanted), self._loop.time())
                return
        if asked:
            schedule.record_list_too_long(budget + 1, self._loop.time())

    async def _answer_from_page(self, page: OperationPage, wanted: dict[str, list[Followed]]) -> None:
        for number, operation in enumerate(page.get("operations", []), start=1):
            for followed in wanted.pop(operation.get("name", ""), ()):
                self._schedule(followed, followed.on_response(operation))
            if number % BATCH_SIZE == 0:
                await asyncio.sleep(0)

    def _overdue(self, dataset: PolledDataset) -> list[Followed]:
        """Return the Operations that are due and that the list did not answer."""
        now = self._loop.time()
        return [
            followed
            for followed in dataset.followed
            if followed.due is not None and followed.due <= now and not followed.end.done()
        ]
