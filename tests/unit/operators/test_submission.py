"""The submission of one try: its record, lost replies and refusals, with API and task state faked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tenacity

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.operators._submission_record import NEVER_EXPIRE, RETENTION, wrote_nothing
from airflow_provider_dicom.operators._submission_types import QuotaRefusal, SubmittedOperation
from tests.support.submitting_task import (
    DATASET,
    DUPLICATE_RISK,
    STORE,
    HealthcareApi,
    SubmittingTask,
)
from tests.support.task_runs import TaskStateStore, records_in

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.operators._submission_record import SubmissionRecord

NO_REPLY = exceptions.DicomExportSubmissionUnknownError("The reply was lost.")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two submissions, in seconds, none of which takes any time."""
    waited: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.mark.parametrize(
    ("append", "retention"), [(False, RETENTION), (True, NEVER_EXPIRE)], ids=["overwrites", "appends"]
)
def test_submission_is_recorded_for_a_month_and_appended_rows_for_ever(
    append: bool, retention: timedelta
) -> None:
    task = SubmittingTask(append=append)
    retentions: list[object] = []
    keep = task.state.set

    def set_(key: str, value: object, *, retention: object = None) -> None:
        retentions.append(retention)
        keep(key, value)

    task.state.set = set_  # type: ignore[method-assign]
    task.attempt()
    # Airflow compares by identity.
    assert [each is retention for each in retentions] == [True, True]
    task.state.values.clear()
    task.records.open()
    assert retentions[-1] is NEVER_EXPIRE, "a retry needs to know that nothing was submitted"


@pytest.mark.airflow("3.3", "task state")
def test_airflow_never_expires_what_is_kept_for_ever() -> None:
    from airflow.sdk.execution_time import context

    assert context.NEVER_EXPIRE is NEVER_EXPIRE


def test_submission_is_recorded_with_the_operation() -> None:
    task = SubmittingTask()
    before = datetime.now(UTC)
    submitted = task.attempt()
    assert submitted.reattached is False
    assert submitted.operation["name"] == f"{DATASET}/operations/1"
    assert task.record is not None
    assert before <= datetime.fromisoformat(task.record["submitted_at"]) <= datetime.now(UTC)
    assert task.record == {
        "dicom_store": str(STORE),
        "request": {"gcsDestination": {"uriPrefix": "gs://exports/nightly"}},
        "filter_digest": "digest-1",
        "submitted_at": task.record["submitted_at"],
        "operation_name": f"{DATASET}/operations/1",
        "state": "submitted",
        "repeatable": True,
        "unknown_since": None,
        "unknown_until": None,
    }
    assert task.api.calls == ["prepare", "submit"]
    (line,) = task.log.infos
    assert f"export {STORE} to gs://exports/nightly" in line
    assert f"Operation: {DATASET}/operations/1" in line


def test_request_without_a_body_is_recorded_as_empty() -> None:
    task = SubmittingTask()
    task.submission = replace(task.submission, request=replace(task.submission.request, body=None))
    task.attempt()
    assert task.record is not None
    assert task.record["request"] == {}


def test_intent_is_recorded_before_the_request_is_sent() -> None:
    task = SubmittingTask()
    recorded: list[SubmissionRecord | None] = []

    def send() -> Operation:
        recorded.append(task.record)
        return task.api.submit()

    task.submission = replace(task.submission, send=send)
    task.attempt()
    (intent,) = recorded
    assert intent is not None
    assert intent["operation_name"] is None


def test_superseded_attempt_submits_nothing() -> None:
    task = SubmittingTask()

    class Superseded(TaskStateStore):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            super().set(key, {**value, "submitted_at": "2026-03-29"})

    task.context["task_state_store"] = Superseded()
    with pytest.raises(exceptions.DicomExportError, match=r"taken over") as error:
        task.attempt()
    assert str(error.value) == "Another attempt of this task has taken over; nothing was submitted."
    assert task.submissions == 0


def test_operation_name_that_airflow_does_not_store_is_logged_and_returned() -> None:
    task = SubmittingTask()
    keep = task.state.set

    def refuse_names(key: str, value: Any, *, retention: object = None) -> None:
        if any(record["operation_name"] for record in records_in(value)):
            raise RuntimeError("the API server is away")
        keep(key, value)

    task.state.set = refuse_names  # type: ignore[method-assign]
    submitted = task.attempt()
    name = submitted.operation["name"]
    (line,) = task.log.warnings
    assert f"a retry cannot re-attach to {name}" in line
    assert "the API server is away" in line


def test_lost_reply_of_a_repeatable_submission_leads_to_another_submission(pauses: list[float]) -> None:
    task = SubmittingTask()
    lost = exceptions.DicomExportSubmissionUnknownError("The reply was lost", retry_after=100.0)
    task.api.submission_errors = [lost, lost]
    assert task.attempt().operation["name"] == f"{DATASET}/operations/1"
    assert task.submissions == 3
    assert pauses == [100.0, 100.0]
    assert task.log.warnings == ["The reply was lost. Submitting again: the data cannot be duplicated."] * 2


def test_lost_replies_of_a_repeatable_submission_are_an_error_in_the_end() -> None:
    task = SubmittingTask()
    task.api.submission_errors = [NO_REPLY] * 10
    with pytest.raises(exceptions.DicomExportSubmissionUnknownError) as error:
        task.attempt()
    assert error.value is NO_REPLY
    assert task.submissions == HealthcareApi.num_retries + 1
    assert task.record is not None
    assert task.record["operation_name"] is None


def test_lost_reply_of_an_append_export_is_refused_and_not_repeated(pauses: list[float]) -> None:
    task = SubmittingTask(append=True)
    task.api.submission_errors = [NO_REPLY]
    with pytest.raises(exceptions.DicomExportDuplicateRiskError) as error:
        task.attempt()
    assert str(error.value).startswith(
        f"The reply was lost. Nothing was submitted again, because {DUPLICATE_RISK}. "
    )
    assert task.submissions == 1
    assert pauses == []
    assert task.record is not None
    assert task.record["operation_name"] is None
    with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="earlier try began its submission"):
        task.attempt()
    assert task.submissions == 1


@pytest.mark.parametrize("append", [False, True])
def test_refused_submission_is_recorded_as_not_accepted(append: bool) -> None:
    task = SubmittingTask(append=append)
    refusal = exceptions.DicomExportPermissionError("403")
    task.api.submission_errors = [refusal]
    with pytest.raises(exceptions.DicomExportPermissionError) as error:
        task.attempt()
    assert error.value is refusal
    assert task.record is not None
    assert task.record["state"] == "not_accepted"
    assert task.attempt().reattached is False
    assert task.submissions == 2


@pytest.mark.parametrize("append", [False, True])
def test_submission_that_a_quota_refuses_is_not_accepted_and_no_error(append: bool) -> None:
    task = SubmittingTask(append=append)
    refusal = exceptions.DicomExportQuotaExhaustedError("429")
    task.api.submission_errors = [refusal]
    assert task.attempt() == QuotaRefusal(refusal)
    assert task.record is not None
    assert task.record["state"] == "not_accepted"
    assert task.attempt().reattached is False


@pytest.mark.parametrize("where", ["prepare", "get"])
def test_exhausted_quota_of_another_request_is_no_refusal(where: str) -> None:
    task = SubmittingTask()
    busy = exceptions.DicomExportQuotaExhaustedError("429")
    if where == "prepare":

        def fail() -> None:
            raise busy

        task.submission = replace(task.submission, prepare=fail)
        with pytest.raises(exceptions.DicomExportQuotaExhaustedError):
            task.attempt()
        return
    name = task.attempt().operation["name"]
    task.api.errors["get"] = busy
    assert task.attempt() == SubmittedOperation({"name": name}, reattached=True)


def test_refusal_after_a_lost_reply_does_not_prove_that_nothing_was_accepted() -> None:
    task = SubmittingTask()
    task.api.submission_errors = [NO_REPLY, exceptions.DicomExportPermissionError("403")]
    with pytest.raises(exceptions.DicomExportPermissionError):
        task.attempt()
    assert task.record is not None
    assert task.record["unknown_since"] is not None
    assert wrote_nothing(task.record) is False


def test_refusal_keeps_the_record_of_what_an_earlier_try_submitted() -> None:
    task = SubmittingTask()
    failed = task.attempt().operation
    task.api.fail(failed)
    task.api.submission_errors = [exceptions.DicomExportPermissionError("403")]
    with pytest.raises(exceptions.DicomExportPermissionError):
        task.attempt()
    assert task.record is not None
    assert (task.record["operation_name"], task.record["state"]) == (failed["name"], "submitted")


def test_unexpected_error_of_a_submission_leaves_the_intent() -> None:
    task = SubmittingTask(append=True)
    task.api.submission_errors = [RuntimeError("interrupted")]
    with pytest.raises(RuntimeError):
        task.attempt()
    assert task.record is not None


def test_refused_submission_without_task_state_raises_its_own_error() -> None:
    task = SubmittingTask(has_task_state=False)
    task.api.submission_errors = [exceptions.DicomExportPermissionError("403")]
    with pytest.raises(exceptions.DicomExportPermissionError, match="403"):
        task.attempt()


def test_preparation_that_fails_leaves_nothing_behind() -> None:
    task = SubmittingTask()

    def fail() -> None:
        raise exceptions.DicomExportPermissionError("The filter file cannot be written.")

    task.submission = replace(task.submission, prepare=fail)
    with pytest.raises(exceptions.DicomExportPermissionError, match="filter file"):
        task.attempt()
    assert (task.submissions, task.record) == (0, None)
