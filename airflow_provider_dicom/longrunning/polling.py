"""When to ask about an Operation, and what each answer means: decided here without any I/O, for all modes."""

from __future__ import annotations

import copy
import math
import random
import time
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportTimeoutError, DicomExportTransientError
from airflow_provider_dicom.longrunning.outcome import Counters, counters, logs_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.exceptions import DicomExportError
    from airflow_provider_dicom.log import Log
    from airflow_provider_dicom.longrunning.outcome import Operation

#: A deferral that ends within seconds can be failed falsely by Airflow.
FIRST_PAUSE = 10.0
GROWTH = 1.5
JITTER = 0.2
#: How often in a row a refusal (403, 404, ...) must come before it is believed.
REFUSALS_BELIEVED = 3
#: Without a deadline: how long to go on without a single good answer, in seconds.
PATIENCE = 3600.0
HEARTBEAT = 600.0
#: Pauses before looking again whether a cancellation is confirmed, in seconds.
CONFIRMATION_PAUSES = (1.0, 2.0, 4.0)
PROGRESS_STEP = 0.1


class OperationWatch:
    """
    Follows one Operation from answer to answer.

    :param operation_name: the full name of the Operation.
    :param poll_interval: the longest pause between polls, in seconds.
    :param deadline: when to give up, in seconds since the epoch; never if not given.
    :param log: where to say what changed.
    :param on_progress: gets every good answer about the running Operation; it must not raise or take long.
    :param now: tells the time in seconds since the epoch.
    """

    def __init__(
        self,
        operation_name: str,
        *,
        poll_interval: float,
        deadline: float | None,
        log: Log,
        on_progress: Callable[[Operation], object] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.operation_name = operation_name
        self.deadline = deadline
        self._poll_interval = poll_interval
        self._log = log
        self._on_progress = on_progress
        self._now = now
        self._started = self._last_answer = self._last_line = now()
        self._base = min(FIRST_PAUSE, poll_interval)
        self._polls = 0
        self._asked_pause = 0.0
        self._refusals = 0
        self._trouble = 0
        self._operation: Operation = {"name": operation_name}
        self._told: Counters | None = None

    def pause(self) -> float:
        """
        Decide how long to wait before the next poll, in seconds.

        :raises DicomExportTimeoutError: if the deadline has passed.
        """
        pause = max(self._scheduled_pause(), self._asked_pause)
        self._asked_pause = 0.0
        left = self.time_left()
        if left is None:
            return pause
        if left <= 0:
            raise self.timed_out()
        return min(pause, left)

    def timed_out(self) -> DicomExportTimeoutError:
        """Build the error of a deadline that has passed."""
        return DicomExportTimeoutError(
            f"The deadline passed before the export ended; it had come to: {counters(self._operation)}. "
            f"Operation: {self.operation_name}. Logs: {logs_url(self._operation)}",
            operation=self._operation,
        )

    def time_left(self) -> float | None:
        """Tell how long it is until the deadline, in seconds; None without one."""
        return None if self.deadline is None else self.deadline - self._now()

    def _scheduled_pause(self) -> float:
        # Jitter, so that a thousand exports of one schedule don't poll in step.
        jitter = random.uniform(0, JITTER)  # noqa: S311
        if self._polls == 0 and self._poll_interval >= FIRST_PAUSE:
            pause = min(self._base * (1 + jitter), self._poll_interval)
        else:
            pause = self._base * (1 - jitter)
        self._polls += 1
        self._base = min(self._base * GROWTH, self._poll_interval)
        return pause

    def answered(self, operation: Operation) -> bool:
        """
        Take in a good answer, and tell whether the Operation has ended.

        :param operation: the Operation as the API returned it.
        :raises DicomExportUnavailableError: if it is no good answer after all.
        """
        count = counters(operation)
        if self._trouble:
            self._log.info(
                "The API answers again about %s, after %d failed polls in %.0f s.",
                self.operation_name,
                self._trouble,
                self._now() - self._last_answer,
            )
        self._trouble = self._refusals = 0
        self._last_answer = self._now()
        # An answer may come without a name; the Operation must not lose it.
        self._operation = operation if "name" in operation else {**operation, "name": self.operation_name}
        if operation.get("done"):
            return True
        self._tell_progress(count)
        if self._on_progress is not None:
            self._on_progress(self._operation)
        return False

    def failed(self, error: DicomExportError) -> None:
        """
        Take in a poll that failed.

        :param error: what came instead of an answer.
        :raises DicomExportError: the error, if it has to be believed.
        """
        if isinstance(error, DicomExportTransientError):
            self._refusals = 0
            self._asked_pause = error.retry_after or 0.0
        else:
            self._refusals += 1
        if self._refusals >= REFUSALS_BELIEVED or self._patience_is_over():
            # The same error may have been handed to other watches.
            own = copy.copy(error)
            own.operation, own.operation_name = self._operation, self.operation_name
            raise own from error
        if not self._trouble or self._now() - self._last_line >= HEARTBEAT:
            self._log.warning("%s. The export itself goes on; asking again.", str(error).rstrip("."))
            self._last_line = self._now()
        self._trouble += 1

    def _patience_is_over(self) -> bool:
        return self.deadline is None and self._now() - self._last_answer > PATIENCE

    def _tell_progress(self, count: Counters) -> None:
        since_line = self._now() - self._last_line
        if self._has_moved(count) or since_line >= HEARTBEAT:
            share = f", {(count.success + count.failure) / count.total:.0%} done" if count.total else ""
            self._log.info(
                "Export running for %.0f s: %s%s. Operation: %s",
                self._now() - self._started,
                count,
                share,
                self.operation_name,
            )
            self._told, self._last_line = count, self._now()

    def _has_moved(self, count: Counters) -> bool:
        """Tell whether the counters moved by enough to be worth a line."""
        if self._told is None or count.failure > self._told.failure == 0:
            return True
        done, told = count.success + count.failure, self._told.success + self._told.failure
        return done - told >= max(1, math.ceil(PROGRESS_STEP * count.total))
