"""
When to poll an Operation and what each response means, decided without any I/O for every mode.

Invariants of an :class:`OperationWatch`:

- ``next_pause`` is called before every poll; exactly one of ``record_response`` and ``record_error`` follows
  it.
- The first pause is at least ``FIRST_PAUSE`` (with a ``poll_interval`` of that length or more), because
  Airflow can fail a task whose deferral ends within seconds. Later pauses grow by ``GROWTH`` up to
  ``poll_interval``, with jitter, and are never longer than the time left until the deadline.
- Transient errors (429, 5xx, no answer) never end a watch that has a deadline; a watch without a deadline
  gives up after ``UNREACHABLE_TIMEOUT`` without a single response. Any other error ends the watch when it
  comes ``MAX_CONSECUTIVE_ERRORS`` times in a row: one 403 or 404 may be a replica that lags behind.
- The log gets a warning at the first failed instance, and a line when polls begin to fail, when they succeed
  again, and every ``HEARTBEAT``; never one line per poll. It gets a line when the counters have moved by
  ``PROGRESS_STEP`` if the ``LineLimit`` that many watches may share permits it: a triggerer's supervisor
  writes the lines of all triggers.
"""

from __future__ import annotations

import copy
import math
import random
import time
from typing import TYPE_CHECKING

from airflow_provider_dicom.console import logs_url
from airflow_provider_dicom.exceptions import DicomExportTimeoutError, DicomExportTransientError
from airflow_provider_dicom.longrunning.outcome import counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api_types import Counters, Operation
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.exceptions import DicomExportError

#: The shortest time from a deferral to its first poll, in seconds; about 10 s are Google's advice as well.
FIRST_PAUSE = 10.0
#: The factor from one pause to the next.
GROWTH = 1.5
#: The largest share of a pause that is random, so that exports of one schedule do not poll in step.
JITTER = 0.2
#: The number of consecutive errors, other than transient ones, that end a watch.
MAX_CONSECUTIVE_ERRORS = 3
#: The longest time without a response before a watch without a deadline gives up, in seconds.
UNREACHABLE_TIMEOUT = 3600.0
#: The longest time between two log lines of one Operation, in seconds.
HEARTBEAT = 600.0
#: How many times as fast as ever before an Operation has to become to end during a patient pause.
SPEED_MARGIN = 4.0
#: The longest patient pause, in seconds.
PATIENCE = 300.0
#: Pauses between a cancellation request and the checks whether the API has confirmed it, in seconds.
CONFIRMATION_PAUSES = (1.0, 2.0, 4.0)
#: The share of all instances by which the counters move from one log line to the next.
PROGRESS_STEP = 0.1
#: The number of such lines that the watches of a triggerer may write at once, and per second from then on.
LINES_AT_ONCE = 60
LINES_PER_SECOND = 1.0


class LineLimit:
    """Limits the log lines about the progress of many Operations; few Operations get all of theirs."""

    def __init__(self) -> None:
        self._left = float(LINES_AT_ONCE)
        self._counted_at = -math.inf

    def permits(self, now: float) -> bool:
        """
        Tell whether one more line may be written; True counts as a line.

        :param now: the time in seconds, from any origin.
        """
        self._left = min(LINES_AT_ONCE, self._left + LINES_PER_SECOND * max(0.0, now - self._counted_at))
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class OperationWatch:
    """
    The state of polling one Operation.

    :param operation_name: the full name of the Operation.
    :param poll_interval: the longest pause between polls, in seconds.
    :param deadline: the time at which the watch gives up, in seconds since the epoch; never if not given.
    :param log: the log for progress and errors.
    :param on_progress: called with every response about the running Operation; it must neither raise nor
        block.
    :param line_limit: limits the log lines about the progress; by default, the Operation has one of its own.
    :param now: returns the time in seconds since the epoch.
    """

    def __init__(
        self,
        operation_name: str,
        *,
        poll_interval: float,
        deadline: float | None,
        log: Log,
        on_progress: Callable[[Operation], object] | None = None,
        line_limit: LineLimit | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.operation_name = operation_name
        self.deadline = deadline
        self._poll_interval = poll_interval
        self._log = log
        self._on_progress = on_progress
        self._line_limit = line_limit or LineLimit()
        self._now = now
        self._started = self._last_response = self._last_line = now()
        self._base = min(FIRST_PAUSE, poll_interval)
        self._polls = 0
        self._retry_after = 0.0
        self._consecutive_errors = 0
        self._failed_polls = 0
        self._operation: Operation = {"name": operation_name}
        self._logged: Counters | None = None
        self._has_warned = False
        self._counted: Counters | None = None
        #: The fastest speed between two responses, in instances per second.
        self._fastest = 0.0

    @property
    def shortest_first_pause(self) -> float:
        """The first pause without its jitter, in seconds: the earliest time for the first response."""
        return self._base if self._poll_interval >= FIRST_PAUSE else self._base * (1 - JITTER)

    def next_pause(self) -> float:
        """
        Return the pause before the next poll, in seconds.

        :raises DicomExportTimeoutError: if the deadline has passed.
        """
        pause = max(self._scheduled_pause(), self._retry_after)
        self._retry_after = 0.0
        left = self.seconds_left()
        if left is None:
            return pause
        if left <= 0:
            raise self.timeout_error()
        return min(pause, left)

    def patient_pause(self, pause: float) -> float:
        """
        Return a longer pause before the next poll where the counters prove that the end cannot be near: the
        pending instances need longer even at ``SPEED_MARGIN`` times the fastest speed so far.

        :param pause: the pause that ``next_pause`` returned, in seconds.
        """
        if self._counted is None or self._failed_polls or not self._fastest:
            return pause
        # What has been watched for a short time only proves little.
        watched = self._now() - self._started
        needed = self._counted.pending / (SPEED_MARGIN * self._fastest)
        longest = min(needed, watched, PATIENCE, self.seconds_left() or PATIENCE)
        return max(pause, longest * (1 - random.uniform(0, JITTER)))  # noqa: S311

    def timeout_error(self) -> DicomExportTimeoutError:
        """Build the error of a deadline that has passed."""
        return DicomExportTimeoutError(
            f"The deadline passed before the export ended. Progress: {counters(self._operation)}. "
            f"Operation: {self.operation_name}. Logs: {logs_url(self._operation)}",
            operation=self._operation,
        )

    def seconds_left(self) -> float | None:
        """Return the time until the deadline, in seconds; None without a deadline."""
        return None if self.deadline is None else self.deadline - self._now()

    def _scheduled_pause(self) -> float:
        jitter = random.uniform(0, JITTER)  # noqa: S311
        if self._polls == 0 and self._poll_interval >= FIRST_PAUSE:
            pause = min(self._base * (1 + jitter), self._poll_interval)
        else:
            pause = self._base * (1 - jitter)
        self._polls += 1
        self._base = min(self._base * GROWTH, self._poll_interval)
        return pause

    def record_response(self, operation: Operation) -> bool:
        """
        Record the API's response to a poll, and return whether the Operation is done.

        :param operation: the Operation as the API returned it.
        :raises DicomExportUnavailableError: if the response holds no readable counters.
        """
        count = counters(operation)
        if self._failed_polls:
            self._log.info(
                "The API answers again about %s, after %d failed polls in %.0f s.",
                self.operation_name,
                self._failed_polls,
                self._now() - self._last_response,
            )
        self._failed_polls = self._consecutive_errors = 0
        self._note_speed(count)
        self._last_response = self._now()
        self._operation = operation
        if operation.get("done"):
            return True
        self._warn_of_failures(count)
        self._log_progress(count)
        if self._on_progress is not None:
            self._on_progress(self._operation)
        return False

    def record_error(self, error: DicomExportError) -> None:
        """
        Record a failed poll.

        :param error: the error of the poll.
        :raises DicomExportError: the same error with the Operation, if polling has to end.
        """
        if isinstance(error, DicomExportTransientError):
            self._consecutive_errors = 0
            self._retry_after = error.retry_after or 0.0
        else:
            self._consecutive_errors += 1
        if self._consecutive_errors >= MAX_CONSECUTIVE_ERRORS or self._is_unreachable():
            # One failed list hands the same error to many watches.
            own = copy.copy(error)
            own.operation, own.operation_name = self._operation, self.operation_name
            raise own from error
        if not self._failed_polls or self._now() - self._last_line >= HEARTBEAT:
            self._log.warning("%s. The export itself goes on; polling continues.", str(error).rstrip("."))
            self._last_line = self._now()
        self._failed_polls += 1

    def _note_speed(self, count: Counters) -> None:
        seconds = self._now() - self._last_response
        if self._counted is not None and seconds > 0:
            self._fastest = max(self._fastest, (count.done - self._counted.done) / seconds)
        self._counted = count

    def _is_unreachable(self) -> bool:
        return self.deadline is None and self._now() - self._last_response > UNREACHABLE_TIMEOUT

    def _warn_of_failures(self, count: Counters) -> None:
        if not count.failure or self._has_warned:
            return
        self._has_warned = True
        self._log.warning(
            "The first %d of %d instances have failed; the export goes on. The causes are in the logs of the "
            "operation, also before its end: %s",
            count.failure,
            count.total,
            logs_url(self._operation),
        )

    def _log_progress(self, count: Counters) -> None:
        if not self._is_worth_a_line(count):
            return
        share = f", {count.done / count.total:.0%} done" if count.total else ""
        self._log.info(
            "Export running for %.0f s: %s%s. Operation: %s",
            self._now() - self._started,
            count,
            share,
            self.operation_name,
        )
        self._logged, self._last_line = count, self._now()

    def _is_worth_a_line(self, count: Counters) -> bool:
        if self._now() - self._last_line >= HEARTBEAT:
            return True
        logged = self._logged
        has_moved = logged is None or count.done - logged.done >= max(
            1, math.ceil(PROGRESS_STEP * count.total)
        )
        return has_moved and self._line_limit.permits(self._now())
