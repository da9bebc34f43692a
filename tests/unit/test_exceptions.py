"""The error hierarchy: distinct classes, which survive pickling."""

from __future__ import annotations

import inspect
import pickle
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.exceptions import DicomExportError

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

CLASSES = [
    cls for _, cls in inspect.getmembers(exceptions, inspect.isclass) if issubclass(cls, DicomExportError)
]
NAME = "projects/p/locations/l/datasets/d/operations/77"
OPERATION: Operation = {
    "name": NAME,
    "metadata": {"counter": {"success": "3", "failure": "2", "pending": "1"}},
}
NOT_RETRIED = {
    exceptions.DicomExportInvalidRequestError,
    exceptions.DicomExportNotFoundError,
    exceptions.DicomExportDestinationNotEmptyError,
    exceptions.DicomExportDuplicateRiskError,
}


def build(cls: type[DicomExportError]) -> DicomExportError:
    wanted = inspect.signature(cls).parameters
    values: dict[str, Any] = {
        "operation": OPERATION,
        "operation_name": NAME,
        "safe_to_resend": True,
        "retry_after": 7.0,
    }
    return cls("What failed.", **{name: value for name, value in values.items() if name in wanted})


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_survive_pickling(cls: type[DicomExportError]) -> None:
    error = build(cls)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error) == error.message == "What failed."
    assert vars(copy) == vars(error)
    assert copy.counters == error.counters


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_are_airflow_exceptions_below_one_root(cls: type[DicomExportError]) -> None:
    assert issubclass(cls, AirflowException)
    assert issubclass(cls, DicomExportError)
    assert issubclass(cls, AirflowFailException) is (cls in NOT_RETRIED)
    assert str(cls()) == ""


def test_errors_that_users_handle_differently_are_distinct_classes() -> None:
    leaves = [
        exceptions.DicomExportInvalidRequestError,
        exceptions.DicomExportPermissionError,
        exceptions.DicomExportNotFoundError,
        exceptions.DicomExportQuotaExhaustedError,
        exceptions.DicomExportOperationFailedError,
        exceptions.DicomExportCancelledError,
        exceptions.DicomExportTimeoutError,
        exceptions.DicomExportTooManyFailuresError,
    ]
    for one, other in combinations(leaves, 2):
        assert not issubclass(one, other)
        assert not issubclass(other, one)


def test_error_with_an_operation_has_its_name_counters_and_logs() -> None:
    error = DicomExportError("x", operation=OPERATION)
    assert error.operation_name == NAME
    assert error.counters is not None
    assert (error.counters.success, error.counters.failure, error.counters.pending) == (3, 2, 1)
    assert error.counters.total == 6
    assert "77" in (error.logs_url or "")


def test_error_without_an_operation_has_no_name_counters_and_logs() -> None:
    error = DicomExportError("x")
    assert (error.operation, error.operation_name, error.counters, error.logs_url) == (None, None, None, None)
