"""
When the shared poller polls which Operation, and whether by ``operations.get`` or ``operations.list``;
without I/O. ``polling.py`` decides how long one Operation waits for its next poll.

Invariants:

- Polls are coalesced to multiples of ``TICK_SECONDS``, because waking the event loop costs most.
- One tick starts at most as many gets as ``gets_per_tick`` permits; the rest waits for the next tick, and no
  Operation waits longer than ``MAX_SWEEP_SECONDS`` because of it.
- A dataset is listed only while a list is permitted and costs fewer requests than one get for each Operation.
  A list that is refused is tried again after ``REFUSED_FOR``; a list that does not answer or answers with
  garbage, that needs too many pages, or more pages than it answers Operations, after ``RELIST_AFTER``. Gets
  answer meanwhile.
- Lists of a dataset begin at least ``LIST_GAP`` apart: Operations that begin together share their lists.
- After a 429, no Operation of the dataset is polled until the backoff is over. The backoff doubles from
  ``BACKOFF_INITIAL`` to ``BACKOFF_MAX``, is never shorter than the server's ``Retry-After``, and ends with
  the first response.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportQuotaExhaustedError

if TYPE_CHECKING:
    from airflow_provider_dicom.exceptions import DicomExportError

#: Polls are coalesced to multiples of this time, in seconds.
TICK_SECONDS = 0.1
#: The rate of gets of one poller, unless polling all its Operations once would take longer than
#: ``MAX_SWEEP_SECONDS``.
MAX_GETS_PER_SECOND = 500.0
MAX_SWEEP_SECONDS = 2.0
#: The number of Operations from which on gets are spared where the counters prove that the end is not near.
MANY_OPERATIONS = 100
#: The number of connections of one poller, and so of concurrent requests.
MAX_CONNECTIONS = 16
#: The number of waiting gets for which one more connection is used.
GETS_PER_CONNECTION = 4
#: How long a dataset is not listed after its list was of no use, in seconds.
RELIST_AFTER = 1800.0
#: How long a dataset is not listed after its list was refused, in seconds: each refusal is an entry in an
#: audit log, and a role is rarely granted while an export runs.
REFUSED_FOR = 86_400.0
#: The shortest time between the beginnings of two lists of a dataset, in seconds. Only Operations that the
#: first list could not answer wait for the second, and their first pause is shorter than ``poll_interval``.
LIST_GAP = 1.0
#: The number of consecutive lists that fail, other than by a 429, before gets replace them.
MAX_LIST_ERRORS = 2
#: The longest wait for all pages of a list, in seconds.
LIST_TIMEOUT = 30.0
#: How long a get may hold up the gets behind it, in seconds, and how many such gets get another connection.
STUCK_AFTER = 5.0
MAX_STUCK = 48
#: The first and the longest backoff of a dataset's polls after a 429, in seconds.
BACKOFF_INITIAL = 5.0
BACKOFF_MAX = 120.0


def next_tick(due: float) -> float:
    """
    Return the first tick at or after a time.

    :param due: the time of the event loop, in seconds.
    """
    return math.ceil(due / TICK_SECONDS) * TICK_SECONDS


def gets_per_tick(operations: int) -> int:
    """
    Return the number of gets that one tick may start.

    :param operations: the number of Operations that the poller follows.
    """
    return math.ceil(TICK_SECONDS * max(MAX_GETS_PER_SECOND, operations / MAX_SWEEP_SECONDS))


def needs_connection(connections: int, waiting_gets: int) -> bool:
    """
    Tell whether one more connection should take on gets.

    :param connections: the number of connections that work on gets.
    :param waiting_gets: the number of gets that wait.
    """
    return connections < min(MAX_CONNECTIONS, waiting_gets / GETS_PER_CONNECTION)


class ListState(Enum):
    """Whether ``operations.list`` of a dataset is of use."""

    ALLOWED = "allowed, as far as is known"
    OF_NO_USE = "refused, as most callers may get Operations, but not list them; or broken"
    TOO_MANY_PAGES = "more pages than Operations to poll"


class Step(Enum):
    """The next step of an Operation whose poll is due."""

    WAIT_FOR_BACKOFF = "the dataset's backoff is not over"
    WAIT_FOR_LIST = "a list that is under way may bring the response"
    WAIT_FOR_NEXT_LIST = "the latest list began a moment ago"
    LIST = "a list answers this and other Operations"
    GET = "a get answers this Operation alone"


class DatasetSchedule:
    """
    The state of polling one dataset: its list, and its backoff.

    :param refused_until: the time of the event loop until which the dataset is not listed, in seconds.
    """

    __slots__ = (
        "_backoff",
        "_list_errors",
        "_list_pages",
        "_list_state",
        "_relist_at",
        "is_listing",
        "next_list",
        "not_before",
    )

    def __init__(self, refused_until: float = 0.0) -> None:
        self.is_listing = False
        #: No Operation of the dataset is polled before this time of the event loop.
        self.not_before = 0.0
        self._backoff = 0.0
        #: No list begins before this time of the event loop.
        self.next_list = 0.0
        self._list_state = ListState.OF_NO_USE
        self._list_errors = 0
        self._list_pages = 1
        self._relist_at = refused_until

    def next_step(self, now: float, operations: int, *, is_unlisted: bool) -> Step:
        """
        Decide how an Operation whose poll is due is polled.

        :param now: the time of the event loop, in seconds.
        :param operations: the number of Operations that are followed in the dataset.
        :param is_unlisted: the latest list did not contain the Operation.
        """
        if self.not_before > now:
            return Step.WAIT_FOR_BACKOFF
        if self.is_listing:
            return Step.WAIT_FOR_LIST
        if is_unlisted or not self._should_list(now, operations):
            return Step.GET
        return Step.LIST if now >= self.next_list else Step.WAIT_FOR_NEXT_LIST

    def _should_list(self, now: float, operations: int) -> bool:
        if now >= self._relist_at:
            self._list_state, self._list_pages = ListState.ALLOWED, 1
        return self._list_state is not ListState.OF_NO_USE and operations > self._list_pages

    def record_response(self) -> None:
        """Record that the API answered: the next backoff begins small again."""
        self._backoff = 0.0

    def record_error(self, error: DicomExportError, now: float) -> None:
        """
        Record a failed request; a 429 begins or lengthens the backoff.

        :param error: the error of the request.
        :param now: the time of the event loop, in seconds.
        """
        if isinstance(error, DicomExportQuotaExhaustedError):
            self._backoff = min(max(BACKOFF_INITIAL, self._backoff * 2), BACKOFF_MAX)
            self.not_before = now + max(self._backoff, error.retry_after or 0.0)

    def begin_list(self, now: float) -> None:
        """
        Record that a list begins.

        :param now: the time of the event loop, in seconds.
        """
        self.is_listing, self.next_list = True, now + LIST_GAP

    def record_list(self, pages: int, answered: int, now: float) -> None:
        """
        Record that a list answered.

        :param pages: the number of pages that were read.
        :param answered: the number of Operations that the pages answered.
        :param now: the time of the event loop, in seconds.
        """
        self._list_errors = 0
        if answered < pages:
            self._record_list_of_no_use(now + RELIST_AFTER)

    def record_list_error(self, error: DicomExportError, now: float) -> None:
        """
        Record that a list failed; gets may succeed where lists do not.

        :param error: the error of the list.
        :param now: the time of the event loop, in seconds.
        """
        if isinstance(error, DicomExportQuotaExhaustedError):
            return
        self._list_errors += 1
        if self._list_errors >= MAX_LIST_ERRORS:
            self.record_list_without_answer(now)

    def record_list_without_answer(self, now: float) -> None:
        """
        Record that the dataset's list does not answer.

        :param now: the time of the event loop, in seconds.
        """
        self._record_list_of_no_use(now + RELIST_AFTER)

    def record_list_refused(self, now: float) -> float:
        """
        Record that the dataset's Operations must not be listed; return the time until which they are not.

        :param now: the time of the event loop, in seconds.
        """
        self._record_list_of_no_use(now + REFUSED_FOR)
        return self._relist_at

    def _record_list_of_no_use(self, relist_at: float) -> None:
        self._list_state, self._relist_at = ListState.OF_NO_USE, relist_at
        self._list_errors = 0

    def record_list_too_long(self, pages: int, now: float) -> None:
        """
        Record that a list was given up because gets cost fewer requests.

        :param pages: the number of pages that the list has at least.
        :param now: the time of the event loop, in seconds.
        """
        self._list_state, self._list_pages = ListState.TOO_MANY_PAGES, max(1, pages)
        self._relist_at = now + RELIST_AFTER


def page_budget(wanted: int) -> int:
    """
    Return the number of pages up to which a list costs less than one get for each Operation.

    :param wanted: the number of Operations that the list shall answer.
    """
    return wanted - 1
