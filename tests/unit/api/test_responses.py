"""Responses of the API: the JSON in them, or the error that status and body stand for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
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
BIGQUERY_EXPORT = methods.export(STORE, ExportRequest(destination="bq://p.d.t"))
POLL = methods.get_operation(OPERATION)
GET_STORE = methods.get_dicom_store(STORE)
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


def refusal(message: str, reason: str) -> bytes:
    details = [{"@type": "x"}, {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    return json.dumps({"error": {"code": 403, "message": message, "details": details}}).encode()


def error_of(
    request: methods.ApiRequest, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> exceptions.DicomExportError:
    with pytest.raises(exceptions.DicomExportError) as error:
        responses.decode(request, status, headers or {}, body, CALLER)
    return error.value


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_transient_statuses_are_transient_errors(status: int) -> None:
    error = error_of(POLL, status, envelope(status, "Try again."), {"Retry-After": "7"})
    assert isinstance(error, exceptions.DicomExportTransientError)
    assert isinstance(error, exceptions.DicomExportQuotaExhaustedError) is (status == 429)
    assert error.safe_to_resend is (status in (408, 425, 429))
    assert error.retry_after == 7.0
    assert error.operation_name == str(OPERATION)
    assert str(error) == f"Could not get the state of {OPERATION}: {status} NAME Try again"


@pytest.mark.parametrize(
    "status", [301, 302, 400, 401, 403, 404, 405, 409, 410, 412, 413, 499, 501, 505, 511]
)
@pytest.mark.parametrize("request_", [EXPORT, POLL], ids=["export", "poll"])
def test_other_statuses_are_not_transient_errors(status: int, request_: methods.ApiRequest) -> None:
    error = error_of(request_, status, envelope(status, "No."), {"Retry-After": "7"})
    assert not isinstance(error, exceptions.DicomExportTransientError)
    assert error.operation_name == request_.operation_name


@pytest.mark.parametrize(
    ("status", "kind", "fails_for_good"),
    [
        (400, exceptions.DicomExportInvalidRequestError, True),
        (401, exceptions.DicomExportAuthenticationError, False),
        (403, exceptions.DicomExportPermissionError, False),
        (404, exceptions.DicomExportNotFoundError, True),
        (409, exceptions.DicomExportInvalidRequestError, True),
    ],
)
def test_each_status_has_an_error_class_with_the_apis_own_message(
    status: int, kind: type[exceptions.DicomExportError], fails_for_good: bool
) -> None:
    error = error_of(EXPORT, status, envelope(status, "The API's own words."))
    assert type(error) is kind
    assert isinstance(error, AirflowFailException) is fails_for_good
    words = f"Could not export {STORE} to gs://exports/nightly: {status} NAME The API's own words. "
    assert str(error).startswith(words)


@pytest.mark.parametrize(
    ("request_", "status", "advice"),
    [
        (
            EXPORT,
            401,
            [
                "No. The credentials of the connection are not accepted, and a new token did not help",
                "key, impersonation chain and scopes",
            ],
        ),
        (EXPORT, 404, ["No. Check project, location, dataset and DICOM store", "the right API endpoint"]),
        (
            POLL,
            404,
            ["No. The API keeps an Operation for about 30 days", f"of the export. Operation: {OPERATION}"],
        ),
        (EXPORT, 400, ["No. For Cloud Storage, the bucket must exist", "support the MIME type"]),
        (
            BIGQUERY_EXPORT,
            400,
            ["No. For BigQuery, the table's dataset must exist", "compatible", "empty table"],
        ),
        (GET_STORE, 400, ["No. The request has to be changed before it can succeed."]),
    ],
)
def test_error_says_what_the_user_can_do(
    request_: methods.ApiRequest, status: int, advice: list[str]
) -> None:
    text = str(error_of(request_, status, envelope(status, "No.")))
    for words in advice:
        assert words in text


@pytest.mark.parametrize(("request_", "role"), [(EXPORT, "dicomViewer"), (GET_STORE, "dicomStoreViewer")])
def test_403_names_the_callers_role_and_its_command(request_: methods.ApiRequest, role: str) -> None:
    error = error_of(request_, 403, envelope(403, "Permission 'healthcare.dicomStores.x' denied"))
    assert type(error) is exceptions.DicomExportPermissionError
    needed = f"Needed: roles/healthcare.{role} (it has {request_.permission.permission})"
    assert f"Permission 'healthcare.dicomStores.x' denied. {needed}" in str(error)
    assert f"for the caller {CALLER} on the DICOM store {STORE}" in str(error)
    assert "gcloud healthcare dicom-stores add-iam-policy-binding s " in str(error)
    assert "goes on" not in str(error)


def test_403_of_a_poll_says_that_the_export_goes_on() -> None:
    error = error_of(POLL, 403, envelope(403, "Permission 'healthcare.operations.get' denied"))
    assert f"denied. The export itself goes on as {OPERATION}. Needed: " in str(error)
    assert error.operation_name == str(OPERATION)
    assert f"for the caller {CALLER} on the dataset {DATASET}" in str(error)
    assert "gcloud healthcare datasets add-iam-policy-binding d " in str(error)


POLICIES = [
    ("Healthcare API has not been used in project 1 before.", "has not been used in project"),
    ("Cloud Healthcare API was used before, but it is disabled.", "it is disabled"),
    ("Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: x", "policy"),
    ("Blocked by VPC Service Controls.", "VPC Service Controls"),
]


@pytest.mark.parametrize(("message", "policy"), POLICIES)
def test_403_of_a_policy_names_no_role_but_the_administrators(message: str, policy: str) -> None:
    error = error_of(POLL, 403, envelope(403, message))
    assert type(error) is exceptions.DicomExportPermissionError
    assert "roles/" not in str(error)
    assert message.rstrip(".") in str(error)
    assert f"goes on as {OPERATION}. This is not about a role (" in str(error)
    assert f"{policy}): " in str(error)
    assert "Ask the administrators" in str(error)
    assert error.operation_name == str(OPERATION)


REASONS = [
    ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "lacks a scope. Give the connection"),
    ("SERVICE_DISABLED", "gcloud services enable healthcare.googleapis.com --project=p"),
    ("BILLING_DISABLED", "link an active billing account"),
    ("USER_PROJECT_DENIED", "roles/serviceusage.serviceUsageConsumer"),
    ("SECURITY_POLICY_VIOLATED", "VPC Service Controls"),
]


@pytest.mark.parametrize(("reason", "advice"), REASONS)
def test_403_with_a_reason_is_advised_by_it_whatever_its_message_says(reason: str, advice: str) -> None:
    text = str(error_of(POLL, 403, refusal("Request had a problem, in no words that are known.", reason)))
    assert f"This is not about a role ({reason}): " in text
    assert advice in text
    assert "add-iam-policy-binding" not in text


def test_403_of_a_missing_permission_names_the_role_though_its_message_reads_like_a_policy() -> None:
    message = "Permission denied on resource project quota project x (or it is disabled)."
    text = str(error_of(POLL, 403, refusal(message, "IAM_PERMISSION_DENIED")))
    assert "add-iam-policy-binding" in text
    assert "not about a role" not in text


@pytest.mark.parametrize("request_", [EXPORT, POLL], ids=["export", "poll"])
def test_aborted_request_is_sent_again(request_: methods.ApiRequest) -> None:
    error = error_of(request_, 409, envelope(409, "Concurrent requests.", "ABORTED"))
    assert type(error) is exceptions.DicomExportUnavailableError
    assert error.safe_to_resend


def test_policy_is_looked_for_in_a_403_only() -> None:
    error = error_of(POLL, 404, envelope(404, POLICIES[0][0]))
    assert type(error) is exceptions.DicomExportNotFoundError


AGENT_MESSAGE = (
    "Healthcare API doesn't have required Cloud Storage permission. See https://x for more information"
)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_missing_role_of_the_service_agent_is_a_permission_error_whatever_the_status(status: int) -> None:
    error = error_of(EXPORT, status, envelope(status, AGENT_MESSAGE))
    assert type(error) is exceptions.DicomExportPermissionError
    assert f"{AGENT_MESSAGE}. Needed by the Healthcare Service Agent" in str(error)
    assert "gcloud projects describe p " in str(error)
    assert "roles/storage.objectAdmin on the bucket exports" in str(error)
    assert "roles/storage.objectViewer on the bucket filters" in str(error)


def test_request_without_a_destination_is_not_about_the_service_agent() -> None:
    error = error_of(GET_STORE, 400, envelope(400, AGENT_MESSAGE))
    assert type(error) is exceptions.DicomExportInvalidRequestError


def test_429_of_an_export_advises_a_pool_or_more_quota() -> None:
    text = str(error_of(EXPORT, 429, envelope(429, "Quota exceeded")))
    assert text.startswith(f"Could not export {STORE} to gs://exports/nightly: 429 NAME Quota exceeded. ")
    for words in ("few concurrent exports", "Airflow pool", "request more quota"):
        assert words in text


@pytest.mark.parametrize(("request_", "status"), [(EXPORT, 503), (POLL, 429)])
def test_advice_about_quota_is_for_a_429_of_an_export_only(request_: methods.ApiRequest, status: int) -> None:
    assert "pool" not in str(error_of(request_, status, envelope(status, "No")))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "500 (empty body)"),
        (b" \n ", "500 (empty body)"),
        (b" " * 20_000 + b"x", "500 (empty body)"),
        (b"<html>\n<b>Bad</b> gateway</html>", "500 '<html> <b>Bad</b> gateway</html>'"),
        (b"x" * 500, f"500 '{'x' * 500}'"),
        (b"x" * 501, f"500 '{'x' * 500}...'"),
        (b"x" * 100_000, f"500 '{'x' * 500}...'"),
        (b"\xff\xfe", "500 '\ufffd\ufffd'"),
        (json.dumps([{"error": {"message": "In a list."}}]).encode(), "500 In a list"),
        (json.dumps({"error": {"status": "INTERNAL"}}).encode(), "500 INTERNAL"),
        (json.dumps({"error": {"status": "", "message": "Words"}}).encode(), "500 Words"),
        (json.dumps({"error": "access_denied"}).encode(), "500 access_denied"),
        (b'{"error": ""}', '500 \'{"error": ""}\''),
        (b"[]", "500 '[]'"),
        (b"[1]", "500 '[1]'"),
        (b"null", "500 'null'"),
        (b'{"error": {}}', "500 '{\"error\": {}}'"),
        (b'{"fault": 1}', "500 '{\"fault\": 1}'"),
    ],
)
def test_error_bodies_of_every_form_are_shown(body: bytes, shown: str) -> None:
    assert str(error_of(POLL, 500, body)) == f"Could not get the state of {OPERATION}: {shown}"


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b'{"name": "x', b"[]", b"null", b'"text"', b"7", b"\xff\xfe\x00", b"NaN"]
)
@pytest.mark.parametrize("request_", [EXPORT, POLL], ids=["export", "poll"])
def test_200_without_an_operation_is_transient_and_not_safe_to_resend(
    body: bytes, request_: methods.ApiRequest
) -> None:
    error = error_of(request_, 200, body, {"Content-Type": "text/html"})
    assert type(error) is exceptions.DicomExportUnavailableError
    assert error.safe_to_resend is False
    assert error.operation_name == request_.operation_name
    assert str(error).startswith(f"Could not {request_.action}: the API answered 200, but the body ")
    assert f"({len(body)} bytes of text/html) is not the expected JSON. A proxy may have" in str(error)


def test_200_without_json_and_content_type() -> None:
    assert "(1 bytes of no content type)" in str(error_of(POLL, 200, b"x"))


def test_long_content_type_is_shortened_to_100_characters() -> None:
    error = error_of(POLL, 200, b"x", {"Content-Type": "x" * 101})
    assert f"(1 bytes of {'x' * 97}...)" in str(error)


def test_broken_json_of_unknown_status_is_described_without_one() -> None:
    error = responses.garbage(POLL, "the body")
    assert str(error) == (
        f"Could not get the state of {OPERATION}: the API answered, but the body is not the expected JSON. "
        "A proxy may have answered instead of the API, or the connection broke."
    )


@pytest.mark.parametrize("body", [b"Doe^Jane", b'{"00100010": "Doe^Jane"}', b'[{"00100010": "Doe^Jane'])
def test_broken_response_to_a_search_is_not_quoted(body: bytes) -> None:
    text = str(error_of(SEARCH, 200, body))
    assert "Doe" not in text
    assert "PatientName" not in text


@pytest.mark.parametrize("status", [200, 201, 299])
def test_json_of_a_good_response_is_returned(status: int) -> None:
    assert responses.decode(POLL, status, {}, b'{"name": "x"}', None) == {"name": "x"}
    assert responses.decode(SEARCH, status, {}, b"[]", None) == []


@pytest.mark.parametrize("status", [199, 300])
def test_json_of_another_status_is_an_error(status: int) -> None:
    assert type(error_of(POLL, status, b'{"name": "x"}')) is exceptions.DicomExportInvalidRequestError


def test_204_is_an_empty_response() -> None:
    assert responses.decode(SEARCH, 204, {}, b"", None) == []
    assert responses.decode(POLL, 204, {}, b"", None) == {}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), (" 120 ", 120), ("600", 600), ("601", 600), ("9" * 30, 600), (None, None)],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert responses.retry_after(value) == seconds


@pytest.mark.parametrize(("seconds", "low", "high"), [(90, 60, 90), (-86_400, 0, 0), (86_400, 600, 600)])
def test_retry_after_as_a_date(seconds: int, low: float, high: float) -> None:
    date = datetime.now(UTC) + timedelta(seconds=seconds)
    # A date without a time zone is in UTC.
    for text in (format_datetime(date, usegmt=True), format_datetime(date.replace(tzinfo=None))):
        pause = responses.retry_after(text)
        assert pause is not None
        assert low <= pause <= high


@pytest.mark.parametrize(
    "value", ["", " ", "soon", "-5", "1.5", "1e3", "Wed, 99 Foo 2025 99:00:00 GMT", "²", "(", '"']
)
def test_unreadable_retry_after_is_ignored(value: str) -> None:
    assert responses.retry_after(value) is None


DATES = st.from_regex(
    r"\A(Mon, )?[0-9]{1,2} (Jan|Feb|Xyz) [0-9]{1,6} [0-9]{1,2}:[0-9]{2}(:[0-9]{2})? (GMT|[+-][0-9]{4,12}|)\Z"
)


@given(st.text() | st.text("0123456789 :,-+GMTJan") | st.integers().map(str) | DATES)
@example("9" * 400)
@example("Wed, 21 Oct 2015 07:28:00 +999999999999999")
def test_every_retry_after_is_ignored_or_a_pause_of_at_most_ten_minutes(value: str) -> None:
    pause = responses.retry_after(value)
    assert pause is None or 0 <= pause <= 600
