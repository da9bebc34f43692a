"""Answers of the API: the JSON in them, or the error that they amount to."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import methods, responses
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName

DATASET = DatasetName("p", "l", "d")
STORE = DicomStoreName(DATASET, "s")
OPERATION = OperationName(DATASET, "77")
EXPORT = methods.export(
    STORE, ExportRequest(destination="gs://exports/nightly", filter_uri="gs://filters/f.txt")
)
POLL = methods.get_operation(OPERATION)
SEARCH = methods.search(
    STORE,
    "studies",
    study_uid=None,
    series_uid=None,
    filters={"PatientName": "Doe^Jane"},
    include_fields=(),
    limit=1,
    offset=0,
)
CALLER = "airflow@p.iam.gserviceaccount.com"


def envelope(status: int, message: str, name: str = "NAME") -> bytes:
    return json.dumps({"error": {"code": status, "message": message, "status": name}}).encode()


def error_of(
    request: methods.ApiRequest, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> exceptions.DicomExportError:
    with pytest.raises(exceptions.DicomExportError) as error:
        responses.decode(request, status, headers or {}, body, CALLER)
    return error.value


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_faults(status: int) -> None:
    error = error_of(POLL, status, envelope(status, "Try again."), {"Retry-After": "7"})
    assert isinstance(error, exceptions.DicomExportTransientError)
    assert isinstance(error, exceptions.DicomExportQuotaExhaustedError) is (status == 429)
    assert error.safe_to_resend is (status in (408, 425, 429))
    assert error.retry_after == 7.0
    assert error.operation_name == str(OPERATION)
    assert f"{status} NAME Try again" in str(error)


@pytest.mark.parametrize(
    "status", [301, 302, 400, 401, 403, 404, 405, 409, 410, 412, 413, 499, 501, 505, 511]
)
@pytest.mark.parametrize("request_", [EXPORT, POLL], ids=["export", "poll"])
def test_all_others_are_not_passing(status: int, request_: methods.ApiRequest) -> None:
    error = error_of(request_, status, envelope(status, "No."), {"Retry-After": "7"})
    assert not isinstance(error, exceptions.DicomExportTransientError)


@pytest.mark.parametrize(
    ("status", "kind", "fails_for_good"),
    [
        (400, exceptions.DicomExportInvalidRequestError, True),
        (401, exceptions.DicomExportAuthenticationError, False),
        (403, exceptions.DicomExportPermissionError, False),
        (404, exceptions.DicomExportNotFoundError, True),
    ],
)
def test_kinds(status: int, kind: type, fails_for_good: bool) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    error = error_of(EXPORT, status, envelope(status, "The API's own words."))
    assert type(error) is kind
    assert isinstance(error, AirflowFailException) is fails_for_good
    assert f"Could not export {STORE} to gs://exports/nightly: {status} NAME The API's own words" in str(
        error
    )


def test_a_403_while_polling_says_that_the_export_goes_on() -> None:
    error = error_of(POLL, 403, envelope(403, "Permission 'healthcare.operations.get' denied"))
    assert f"The export itself goes on as {OPERATION}" in str(error)
    assert error.operation_name == str(OPERATION)
    assert f"for the caller {CALLER} on the dataset {DATASET}" in str(error)
    assert "gcloud healthcare datasets add-iam-policy-binding d " in str(error)


@pytest.mark.parametrize("status", [400, 403])
def test_the_agents_missing_role_may_come_as_a_400_or_a_403(status: int) -> None:
    message = (
        "Healthcare API doesn't have required Cloud Storage permission. See https://x for more information"
    )
    error = error_of(EXPORT, status, envelope(status, message))
    assert type(error) is exceptions.DicomExportPermissionError
    assert "roles/storage.objectAdmin on the bucket exports" in str(error)
    assert "roles/storage.objectViewer on the bucket filters" in str(error)


def test_a_used_up_quota_comes_with_advice() -> None:
    assert "Airflow pool" in str(error_of(EXPORT, 429, envelope(429, "Quota exceeded")))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "(empty body)"),
        (b"<html>\n<b>Bad</b> gateway</html>", "<html> <b>Bad</b> gateway</html>"),
        (b"x" * 100_000, "x" * 500 + "..."),
        (b"\xff\xfe", "\ufffd"),
        (json.dumps([{"error": {"message": "In a list."}}]).encode(), "In a list"),
        (json.dumps({"error": "access_denied"}).encode(), "access_denied"),
        (b"[]", "'[]'"),
        (b"null", "'null'"),
        (b'{"error": {}}', "{"),
    ],
)
def test_error_bodies_of_every_kind_are_shown(body: bytes, shown: str) -> None:
    text = str(error_of(POLL, 500, body))
    assert shown in text
    assert len(text) < 1500


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b'{"name": "x', b"[]", b"null", b'"text"', b"7", b"\xff\xfe\x00", b"NaN"]
)
@pytest.mark.parametrize("request_", [EXPORT, POLL], ids=["export", "poll"])
def test_a_200_that_is_no_operation_is_a_passing_fault(body: bytes, request_: methods.ApiRequest) -> None:
    error = error_of(request_, 200, body)
    assert type(error) is exceptions.DicomExportUnavailableError
    assert error.safe_to_resend is False


@pytest.mark.parametrize("body", [b"Doe^Jane", b'{"00100010": "Doe^Jane"}', b'[{"00100010": "Doe^Jane'])
def test_a_broken_answer_to_a_search_is_not_quoted(body: bytes) -> None:
    text = str(error_of(SEARCH, 200, body))
    assert "Doe" not in text
    assert "PatientName" not in text


def test_good_answers() -> None:
    assert responses.decode(POLL, 200, {}, b'{"name": "x"}', None) == {"name": "x"}
    assert responses.decode(SEARCH, 200, {}, b"[]", None) == []
    assert responses.decode(SEARCH, 204, {}, b"", None) == []


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), (" 120 ", 120), (None, None)])
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert responses.retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    asked = responses.retry_after(soon)
    assert asked is not None
    assert 60 < asked <= 90
    assert responses.retry_after(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)) == 0


@pytest.mark.parametrize(
    "value", ["", " ", "soon", "-5", "1.5", "1e3", "Wed, 99 Foo 2025 99:00:00 GMT", "²", "(", '"']
)
def test_an_unreadable_retry_after_is_none(value: str) -> None:
    assert responses.retry_after(value) is None


DATES = st.from_regex(
    r"\A(Mon, )?[0-9]{1,2} (Jan|Feb|Xyz) [0-9]{1,6} [0-9]{1,2}:[0-9]{2}(:[0-9]{2})? (GMT|[+-][0-9]{4,12}|)\Z"
)


@given(st.text() | st.text("0123456789 :,-+GMTJan") | st.integers().map(str) | DATES)
@example("9" * 400)
@example("Wed, 21 Oct 2015 07:28:00 +999999999999999")
def test_no_retry_after_makes_it_stumble_or_wait_for_ever(value: str) -> None:
    asked = responses.retry_after(value)
    assert asked is None or 0 <= asked <= 600


@pytest.mark.parametrize(
    "message",
    [
        "Cloud Healthcare API has not been used in project 1 before or it is disabled.",
        "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: x",
    ],
)
def test_a_403_that_no_role_can_lift_names_none(message: str) -> None:
    error = error_of(POLL, 403, envelope(403, message))
    assert isinstance(error, exceptions.DicomExportPermissionError)
    assert "roles/" not in str(error)
    assert message.rstrip(".") in str(error)
    assert str(OPERATION) in str(error)
