"""Decisions about submissions of earlier tries: by the record, the Operation and the dataset's list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.resource_names import DicomStoreName
from airflow_provider_dicom.operators._submission import (
    Submission,
    SubmissionRecord,
    Verdict,
    assess_operation,
    assess_record,
    is_operation_since,
    is_same_request,
)
from tests.support.submitting_task import DATASET, STATE_KEY, STORE, SubmittingTask


def record(**changes: Any) -> SubmissionRecord:
    base: Any = {
        "dicom_store": str(STORE),
        "request": {"gcsDestination": {"uriPrefix": "gs://exports"}},
        "filter_digest": None,
        "submitted_at": "2026-03-29T02:00:00+00:00",
        "operation_name": f"{DATASET}/operations/1",
    }
    return cast("SubmissionRecord", base | changes)


OTHER_REQUESTS: list[dict[str, Any]] = [
    {"dicom_store": str(DicomStoreName(DATASET, "other"))},
    {"request": {"gcsDestination": {"uriPrefix": "gs://other"}}},
    {"filter_digest": "other"},
]


@pytest.mark.parametrize("changes", OTHER_REQUESTS, ids=lambda changes: next(iter(changes)))
def test_requests_differ_by_store_body_and_filter(changes: dict[str, Any]) -> None:
    assert is_same_request(record(), record(**changes)) is False
    assert is_same_request(record(**changes), record()) is False


def test_requests_do_not_differ_by_time_and_operation() -> None:
    assert is_same_request(record(), record(submitted_at="2027-01-01T00:00:00+00:00", operation_name=None))


def test_record_of_an_older_version_without_a_filter_digest_is_of_an_unfiltered_request() -> None:
    older = record()
    del older["filter_digest"]  # type: ignore[misc]
    assert is_same_request(older, record()) is True
    assert is_same_request(older, record(filter_digest="digest")) is False


def test_first_try_submits() -> None:
    assessment = assess_record(None, record(), is_retry_without_task_state=False)
    assert assessment == (Verdict.SUBMIT, "")


def test_retry_without_task_state_is_uncertain() -> None:
    assessment = assess_record(None, record(), is_retry_without_task_state=True)
    assert assessment.verdict is Verdict.UNCERTAIN
    assert "does not record what the earlier try submitted" in assessment.reason


@pytest.mark.parametrize("operation_name", [None, f"{DATASET}/operations/1"])
def test_changed_request_replaces_the_recorded_one(operation_name: str | None) -> None:
    recorded = record(filter_digest="other", operation_name=operation_name)
    assessment = assess_record(recorded, record(), is_retry_without_task_state=False)
    assert assessment == (Verdict.REPLACE, "")


def test_recorded_operation_is_looked_up() -> None:
    assert assess_record(record(), record(), is_retry_without_task_state=False) == (Verdict.LOOK_UP, "")


def test_recorded_intent_is_uncertain() -> None:
    assessment = assess_record(record(operation_name=None), record(), is_retry_without_task_state=False)
    assert assessment.verdict is Verdict.UNCERTAIN
    assert "began its submission at 2026-03-29T02:00:00+00:00" in assessment.reason
    assert "ended before it could record the operation" in assessment.reason


def test_operation_without_an_error_is_reattached() -> None:
    assert assess_operation({"name": "x"}, None) == (Verdict.REATTACH, "")


def test_operation_that_is_gone_is_uncertain() -> None:
    assessment = assess_operation(None, exceptions.DicomExportNotFoundError("404"))
    assert assessment == (
        Verdict.UNCERTAIN,
        "The operation of an earlier try does not exist any more: 404",
    )


def test_operation_that_failed_is_uncertain() -> None:
    assessment = assess_operation({"name": "x"}, exceptions.DicomExportOperationFailedError("code 13"))
    assert assessment == (Verdict.UNCERTAIN, "The operation of an earlier try failed: code 13")


SINCE = datetime(2026, 3, 29, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("metadata", "matches"),
    [
        ({"createTime": "2026-03-29T02:00:00Z", "apiMethodName": "x.ExportDicomData"}, True),
        ({"createTime": "2026-03-29T02:00:00Z"}, True),
        ({"createTime": "2026-03-29T01:59:59Z", "apiMethodName": "x.ExportDicomData"}, False),
        ({"createTime": "2026-03-29T03:00:00Z", "apiMethodName": "x.ImportDicomData"}, False),
        ({"apiMethodName": "x.ExportDicomData"}, False),
    ],
)
def test_operations_since_a_time_by_method(metadata: Any, matches: bool) -> None:
    assert is_operation_since({"name": "x", "metadata": metadata}, SINCE, "ExportDicomData") is matches


def test_operation_without_metadata_is_not_known_to_be_recent() -> None:
    assert is_operation_since({"name": "x"}, SINCE, "ExportDicomData") is False


def test_submission_is_repeatable_unless_it_has_a_duplicate_risk() -> None:
    assert SubmittingTask().submission.repeatable is True
    assert SubmittingTask(append=True).submission.repeatable is False


def test_submission_needs_no_preparation_by_default() -> None:
    task = SubmittingTask()
    plain = Submission(
        request=task.submission.request,
        send=task.api.submit,
        state_key=STATE_KEY,
        api_method="ExportDicomData",
        duplicate_risk=None,
    )
    plain.prepare()
    assert plain.filter_digest is None
