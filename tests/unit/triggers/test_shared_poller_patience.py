"""The shared poller's gets where many Operations are far from their end."""

from __future__ import annotations

import functools
import random

import pytest

from airflow_provider_dicom import exceptions
from tests.support.fake_operations_api import PolledDatasets
from tests.support.virtual_time import in_virtual_time


@pytest.fixture(autouse=True)
def same_jitter() -> None:
    """The same jitter in every run."""
    random.seed(7)


class SteadyExports:
    """
    Exports whose instances are exported one after the other, and which may not be listed.

    :param number: the number of exports.
    :param length: the time that each takes, in seconds.
    """

    def __init__(self, number: int, length: float) -> None:
        self.polled = PolledDatasets()
        self.delays: list[float] = []
        self.polled.api.error = lambda request: (
            exceptions.DicomExportPermissionError("403") if request.kind == "list" else None
        )
        self.polled.api.progress = lambda time, end: (int(1000 * time / end), 1000 - int(1000 * time / end))
        for export in range(number):
            end = length * random.uniform(0.9, 1.1)
            followed = self.polled.follow(export, poll_interval=30.0, end=end)
            followed.end.add_done_callback(functools.partial(self._note, end))

    def _note(self, end: float, _: object) -> None:
        self.delays.append(self.polled.loop.time() - end)


@in_virtual_time
async def test_gets_of_many_operations_wait_where_the_counters_prove_that_the_end_is_not_near() -> None:
    exports = SteadyExports(101, 3600.0)
    await exports.polled.until(4000)
    # Every 27 seconds, on average, there would be 134 for each.
    assert len(exports.polled.api.of_kind("get")) < 101 * 40
    assert len(exports.delays) == 101
    assert max(exports.delays) <= 31


@in_virtual_time
async def test_gets_of_few_operations_keep_the_poll_interval() -> None:
    exports = SteadyExports(100, 1800.0)
    await exports.polled.until(1500)
    assert len(exports.polled.api.of_kind("get")) > 100 * 50
