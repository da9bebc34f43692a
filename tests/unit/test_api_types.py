"""Counters and cancellation, read from the API's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.api_types import Counters, is_cancelled

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

NAME = "projects/p/locations/l/datasets/d/operations/77"


def test_counters_are_read_from_strings() -> None:
    operation: Operation = {
        "name": NAME,
        "metadata": {"counter": {"success": "3", "failure": "2", "pending": "10", "secondaryFailure": "7"}},
    }
    counters = Counters.of(operation)
    assert counters == Counters(success=3, failure=2, pending=10)
    assert (counters.done, counters.total) == (5, 15)
    assert str(counters) == "3 exported, 2 failed, 10 pending"


@pytest.mark.parametrize(
    "operation", [{}, {"metadata": {}}, {"metadata": {"counter": {}}}, {"metadata": {"counter": {"x": "1"}}}]
)
def test_counters_that_the_api_leaves_out_are_zero(operation: Any) -> None:
    assert Counters.of(operation) == Counters() == Counters(success=0, failure=0, pending=0)


@pytest.mark.parametrize("counter", ["success", "failure", "pending"])
@pytest.mark.parametrize("value", ["many", None, [], ""])
def test_unreadable_counters_are_an_error_and_not_zero(counter: str, value: Any) -> None:
    operation: Any = {"metadata": {"counter": {counter: value}}}
    with pytest.raises(ValueError, match="no readable counters"):
        Counters.of(operation)


@pytest.mark.parametrize("operation", [{"metadata": "none"}, {"metadata": {"counter": []}}])
def test_counters_of_another_form_are_an_error(operation: Any) -> None:
    with pytest.raises(ValueError, match="no readable counters"):
        Counters.of(operation)


@pytest.mark.parametrize(
    ("operation", "cancelled"),
    [
        ({"name": NAME, "done": True, "error": {"code": 1}}, True),
        ({"name": NAME, "done": True, "error": {"code": 2}}, False),
        ({"name": NAME, "done": True, "error": {"code": 0}}, False),
        ({"name": NAME, "done": True, "error": {}}, False),
        ({"name": NAME, "done": True}, False),
        ({"name": NAME}, False),
    ],
)
def test_only_code_1_is_a_cancellation(operation: Operation, cancelled: bool) -> None:
    assert is_cancelled(operation) is cancelled
