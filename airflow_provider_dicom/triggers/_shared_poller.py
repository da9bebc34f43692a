"""One watcher per event loop and credential, shared by all exports that are followed there."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import math
import weakref
from collections import deque
from typing import TYPE_CHECKING, TypeVar, cast

from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.resource_names import DatasetName, OperationName
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportQuotaExhaustedError,
    DicomExportTransientError,
)
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.longrunning.outcome import Operation, OperationPage
    from airflow_provider_dicom.longrunning.polling import OperationWatch

#: Connections, and so requests at a time, of one watcher.
MAX_CONNECTIONS = 16
#: What is due is asked about at multiples of so many seconds, together: waking the event loop costs most.
GRID = 0.1
#: Gets a second of one watcher, or as many as it takes to ask about everything within so many seconds.
RATE = 500.0
SPREAD = 2.0
#: Gets that one connection takes on before another one helps.
GETS_PER_CONNECTION = 4
PAGE_SIZE = 1000
#: How long a dataset's Operations are asked for one by one after a refused or a costly list, in seconds.
LIST_AGAIN_AFTER = 1800.0
#: Pauses of a whole dataset after a 429, in seconds; they double up to the second.
SLOWDOWN = (5.0, 120.0)
#: Operations of a page that are told apart in one turn of the event loop.
BATCH = 500
#: How long past its deadline a watch may wait for an answer that is under way, in seconds.
LATE_ANSWER = 5.0

_T = TypeVar("_T")
_Key = tuple[str, str | tuple[str, ...] | None, str | None]
_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Watcher]] = (
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
    Poll an Operation until it has ended, and return it; all who do so with one credential share a watcher.

    :param watch: decides when to poll and what each answer means.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's.
    :raises DicomExportError: if the watch gives up.
    """
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    chain = impersonation_chain
    key = (gcp_conn_id, chain if chain is None or isinstance(chain, str) else tuple(chain), api_endpoint)
    watcher = watchers.get(key) or Watcher(
        DicomStoreAsyncHook(gcp_conn_id, chain, api_endpoint, max_connections=MAX_CONNECTIONS)
    )
    followed = watcher.follow(watch)
    watchers[key] = watcher
    try:
        if (left := watch.time_left()) is None:
            return await followed.end
        async with asyncio.timeout(left + LATE_ANSWER):
            return await followed.end
    except TimeoutError:
        raise watch.timed_out() from None
    finally:
        if not watcher.unfollow(followed):
            del watchers[key]
            # A trigger that is cancelled once more must not leave a session open.
            await asyncio.shield(watcher.spawn(watcher.close()))


class _Dataset:
    """What is known of one dataset: who is followed in it, and when it may be asked how."""

    __slots__ = ("followed", "is_listing", "list_costs", "list_not_before", "name", "not_before", "slowdown")

    def __init__(self, name: DatasetName) -> None:
        self.name = name
        self.followed: set[Followed] = set()
        self.is_listing = False
        self.list_costs = 0
        self.list_not_before = 0.0
        self.not_before = 0.0
        self.slowdown = 0.0

    def is_list_worthwhile(self, now: float) -> bool:
        """Tell whether a list is permitted, and takes fewer requests than asking one by one."""
        if now >= self.list_not_before:
            self.list_costs = 0
        elif not self.list_costs:
            return False
        return len(self.followed) > max(1, self.list_costs)

    def slow_down(self, error: DicomExportError, now: float) -> None:
        """Ask nobody of this dataset for a while, if an error speaks of its quota."""
        if not isinstance(error, DicomExportQuotaExhaustedError):
            return
        first, longest = SLOWDOWN
        self.slowdown = min(max(first, self.slowdown * 2), longest)
        self.not_before = now + max(self.slowdown, error.retry_after or 0.0)


class Followed:
    """
    One Operation that somebody follows.

    :param number: the watcher's number for it.
    :param watch: decides when to poll and what each answer means.
    :param dataset: the Operation's dataset.
    :param end: gets the Operation when it has ended.
    """

    __slots__ = ("_context", "_request", "begins", "dataset", "due", "end", "is_unlisted", "number", "watch")

    def __init__(
        self, number: int, watch: OperationWatch, dataset: _Dataset, end: asyncio.Future[Operation]
    ) -> None:
        self.number = number
        self.watch = watch
        self.dataset = dataset
        self.end = end
        self.due: float | None = None
        #: When its first pause is over: Airflow takes an earlier end of a deferral for a failure.
        self.begins = math.inf
        self.is_unlisted = False
        self._request: ApiRequest | None = None
        # Airflow tells by the context whose log a line belongs to.
        self._context = contextvars.copy_context()

    @property
    def request(self) -> ApiRequest:
        """The request for this one Operation; those that lists answer do without."""
        if self._request is None:
            self._request = methods.get_operation(OperationName.parse(self.watch.operation_name))
        return self._request

    def first_pause(self) -> float | None:
        """Return the pause before the first question, if there has to be one."""
        return self._settle(lambda watch: watch.pause(), self.watch)

    def take(self, operation: Operation) -> float | None:
        """Take in an answer; return the pause before the next question, if there has to be one."""
        return self._settle(self._answered, operation)

    def miss(self, error: DicomExportError) -> float | None:
        """Take in a failure; return the pause before the next question, if there has to be one."""
        return self._settle(self._failed, error)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if not self.end.done():
            self.end.set_exception(error)

    def _settle(self, judge: Callable[[_T], float | None], what: _T) -> float | None:
        if self.end.done():
            return None
        try:
            return self._context.run(judge, what)
        except Exception as error:  # whatever it is, it is the follower's, not the watcher's
            self.fail(error)
            return None

    def _answered(self, operation: Operation) -> float | None:
        try:
            has_ended = self.watch.answered(operation)
        except DicomExportError as error:
            return self._failed(error)
        if has_ended:
            self.end.set_result(operation)
            return None
        return self.watch.pause()

    def _failed(self, error: DicomExportError) -> float:
        self.watch.failed(error)
        return self.watch.pause()


class Watcher:
    """
    Follows any number of Operations with one HTTP session and one token.

    Who is due is found by one alarm, and asked about by a few tasks: what an Operation costs while it runs is
    an entry in a heap and, where lists are not permitted, its requests.

    :param hook: the hook; the watcher closes it.
    """

    def __init__(self, hook: DicomStoreAsyncHook) -> None:
        self.hook = hook
        self._loop = asyncio.get_running_loop()
        self._datasets: dict[DatasetName, _Dataset] = {}
        self._numbers = itertools.count()
        self._followed: dict[int, Followed] = {}
        #: When to ask about which number; an entry is void if its time is not its Operation's any more.
        self._due: list[tuple[float, int]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._to_get: deque[Followed] = deque()
        self._getting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, watch: OperationWatch) -> Followed:
        """
        Begin to poll an Operation.

        :param watch: decides when to poll and what each answer means.
        """
        name = OperationName.parse(watch.operation_name).dataset
        dataset = self._datasets.get(name)
        if dataset is None:
            dataset = self._datasets[name] = _Dataset(name)
        followed = Followed(next(self._numbers), watch, dataset, self._loop.create_future())
        self._followed[followed.number] = followed
        dataset.followed.add(followed)
        if (pause := followed.first_pause()) is not None:
            followed.begins = self._loop.time() + pause
            self._ask_again(followed, pause)
        return followed

    def unfollow(self, followed: Followed) -> int:
        """
        Poll an Operation no more, and tell how many others are left.

        :param followed: what ``follow`` returned.
        """
        dataset = followed.dataset
        dataset.followed.discard(followed)
        if not dataset.followed:
            self._datasets.pop(dataset.name, None)
        del self._followed[followed.number]
        return len(self._followed)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """
        Run work in a task of its own.

        :param work: the coroutine.
        """
        # With an empty context: in that of one trigger, its task's log would get the lines of all.
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Stop all work and close the HTTP session."""
        if self._alarm is not None:
            self._alarm.cancel()
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.hook.close()

    def _ask_again(self, followed: Followed, pause: float | None) -> None:
        if pause is None:
            return
        followed.due = self._loop.time() + pause
        heapq.heappush(self._due, (followed.due, followed.number))
        self._set_alarm(followed.due)

    def _set_alarm(self, due: float) -> None:
        when = math.ceil(due / GRID) * GRID
        if self._alarm is not None:
            if self._alarm.when() <= when:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Ask about all that is due, as far as the rate permits; the rest has its turn at the next ring."""
        self._alarm = None
        now = self._loop.time()
        gets = math.ceil(GRID * max(RATE, len(self._followed) / SPREAD))
        while self._due and self._due[0][0] <= now and gets:
            due, number = heapq.heappop(self._due)
            followed = self._followed.get(number)
            if followed is None or followed.due != due:
                continue
            dataset = followed.dataset
            if dataset.not_before > now:
                self._ask_again(followed, dataset.not_before - now)
            elif dataset.is_listing:
                continue
            elif not followed.is_unlisted and dataset.is_list_worthwhile(now):
                dataset.is_listing = True
                self.spawn(self._list(dataset))
            else:
                self._get_soon(followed)
                gets -= 1
        if self._due:
            self._set_alarm(max(self._due[0][0], now + GRID / 2))

    def _get_soon(self, followed: Followed) -> None:
        followed.due, followed.is_unlisted = None, False
        self._to_get.append(followed)
        if self._getting < min(MAX_CONNECTIONS, len(self._to_get) / GETS_PER_CONNECTION):
            self._getting += 1
            self.spawn(self._get_all())

    async def _get_all(self) -> None:
        try:
            while self._to_get:
                await self._get(self._to_get.popleft())
        finally:
            self._getting -= 1

    async def _get(self, followed: Followed) -> None:
        if followed.end.done():
            return
        dataset = followed.dataset
        try:
            operation = cast("Operation", await self.hook.ask(followed.request))
        except DicomExportError as error:
            dataset.slow_down(error, self._loop.time())
            self._ask_again(followed, followed.miss(error))
        except Exception as error:  # nobody awaits this task: without this, the trigger would wait for ever
            followed.fail(error)
        else:
            dataset.slowdown = 0.0
            self._ask_again(followed, followed.take(operation))

    async def _list(self, dataset: _Dataset) -> None:
        try:
            await self._list_pages(dataset)
        except DicomExportTransientError as error:
            dataset.slow_down(error, self._loop.time())
            for followed in self._overdue(dataset):
                self._ask_again(followed, followed.miss(error))
        except DicomExportError:
            # Most callers may get Operations, but not list them.
            dataset.list_costs = 0
            dataset.list_not_before = self._loop.time() + LIST_AGAIN_AFTER
        except Exception as error:  # as in _get
            for followed in dataset.followed:
                followed.fail(error)
        finally:
            dataset.is_listing = False
        for followed in self._overdue(dataset):
            followed.is_unlisted = True
            self._ask_again(followed, 0.0)

    async def _list_pages(self, dataset: _Dataset) -> None:
        """Answer from the list, as long as that takes fewer pages than there are Operations to answer."""
        wanted: dict[str, list[Followed]] = {}
        now = self._loop.time()
        for followed in dataset.followed:
            if followed.begins <= now:
                wanted.setdefault(followed.watch.operation_name, []).append(followed)
        if not wanted:
            return
        affordable = len(wanted) - 1
        request = methods.list_operations(dataset.name, filter_=None, page_size=PAGE_SIZE)
        for _ in range(affordable):
            page = cast("OperationPage", await self.hook.ask(request))
            dataset.slowdown = 0.0
            for number, operation in enumerate(page.get("operations", []), start=1):
                for followed in wanted.pop(operation.get("name", ""), ()):
                    self._ask_again(followed, followed.take(operation))
                if number % BATCH == 0:
                    await asyncio.sleep(0)
            token = page.get("nextPageToken")
            if not wanted or not token:
                return
            request = request.page(token)
        dataset.list_costs = affordable + 1
        dataset.list_not_before = self._loop.time() + LIST_AGAIN_AFTER

    def _overdue(self, dataset: _Dataset) -> list[Followed]:
        """Find whom the list should have answered by now, and did not."""
        now = self._loop.time()
        return [followed for followed in dataset.followed if followed.due is not None and followed.due <= now]
