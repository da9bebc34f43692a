"""How an export ended: its error first, then its counters against ``max_failures``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.longrunning.outcome import allowed_failures, counters, describe_speed, outcome
from airflow_provider_dicom.validation import max_failures_error
from rig.contract import RESULT_KEYS

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

NAME = "projects/p/locations/l/datasets/d/operations/77"
STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
LOGS = "https://console.cloud.google.com/logs/the-apis-own"


def ended(error: dict[str, Any] | None = None, **counter: int) -> Operation:
    operation: dict[str, Any] = {
        "name": NAME,
        "done": True,
        "metadata": {
            "createTime": "2025-11-23T01:00:00.5Z",
            "endTime": "2025-11-23T02:00:00Z",
            "logsUrl": LOGS,
            "counter": {name: str(count) for name, count in counter.items()},
        },
    }
    operation |= {"error": error} if error is not None else {"response": {"@type": "whatever"}}
    return operation  # type: ignore[return-value]


def judge(operation: Operation, max_failures: float = 0, **more: Any) -> dict[str, Any]:
    result = outcome(
        operation, max_failures=max_failures, dicom_store=STORE, destination="gs://exports/nightly", **more
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
        ({"success": 2**40, "failure": 1}, 1, "PARTIAL"),
    ],
)
def test_good_enough(counter: dict[str, int], max_failures: float, state: str) -> None:
    result = judge(ended(**counter), max_failures)
    assert result == {
        "operation_name": NAME,
        "dicom_store": STORE,
        "destination": "gs://exports/nightly",
        "state": state,
        "success": counter.get("success", 0),
        "failure": counter.get("failure", 0),
        "pending": 0,
        "create_time": "2025-11-23T01:00:00.5Z",
        "end_time": "2025-11-23T02:00:00Z",
        "logs_url": LOGS,
    }
    assert all(type(result[key]) is int for key in ("success", "failure", "pending"))


@pytest.mark.parametrize(
    ("counter", "max_failures"),
    [
        ({"success": 9, "failure": 1}, 0),
        ({"success": 9, "failure": 1}, 0.0),
        ({"success": 8, "failure": 2}, 1),
        ({"success": 89, "failure": 11}, 0.1),
        ({"failure": 1}, 0.99),
        ({"success": 1, "failure": 1}, 0.4),
    ],
)
def test_too_many_failures(counter: dict[str, int], max_failures: float) -> None:
    operation = ended(**counter)
    with pytest.raises(exceptions.DicomExportTooManyFailuresError) as error:
        judge(operation, max_failures)
    total = sum(counter.values())
    assert f"{counter['failure']} failed of {total} instances; max_failures={max_failures}" in str(
        error.value
    )
    assert error.value.operation == operation
    assert error.value.counters == counters(operation)
    assert NAME in str(error.value)
    assert LOGS in str(error.value)


@pytest.mark.parametrize("max_failures", [0, 100, 1.0])
@pytest.mark.parametrize("code", [2, 3, 5, 7, 8, 13, 14])
def test_an_error_comes_first(code: int, max_failures: float) -> None:
    operation = ended({"code": code, "message": "it broke."}, success=10)
    with pytest.raises(exceptions.DicomExportOperationFailedError) as error:
        judge(operation, max_failures)
    for part in (
        f"code {code}: it broke",
        "10 exported, 0 failed, 0 pending",
        STORE,
        "gs://exports/nightly",
        NAME,
        LOGS,
    ):
        assert part in str(error.value)
    assert error.value.operation == operation
    assert error.value.operation_name == NAME


@pytest.mark.parametrize(
    ("begun", "ended", "text"),
    [
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:20.5Z", " in 20 s (4.9 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:02.500000001Z", " in 2.5 s (40.0 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T19:00:00Z", " in 3600 s (1.7 instances/min)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:00Z", ""),
        ("2026-11-24T18:00:00Z", None, ""),
        ("yesterday", "today", ""),
    ],
)
def test_speed(begun: str, ended: str | None, text: str) -> None:
    metadata: Any = {"createTime": begun, "endTime": ended, "counter": {"success": "97", "failure": "3"}}
    assert describe_speed({"name": NAME, "metadata": metadata}) == text


def test_an_error_without_words() -> None:
    with pytest.raises(exceptions.DicomExportOperationFailedError, match="no message"):
        judge(ended({}))


@pytest.mark.parametrize("counter", [{}, {"success": 3, "pending": 7}])
def test_cancelled(counter: dict[str, int]) -> None:
    with pytest.raises(exceptions.DicomExportCancelledError, match="was cancelled") as error:
        judge(ended({"code": 1, "message": "CANCELLED"}, **counter), 1.0)
    assert error.value.counters == counters(ended(**counter))


@pytest.mark.parametrize(
    ("filter_uri", "roles"),
    [(None, ["objectAdmin"]), ("gs://filters/f.txt", ["objectAdmin", "objectViewer"])],
)
def test_the_agents_missing_role(filter_uri: str | None, roles: list[str]) -> None:
    message = (
        "Healthcare API doesn't have required Cloud Storage permission. See https://x for more information"
    )
    with pytest.raises(exceptions.DicomExportPermissionError) as error:
        judge(ended({"code": 7, "message": message}), filter_uri=filter_uri)
    assert all(f"roles/storage.{role}" in str(error.value) for role in roles)
    assert error.value.operation_name == NAME


@pytest.mark.parametrize(
    "operation", [{"name": NAME, "done": True}, {"name": NAME, "done": True, "metadata": {}}]
)
def test_what_the_api_leaves_out(operation: Operation) -> None:
    result = judge(operation)
    assert result["state"] == "SUCCEEDED"
    assert (result["success"], result["failure"], result["pending"]) == (0, 0, 0)
    assert (result["create_time"], result["end_time"]) == (None, None)
    assert "77" in result["logs_url"]
    assert result["logs_url"].startswith("https://console.cloud.google.com/logs/query;query=")


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_share_that_names_a_whole_number_allows_it(part: int, total: int) -> None:
    part = min(part, total)
    assert allowed_failures(part / total, total) == part


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_a_share_never_allows_more_than_it_says(share: float, total: int) -> None:
    assert 0 <= allowed_failures(share, total) <= min(total, math.ceil(share * total))
    assert allowed_failures(share, total) <= share * total + 1e-5


@given(st.integers(0))
def test_counts_are_accepted(value: int) -> None:
    assert max_failures_error(value) is None
    assert allowed_failures(value, 5) == value


@given(st.floats(0, 1))
def test_shares_are_accepted(value: float) -> None:
    assert max_failures_error(value) is None


@given(
    st.integers(max_value=-1)
    | st.floats(max_value=0, exclude_max=True)
    | st.floats(min_value=1, exclude_min=True)
    | st.sampled_from([float("nan"), True, False, None, "0", "5%", [], 1 + 0j])
)
def test_everything_else_is_refused(value: Any) -> None:
    error = max_failures_error(value)
    assert error is not None
    assert f"max_failures={value!r}" in error
    assert "accepted: a count from 0 (int), or a share from 0.0 to 1.0" in error


@pytest.mark.parametrize(
    "metadata", [{"counter": {"failure": "many"}}, {"counter": []}, {"counter": {"failure": None}}, "none"]
)
def test_unreadable_counters_are_not_taken_for_zero(metadata: Any) -> None:
    operation: Any = {"name": NAME, "done": True, "response": {}, "metadata": metadata}
    with pytest.raises(exceptions.DicomExportUnavailableError) as error:
        judge(operation)
    assert NAME in str(error.value)
