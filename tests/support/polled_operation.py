"""An Operation that tests poll by a clock of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.resource_names import DatasetName, OperationName
from airflow_provider_dicom.longrunning.polling import OperationWatch
from tests.support.recorded_log import RecordedLog

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation, ProgressCounter
    from airflow_provider_dicom.longrunning.polling import LineLimit

NAME = str(OperationName(DatasetName("p", "l", "d"), "77"))
LOGS_URL = "https://console.cloud.google.com/logs/from-the-api"


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class PolledOperation:
    """
    The watch of one Operation, with its clock and its log.

    :param poll_interval: the longest pause between polls, in seconds.
    :param timeout: the time from the start to the deadline, in seconds; no deadline if not given.
    :param name: the full name of the Operation.
    :param line_limit: limits the lines about the progress; by default, the Operation has one of its own.
    """

    def __init__(
        self,
        poll_interval: float = 30.0,
        timeout: float | None = None,
        name: str = NAME,
        line_limit: LineLimit | None = None,
    ) -> None:
        self.clock = Clock()
        self.log = RecordedLog()
        self.start = self.clock.seconds
        self.progress: list[Operation] = []
        self.watch = OperationWatch(
            name,
            poll_interval=poll_interval,
            deadline=None if timeout is None else self.start + timeout,
            log=self.log,
            on_progress=self.progress.append,
            line_limit=line_limit,
            now=self.clock,
        )

    def pause(self) -> float:
        """Let the pause before the next poll pass, and return it in seconds."""
        pause = self.watch.next_pause()
        self.clock.seconds += pause
        return pause

    def fail_every_poll(self) -> NoReturn:
        """Poll without ever getting a response."""
        while True:
            self.pause()
            self.watch.record_error(unavailable())

    @property
    def elapsed(self) -> float:
        """The time since the start, in seconds."""
        return self.clock.seconds - self.start


def running(success: int = 0, failure: int = 0, pending: int = 0) -> Operation:
    counter: ProgressCounter = {"success": str(success), "failure": str(failure), "pending": str(pending)}
    return {"name": NAME, "metadata": {"counter": counter}}


def unavailable(retry_after: float | None = None) -> exceptions.DicomExportError:
    return exceptions.DicomExportUnavailableError("Could not get: 503.", retry_after=retry_after)


def forbidden() -> exceptions.DicomExportError:
    return exceptions.DicomExportPermissionError("Could not get: 403")
