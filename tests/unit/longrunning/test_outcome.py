"""The outcome of an export: its error and its counters decide together, against ``max_failures``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom import console, exceptions
from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.api.responses import decode
from airflow_provider_dicom.longrunning.outcome import (
    allowed_failures,
    counters,
    describe_accepted_error,
    outcome,
)
from rig.contract import RESULT_KEYS
from tests.support.finished_operations import LOGS, NAME, ended

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation, OperationMetadata, Status

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"


def outcome_of(
    operation: Operation, max_failures: float = 0, filter_uri: str | None = None
) -> dict[str, object]:
    result = outcome(
        operation,
        max_failures=max_failures,
        dicom_store=STORE,
        destination="gs://exports/nightly",
        filter_uri=filter_uri,
    )
    assert set(result) == RESULT_KEYS
    return dict(result)


@pytest.mark.parametrize(
    ("counter", "max_failures", "state"),
    [
        ({"success": 10}, 0, "SUCCEEDED"),
        ({}, 0, "SUCCEEDED"),
        ({"success": 10}, 0.0, "SUCCEEDED"),
        ({"success": 9, "failure": 1}, 1, "PARTIAL"),
        ({"success": 9, "failure": 1}, 100, "PARTIAL"),
        ({"success": 9, "failure": 1}, 0.1, "PARTIAL"),
        ({"failure": 10}, 1.0, "PARTIAL"),
        ({"success": 71, "failure": 29}, 0.29, "PARTIAL"),
        ({"success": 10, "secondaryFailure": 4}, 0, "SUCCEEDED"),
        ({"success": 10, "pending": 2}, 0, "SUCCEEDED"),
        ({"success": 2**40, "failure": 1}, 1, "PARTIAL"),
    ],
)
def test_result_of_an_export_within_max_failures(
    counter: dict[str, int], max_failures: float, state: str
) -> None:
    result = outcome_of(ended(counter), max_failures)
    assert result == {
        "operation_name": NAME,
        "dicom_store": STORE,
        "destination": "gs://exports/nightly",
        "state": state,
        "success": counter.get("success", 0),
        "failure": counter.get("failure", 0),
        "pending": counter.get("pending", 0),
        "create_time": "2025-11-23T01:00:00.5Z",
        "end_time": "2025-11-23T02:00:00Z",
        "logs_url": LOGS,
        "snapshot_time": "2025-11-23T01:00:00.5Z",
    }
    assert all(type(result[key]) is int for key in ("success", "failure", "pending"))


@pytest.mark.parametrize(
    ("counter", "max_failures", "allowed"),
    [
        ({"success": 9, "failure": 1}, 0, 0),
        ({"success": 9, "failure": 1}, 0.0, 0),
        ({"success": 8, "failure": 2}, 1, 1),
        ({"success": 89, "failure": 11}, 0.1, 10),
        ({"failure": 1}, 0.99, 0),
        ({"success": 1, "failure": 1}, 0.4, 0),
    ],
)
def test_more_failed_instances_than_max_failures_are_an_error(
    counter: dict[str, int], max_failures: float, allowed: int
) -> None:
    operation = ended(counter)
    with pytest.raises(exceptions.DicomExportTooManyFailuresError) as error:
        outcome_of(operation, max_failures)
    assert str(error.value) == (
        f"The export of {STORE} to gs://exports/nightly ended with {counter['failure']} failed of "
        f"{sum(counter.values())} instances; max_failures={max_failures} allows {allowed}. The logs list "
        "each failed instance with its cause; remove the causes and export again, or allow more failures. "
        f"Operation: {NAME}. Logs: {LOGS}"
    )
    assert error.value.operation == operation
    assert error.value.counters == counters(operation)


def test_no_failed_instance_is_allowed_by_default() -> None:
    with pytest.raises(exceptions.DicomExportTooManyFailuresError, match=r"^The export ended with 1 failed"):
        outcome(ended({"success": 9, "failure": 1}))


def test_result_of_an_export_of_which_only_the_operation_is_known() -> None:
    result = outcome(ended({"success": 9}))
    assert result["state"] == "SUCCEEDED"
    assert (result["dicom_store"], result["destination"]) == (None, None)


def test_permission_error_of_an_export_of_which_only_the_operation_is_known() -> None:
    message = "Permission denied: storage.objects.create"
    with pytest.raises(
        exceptions.DicomExportPermissionError, match="objectAdmin on the bucket BUCKET"
    ) as error:
        outcome(ended({}, {"code": 7, "message": message}))
    assert "objectViewer" not in str(error.value)


@pytest.mark.parametrize("max_failures", [0, 100, 1.0])
@pytest.mark.parametrize(
    ("code", "named"),
    [
        (3, "INVALID_ARGUMENT (code 3)"),
        (7, "PERMISSION_DENIED (code 7)"),
        (13, "INTERNAL (code 13)"),
        (99, "code 99"),
    ],
)
def test_error_of_the_operation_precedes_max_failures(code: int, named: str, max_failures: float) -> None:
    operation = ended({"success": 10}, {"code": code, "message": "it broke."})
    with pytest.raises(exceptions.error_of_operation(code)) as error:
        outcome_of(operation, max_failures)
    assert str(error.value) == (
        f"The export of {STORE} to gs://exports/nightly failed with {named}: it broke. Part of the output "
        f"may be there: 10 exported, 0 failed, 0 pending. Operation: {NAME}. Logs: {LOGS}"
    )
    assert error.value.operation == operation
    assert error.value.operation_name == NAME


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 3), (400, 9), (400, 11), (401, 16), (403, 7), (404, 5), (409, 6), (501, 12)],
)
def test_operation_and_request_that_end_with_the_same_code_raise_the_same_error(
    status: int, code: int
) -> None:
    with pytest.raises(exceptions.DicomExportError) as refused:
        decode(
            methods.export(
                DicomStoreName(DatasetName("p", "l", "d"), "s"),
                ExportRequest(destination="gs://exports/nightly"),
            ),
            status,
            {},
            b'{"error": {"message": "no"}}',
            None,
        )
    with pytest.raises(exceptions.DicomExportError) as failed:
        outcome_of(ended({}, {"code": code, "message": "no"}))
    assert type(failed.value) is type(refused.value)
    assert failed.value.operation_name == NAME


@pytest.mark.parametrize("code", [2, 4, 8, 10, 13, 14, 15, 99])
def test_operation_that_failed_for_a_while_is_retried_as_a_failed_operation(code: int) -> None:
    with pytest.raises(exceptions.DicomExportOperationFailedError) as error:
        outcome_of(ended({}, {"code": code, "message": "no"}))
    assert not isinstance(error.value, AirflowFailException)


BROKEN: Status = {"code": 2, "message": "2 instances failed."}


@pytest.mark.parametrize("has_response", [False, True])
@pytest.mark.parametrize("max_failures", [2, 5, 0.02, 1.0])
def test_error_because_of_failed_instances_within_max_failures_is_a_partial_result(
    max_failures: float, has_response: bool
) -> None:
    operation = ended({"success": 98, "failure": 2}, BROKEN)
    if has_response:
        operation["response"] = {}
    result = outcome_of(operation, max_failures)
    assert (result["state"], result["success"], result["failure"]) == ("PARTIAL", 98, 2)
    text = describe_accepted_error(operation)
    for part in ("UNKNOWN (code 2): 2 instances failed. It", "98 exported, 2 failed, 0 pending", NAME, LOGS):
        assert part in text


def test_error_is_one_of_failed_instances_from_the_first_exported_and_failed_instance_on() -> None:
    assert outcome_of(ended({"success": 1, "failure": 1}, BROKEN), 1)["state"] == "PARTIAL"


@pytest.mark.parametrize("has_response", [False, True])
@pytest.mark.parametrize(("max_failures", "allowed"), [(0, 0), (1, 1), (0.0, 0), (0.01, 1)])
def test_error_because_of_more_failed_instances_than_max_failures_says_how_far_the_export_came(
    max_failures: float, allowed: int, has_response: bool
) -> None:
    operation = ended({"success": 98, "failure": 2}, BROKEN)
    if has_response:
        operation["response"] = {}
    with pytest.raises(exceptions.DicomExportOperationFailedError) as error:
        outcome_of(operation, max_failures)
    assert "UNKNOWN (code 2): 2 instances failed. Part of the output may be there" in str(error.value)
    assert "98 exported, 2 failed, 0 pending" in str(error.value)
    assert f"max_failures={max_failures} allows {allowed} failed instances. Operation" in str(error.value)


@pytest.mark.parametrize(
    ("counter", "error", "metadata"),
    [
        ({"success": 90, "failure": 2, "pending": 8}, BROKEN, {}),
        ({"failure": 2}, BROKEN, {}),
        ({"success": 100}, BROKEN, {}),
        ({}, BROKEN, {}),
        ({"success": 98, "failure": 2}, {"code": 1, "message": "stopped"}, {}),
        ({"success": 98, "failure": 2}, BROKEN, {"cancelRequested": True}),
        ({"success": 98, "failure": 2}, {"code": 7, "message": "no"}, {}),
        (
            {"success": 98, "failure": 2},
            {"code": 9, "message": "doesn't have required Cloud Storage permission"},
            {},
        ),
    ],
    ids=[
        "pending",
        "nothing exported",
        "nothing failed",
        "no counters",
        "cancelled",
        "cancellation requested",
        "permission",
        "role of the service agent",
    ],
)
def test_error_of_the_whole_export_fails_whatever_max_failures_allows(
    counter: dict[str, int], error: Status, metadata: OperationMetadata
) -> None:
    operation = ended(counter, error)
    operation["metadata"].update(metadata)
    with pytest.raises(exceptions.DicomExportError) as raised:
        outcome_of(operation, 1.0)
    assert str(error["message"]).rstrip(".") in str(raised.value)
    assert "max_failures" not in str(raised.value)


def test_error_of_the_operation_without_a_message() -> None:
    with pytest.raises(exceptions.DicomExportOperationFailedError, match=r": no message\. Part"):
        outcome_of(ended({}, {}))


@pytest.mark.parametrize("counter", [{}, {"success": 3, "pending": 7}])
def test_cancelled_operation_is_an_error_of_its_own(counter: dict[str, int]) -> None:
    operation = ended(counter, {"code": 1, "message": "Stopped by the user."})
    with pytest.raises(exceptions.DicomExportCancelledError) as error:
        outcome_of(operation, 1.0)
    text = str(error.value)
    assert f"The export of {STORE} to gs://exports/nightly was cancelled: Stopped by the user. Part" in text
    assert f"{counters(operation)}. Operation: {NAME}" in text
    assert error.value.operation == operation


@pytest.mark.parametrize(
    ("filter_uri", "roles"),
    [(None, ["objectAdmin"]), ("gs://filters/f.txt", ["objectAdmin", "objectViewer"])],
)
def test_permission_error_names_the_roles_of_the_service_agent(
    filter_uri: str | None, roles: list[str]
) -> None:
    message = (
        "Healthcare API doesn't have required Cloud Storage permission. See https://x for more information"
    )
    operation = ended({}, {"code": 7, "message": message})
    with pytest.raises(exceptions.DicomExportPermissionError) as error:
        outcome_of(operation, filter_uri=filter_uri)
    assert "PERMISSION_DENIED (code 7)" in str(error.value)
    assert f": {message}. Part of the output may be there" in str(error.value)
    assert f" Logs: {LOGS}. Needed by the Healthcare Service Agent" in str(error.value)
    assert all(f"roles/storage.{role}" in str(error.value) for role in roles)
    assert error.value.operation == operation


@pytest.mark.parametrize(
    "operation", [{"name": NAME, "done": True}, {"name": NAME, "done": True, "metadata": {}}]
)
def test_result_of_an_operation_without_counters_and_times(operation: Operation) -> None:
    result = outcome_of(operation)
    assert result["state"] == "SUCCEEDED"
    assert (result["success"], result["failure"], result["pending"]) == (0, 0, 0)
    assert (result["create_time"], result["end_time"]) == (None, None)
    assert str(result["logs_url"]) == console.logs_query_url(operation, STORE)


@pytest.mark.parametrize("error", [None, {"code": 2, "message": "2 instances failed"}])
def test_errors_link_to_the_logs_of_the_dicom_store(error: Status | None) -> None:
    operation = ended({"success": 9, "failure": 2}, error)
    del operation["metadata"]["logsUrl"]
    with pytest.raises(exceptions.DicomExportError) as raised:
        outcome_of(operation)
    assert str(raised.value).endswith(f" Logs: {console.logs_query_url(operation, STORE)}")
    assert describe_accepted_error(operation, STORE).endswith(console.logs_query_url(operation, STORE))
    assert describe_accepted_error(operation).endswith(console.logs_query_url(operation))


PNG = "image/png"
LIMITS = (
    "mime_type='image/png' makes the API transcode, which it does only for files up to 1 GB and frames up to "
    f"150 MB: larger instances fail, but can be exported as uploaded, without mime_type. Operation: {NAME}."
)


@pytest.mark.parametrize("error", [None, {"code": 2, "message": "2 instances failed"}])
def test_error_of_failed_instances_names_the_limits_if_the_export_transcodes(error: Status | None) -> None:
    with pytest.raises(exceptions.DicomExportError) as raised:
        outcome(ended({"success": 9, "failure": 2}, error), mime_type=PNG)
    assert LIMITS in str(raised.value)


@pytest.mark.parametrize(
    ("counter", "mime_type"),
    [
        ({"failure": 2}, None),
        ({"failure": 2}, "application/dicom; transfer-syntax=*"),
        ({"success": 9}, PNG),
    ],
)
def test_error_does_not_name_the_limits_if_nothing_failed_or_nothing_was_transcoded(
    counter: dict[str, int], mime_type: str | None
) -> None:
    with pytest.raises(exceptions.DicomExportOperationFailedError) as raised:
        outcome(ended(counter, {"code": 13, "message": "no"}), mime_type=mime_type)
    assert "150 MB" not in str(raised.value)


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_share_that_stands_for_a_whole_number_allows_that_number(part: int, total: int) -> None:
    part = min(part, total)
    assert allowed_failures(part / total, total) == part


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_share_is_rounded_down(share: float, total: int) -> None:
    assert 0 <= allowed_failures(share, total) <= min(total, math.ceil(share * total))
    assert allowed_failures(share, total) <= share * total + 1e-5


@pytest.mark.parametrize(
    ("share", "total", "allowed"),
    [(0.29, 100, 29), (0.5, 3, 1), (0.28999999, 100, 28), (0.289999997, 100, 29), (1.0, 7, 7)],
)
def test_share_just_below_a_whole_number(share: float, total: int, allowed: int) -> None:
    assert allowed_failures(share, total) == allowed


@given(st.integers(0))
def test_count_allows_itself(value: int) -> None:
    assert allowed_failures(value, 5) == value


@pytest.mark.parametrize(
    "metadata", [{"counter": {"failure": "many"}}, {"counter": []}, {"counter": {"failure": None}}, "none"]
)
def test_unreadable_counters_are_an_error_and_not_zero(metadata: Any) -> None:
    operation: Operation = {"name": NAME, "done": True, "response": {}, "metadata": metadata}
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        outcome_of(operation)
    assert str(error.value) == f"The API's answer about {NAME} holds no readable counters."
    assert error.value.operation == operation


@pytest.mark.parametrize(
    ("earliest", "created", "snapshot"),
    [
        (None, "2025-11-23T01:00:00.5Z", "2025-11-23T01:00:00.5Z"),
        ("2025-11-23T00:30:00+00:00", "2025-11-23T01:00:00.5Z", "2025-11-23T00:30:00+00:00"),
        ("2025-11-23T02:30:00+00:00", "2025-11-23T01:00:00.5Z", "2025-11-23T01:00:00.5Z"),
        ("2025-11-23T00:30:00+00:00", None, "2025-11-23T00:30:00+00:00"),
        (None, None, None),
    ],
)
def test_snapshot_time_is_that_of_the_earliest_submission_that_may_have_written_the_output(
    earliest: str | None, created: str | None, snapshot: str | None
) -> None:
    metadata: Any = {} if created is None else {"createTime": created}
    result = outcome({"name": NAME, "done": True, "metadata": metadata}, earliest_submission=earliest)
    assert result["snapshot_time"] == snapshot
