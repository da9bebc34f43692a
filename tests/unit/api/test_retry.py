"""Retries of single requests, and the backoff while a quota is exhausted; no test sleeps."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import tenacity

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName
from airflow_provider_dicom.api.retry import quota_backoff, retry_options

if TYPE_CHECKING:
    from airflow_provider_dicom.api.methods import ApiRequest

DATASET = DatasetName("p", "l", "d")
IDEMPOTENT = methods.get_operation(OperationName(DATASET, "77"))
NOT_IDEMPOTENT = methods.export(DicomStoreName(DATASET, "s"), ExportRequest(destination="gs://exports"))
TRANSIENT = [exceptions.DicomExportQuotaExhaustedError, exceptions.DicomExportUnavailableError]
FINAL = [
    exceptions.DicomExportInvalidRequestError,
    exceptions.DicomExportNotFoundError,
    exceptions.DicomExportPermissionError,
    exceptions.DicomExportAuthenticationError,
    exceptions.DicomExportSubmissionUnknownError,
    exceptions.DicomExportError,
]


class FailingApi:
    """
    An API that fails for a number of requests, and then answers.

    :param error: the error of each failing request.
    :param failures: the number of failing requests.
    """

    def __init__(self, error: Exception, failures: int = 1000) -> None:
        self._error = error
        self._failures = failures
        self.requests = 0
        self.pauses: list[float] = []

    def __call__(self) -> str:
        self.requests += 1
        if self.requests <= self._failures:
            raise self._error
        return "answer"

    def send(self, request: ApiRequest, num_retries: int = 5) -> str:
        """Send a request by the retry policy, with pauses that are noted down and take no time."""
        retrying = tenacity.Retrying(**retry_options(request, num_retries), sleep=self.pauses.append)
        return retrying(self)


@pytest.mark.parametrize("safe_to_resend", [True, False])
@pytest.mark.parametrize("kind", TRANSIENT)
def test_idempotent_request_is_repeated_after_every_transient_error(
    kind: type[exceptions.DicomExportTransientError], safe_to_resend: bool
) -> None:
    api = FailingApi(kind("no", safe_to_resend=safe_to_resend), failures=3)
    assert api.send(IDEMPOTENT) == "answer"
    assert api.requests == 4


@pytest.mark.parametrize("kind", TRANSIENT)
def test_request_that_is_not_idempotent_is_repeated_if_that_is_safe(
    kind: type[exceptions.DicomExportTransientError],
) -> None:
    api = FailingApi(kind("no", safe_to_resend=True), failures=3)
    assert api.send(NOT_IDEMPOTENT) == "answer"
    assert api.requests == 4


@pytest.mark.parametrize("kind", TRANSIENT)
def test_request_that_is_not_idempotent_is_sent_once_if_it_may_have_been_processed(
    kind: type[exceptions.DicomExportTransientError],
) -> None:
    api = FailingApi(kind("no", safe_to_resend=False))
    with pytest.raises(kind, match="no"):
        api.send(NOT_IDEMPOTENT)
    assert api.requests == 1


@pytest.mark.parametrize("kind", FINAL)
@pytest.mark.parametrize("request_", [IDEMPOTENT, NOT_IDEMPOTENT], ids=["get", "export"])
def test_no_request_is_repeated_after_other_errors(
    kind: type[exceptions.DicomExportError], request_: ApiRequest
) -> None:
    api = FailingApi(kind("no"))
    with pytest.raises(kind, match="no"):
        api.send(request_)
    assert api.requests == 1


def test_programming_errors_are_not_repeated() -> None:
    api = FailingApi(ZeroDivisionError("no"))
    with pytest.raises(ZeroDivisionError):
        api.send(IDEMPOTENT)
    assert api.requests == 1


@pytest.mark.parametrize("num_retries", [0, 1, 5])
def test_last_error_is_raised_after_the_last_retry(num_retries: int) -> None:
    error = exceptions.DicomExportUnavailableError("503")
    api = FailingApi(error)
    with pytest.raises(exceptions.DicomExportUnavailableError) as raised:
        api.send(IDEMPOTENT, num_retries)
    assert raised.value is error
    assert api.requests == num_retries + 1
    assert len(api.pauses) == num_retries


def pauses_of(retry_after: float | None, num_retries: int = 8) -> list[float]:
    api = FailingApi(exceptions.DicomExportUnavailableError("503", retry_after=retry_after))
    with pytest.raises(exceptions.DicomExportUnavailableError):
        api.send(IDEMPOTENT, num_retries)
    return api.pauses


def test_pauses_double_from_one_second_to_a_minute_with_up_to_a_second_of_jitter() -> None:
    random.seed(1)
    sequences = [pauses_of(None) for _ in range(100)]
    for number, pauses in enumerate(zip(*sequences, strict=True)):
        exponential = min(2.0**number, 60.0)
        assert exponential <= min(pauses)
        assert max(pauses) <= min(exponential + 1.0, 60.0)
        if exponential < 60:
            assert min(pauses) < exponential + 0.1
            assert max(pauses) > exponential + 0.9


@pytest.mark.parametrize("retry_after", [20.0, 600.0])
def test_pauses_are_never_shorter_than_retry_after(retry_after: float) -> None:
    pauses = pauses_of(retry_after, num_retries=3)
    assert pauses == [retry_after] * 3


def test_short_retry_after_does_not_shorten_the_pauses() -> None:
    assert all(pause >= 1.0 for pause in pauses_of(0.1, num_retries=3))


def test_each_retry_is_logged_with_the_error_and_the_pause(caplog: pytest.LogCaptureFixture) -> None:
    api = FailingApi(exceptions.DicomExportUnavailableError("Could not get x: 503", retry_after=44.0), 2)
    with caplog.at_level("WARNING", logger="airflow_provider_dicom.api.retry"):
        api.send(IDEMPOTENT)
    assert [record.getMessage() for record in caplog.records] == [
        "Could not get x: 503. Trying again in 44.0 s."
    ] * 2


@pytest.mark.parametrize(
    ("attempt", "backoff"), [(0, 30.0), (1, 60.0), (2, 120.0), (3, 240.0), (4, 300.0), (10_000, 300.0)]
)
def test_submissions_back_off_from_half_a_minute_to_five_with_half_as_much_jitter(
    attempt: int, backoff: float
) -> None:
    random.seed(2)
    pauses = [quota_backoff(attempt, None) for _ in range(300)]
    assert backoff <= min(pauses) < 1.02 * backoff
    assert 1.48 * backoff < max(pauses) <= 1.5 * backoff


def test_submissions_wait_at_least_as_long_as_retry_after() -> None:
    random.seed(3)
    pauses = [quota_backoff(0, 400.0) for _ in range(100)]
    assert 400.0 <= min(pauses) < 410.0
    assert 590.0 < max(pauses) <= 600.0
    assert all(30.0 <= quota_backoff(0, 1.0) <= 45.0 for _ in range(100))
