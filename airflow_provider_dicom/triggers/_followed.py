"""What the shared poller knows of each Operation that a trigger follows, and of each dataset."""

from __future__ import annotations

import contextvars
import math
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.resource_names import OperationName
from airflow_provider_dicom.exceptions import DicomExportError
from airflow_provider_dicom.longrunning.poll_schedule import DatasetSchedule

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.resource_names import DatasetName
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.longrunning.polling import OperationWatch

_T = TypeVar("_T")


class Followed:
    """
    One Operation that a trigger waits for.

    :param number: the poller's number of the Operation.
    :param watch: the state of polling the Operation.
    :param dataset: the Operation's dataset.
    :param end: the future that receives the Operation when it is done.
    """

    __slots__ = (
        "_context",
        "_request",
        "dataset",
        "due",
        "end",
        "is_unlisted",
        "not_before",
        "number",
        "watch",
    )

    def __init__(
        self, number: int, watch: OperationWatch, dataset: PolledDataset, end: asyncio.Future[Operation]
    ) -> None:
        self.number = number
        self.watch = watch
        self.dataset = dataset
        self.end = end
        self.due: float | None = None
        #: The earliest time of the event loop at which this Operation may complete.
        self.not_before = math.inf
        self.is_unlisted = False
        self._request: ApiRequest | None = None
        self._context = contextvars.copy_context()

    @property
    def request(self) -> ApiRequest:
        """The get of this Operation; built by the first get, as most Operations may be answered by lists."""
        if self._request is None:
            self._request = methods.get_operation(OperationName.parse(self.watch.operation_name))
        return self._request

    def first_pause(self) -> float | None:
        """Return the pause before the first poll in seconds; None if the wait has ended."""
        return self._run_in_context(lambda watch: watch.next_pause(), self.watch)

    def on_response(self, operation: Operation) -> float | None:
        """Record a response; return the pause before the next poll in seconds, None if the wait has ended."""
        return self._run_in_context(self._record_response, operation)

    def patient_pause(self, pause: float | None) -> float | None:
        """
        Return a longer pause before the next poll where the counters prove that the end cannot be near.

        :param pause: the return value of ``on_response``.
        """
        return None if pause is None else self.watch.patient_pause(pause)

    def on_error(self, error: DicomExportError) -> float | None:
        """
        Record a failed poll; return the pause before the next one in seconds, None if the wait has ended.
        """
        return self._run_in_context(self._record_error, error)

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        if not self.end.done():
            self.end.set_exception(error)

    def _run_in_context(self, callback: Callable[[_T], float | None], argument: _T) -> float | None:
        if self.end.done():
            return None
        try:
            return self._context.run(callback, argument)
        except Exception as error:  # an error of this Operation's watch, which must not end the poller
            self.fail(error)
            return None

    def _record_response(self, operation: Operation) -> float | None:
        try:
            is_done = self.watch.record_response(operation)
        except DicomExportError as error:
            return self._record_error(error)
        if is_done:
            self.end.set_result(operation)
            return None
        return self.watch.next_pause()

    def _record_error(self, error: DicomExportError) -> float:
        self.watch.record_error(error)
        return self.watch.next_pause()


class PolledDataset:
    """
    The followed Operations of one dataset, and the state of polling it.

    :param name: the dataset.
    :param refused_until: the time of the event loop until which the dataset is not listed, in seconds.
    """

    __slots__ = ("followed", "name", "schedule")

    def __init__(self, name: DatasetName, refused_until: float) -> None:
        self.name = name
        self.followed: set[Followed] = set()
        self.schedule = DatasetSchedule(refused_until)
