"""Submission at most once, across the tries of a task, with the API and Airflow's task state faked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.operators._submission import RETENTION
from tests.support.submitting_task import (
    DATASET,
    DUPLICATE_RISK,
    STATE_KEY,
    STORE,
    HealthcareApi,
    SubmittingTask,
)
from tests.support.task_runs import TaskStateStore

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.operators._submission import SubmissionRecord

NO_REPLY = exceptions.DicomExportSubmissionUnknownError("The reply was lost.")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two submissions, in seconds, none of which takes any time."""
    waited: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=waited.append))
    return waited


def test_submission_is_recorded_with_the_operation_for_a_month() -> None:
    task = SubmittingTask()
    retentions: list[timedelta | None] = []
    keep = task.state.set

    def set_(key: str, value: object, *, retention: timedelta | None = None) -> None:
        retentions.append(retention)
        keep(key, value)

    task.state.set = set_  # type: ignore[method-assign]
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
    }
    assert retentions == [RETENTION, RETENTION] == [timedelta(days=30)] * 2
    assert task.api.calls == ["prepare", "submit"]
    (line,) = task.log.infos
    assert f"export {STORE} to gs://exports/nightly" in line
    assert f"Operation: {DATASET}/operations/1" in line


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


@pytest.mark.parametrize("append", [False, True])
def test_retry_reattaches_to_the_running_operation(append: bool) -> None:
    task = SubmittingTask(append=append)
    first = task.attempt().operation
    second = task.attempt()
    assert (second.operation, second.reattached) == (first, True)
    assert task.api.calls == ["prepare", "submit", "get"]
    assert "Re-attached to" in task.log.infos[-1]
    assert f"{first['name']} of an earlier try: 4 exported, 0 failed, 1 pending" in task.log.infos[-1]


@pytest.mark.parametrize("append", [False, True])
def test_retry_reattaches_to_a_finished_operation_with_an_accepted_outcome(append: bool) -> None:
    task = SubmittingTask(append=append)
    task.attempt().operation["done"] = True
    second = task.attempt()
    assert second.reattached is True
    assert second.operation.get("done") is True
    assert task.submissions == 1


def test_failed_export_is_resubmitted_with_a_warning() -> None:
    task = SubmittingTask()
    task.api.fail(task.attempt().operation)
    second = task.attempt()
    assert second.reattached is False
    assert task.submissions == 2
    assert task.record is not None
    assert task.record["operation_name"] == second.operation["name"] == f"{DATASET}/operations/2"
    (line,) = task.log.warnings
    assert "earlier try failed" in line
    assert "broke" in line
    assert "Submitting again: the data cannot be duplicated" in line


def test_failed_append_export_is_not_resubmitted() -> None:
    task = SubmittingTask(append=True)
    failed = task.attempt().operation
    task.api.fail(failed)
    with pytest.raises(exceptions.DicomExportDuplicateRiskError) as error:
        task.attempt()
    text = str(error.value)
    assert "The operation of an earlier try failed: " in text
    assert "broke" in text
    assert f"Nothing was submitted again, because {DUPLICATE_RISK}. Check" in text
    assert DATASET.list_operations_command in text
    assert "durable=False, or in a new run" in text
    assert "since then" not in text
    assert isinstance(error.value, AirflowFailException)
    assert task.api.calls == ["prepare", "submit", "get"]
    assert task.record is not None
    assert task.record["operation_name"] == failed["name"]


def test_export_whose_operation_is_gone_is_resubmitted() -> None:
    task = SubmittingTask()
    del task.api.operations[task.attempt().operation["name"]]
    assert task.attempt().reattached is False
    assert task.submissions == 2
    assert "does not exist any more" in task.log.warnings[0]


def test_append_export_whose_operation_is_gone_is_not_resubmitted() -> None:
    task = SubmittingTask(append=True)
    del task.api.operations[task.attempt().operation["name"]]
    with pytest.raises(exceptions.DicomExportDuplicateRiskError, match=r"any more: .*: 404\. Nothing was"):
        task.attempt()
    assert task.submissions == 1


@pytest.mark.parametrize("append", [False, True])
def test_recorded_operation_that_cannot_be_read_is_an_error_and_no_reason_to_submit(append: bool) -> None:
    task = SubmittingTask(append=append)
    task.attempt()
    task.api.errors["get"] = exceptions.DicomExportPermissionError("403")
    with pytest.raises(exceptions.DicomExportPermissionError, match="403"):
        task.attempt()
    assert task.submissions == 1


def test_export_with_an_intent_only_is_resubmitted_with_a_warning() -> None:
    task = SubmittingTask()
    task.attempt()
    task.forget_operation_name()
    assert task.attempt().reattached is False
    assert task.submissions == 2
    assert "ended before it could record the operation" in task.log.warnings[0]
    assert "get" not in task.api.calls


def test_append_export_with_an_intent_only_is_refused_with_the_exports_since_then() -> None:
    task = SubmittingTask(append=True)
    metadata = {"createTime": "2026-03-29T01:54:59Z"}
    before = task.api.add(metadata=metadata)["name"]
    task.attempt()
    minutes_early = task.api.add(metadata={"createTime": "2026-03-29T01:55:00Z"})["name"]
    imported = task.api.add(
        metadata={"createTime": "2026-03-29T02:30:00Z", "apiMethodName": "x.ImportDicomData"}
    )["name"]
    task.state.set(STATE_KEY, {**task.state.get(STATE_KEY), "submitted_at": "2026-03-29T02:00:00+00:00"})
    task.forget_operation_name()
    with pytest.raises(exceptions.DicomExportDuplicateRiskError) as error:
        task.attempt()
    text = str(error.value)
    assert "began its submission at 2026-03-29T02:00:00+00:00" in text
    listed = text.partition("since then: ")[2].partition(")")[0].split(", ")
    assert listed == [f"{DATASET}/operations/2", minutes_early]
    assert before not in listed
    assert imported not in listed
    assert task.submissions == 1


@pytest.mark.parametrize(
    ("error", "listed"),
    [
        (None, r"the operation \(operations of this kind in the dataset since then: none\)\. Nothing was"),
        (exceptions.DicomExportPermissionError("403"), r"the operation\. Nothing was"),
    ],
)
def test_append_export_with_an_intent_only_is_refused_without_a_list_of_exports(
    error: exceptions.DicomExportError | None, listed: str
) -> None:
    task = SubmittingTask(append=True)
    task.attempt()
    task.forget_operation_name()
    task.api.operations.clear()
    if error is not None:
        task.api.errors["list"] = error
    with pytest.raises(exceptions.DicomExportDuplicateRiskError, match=listed):
        task.attempt()
    assert task.submissions == 1


@pytest.mark.parametrize("append", [False, True])
def test_changed_request_cancels_the_running_operation_and_submits(append: bool) -> None:
    task = SubmittingTask(append=append)
    first = task.attempt().operation["name"]
    task.submission = replace(task.submission, filter_digest="digest-2")
    second = task.attempt()
    assert second.reattached is False
    assert task.api.calls == ["prepare", "submit", "get", f"cancel {first}", "prepare", "submit"]
    assert task.record is not None
    assert task.record["filter_digest"] == "digest-2"
    (line,) = task.log.warnings
    assert "request has changed" in line
    assert first in line
    assert f"Requested the cancellation of {first}" in task.log.infos[1]


def test_changed_request_does_not_cancel_a_finished_operation() -> None:
    task = SubmittingTask()
    task.attempt().operation["done"] = True
    task.submission = replace(task.submission, filter_digest="digest-2")
    task.attempt()
    assert task.api.calls == ["prepare", "submit", "get", "prepare", "submit"]


def test_changed_request_after_an_intent_only_has_nothing_to_cancel() -> None:
    task = SubmittingTask()
    task.attempt()
    task.forget_operation_name()
    task.submission = replace(task.submission, filter_digest="digest-2")
    assert task.attempt().reattached is False
    assert task.api.calls == ["prepare", "submit", "prepare", "submit"]


@pytest.mark.parametrize("method", ["get", "cancel"])
def test_changed_request_is_submitted_even_if_the_earlier_one_cannot_be_cancelled(method: str) -> None:
    task = SubmittingTask()
    first = task.attempt().operation["name"]
    task.submission = replace(task.submission, filter_digest="digest-2")
    task.api.errors[method] = exceptions.DicomExportPermissionError("403: no role")
    assert task.attempt().reattached is False
    assert task.submissions == 2
    assert f"{first} could not be cancelled and may go on: 403: no role" in task.log.warnings[-1]


def test_superseded_attempt_submits_nothing() -> None:
    task = SubmittingTask()

    class Superseded(TaskStateStore):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            super().set(key, {**value, "submitted_at": "2026-03-29T02:00:00+00:00"})

    task.context["task_state_store"] = Superseded()
    with pytest.raises(exceptions.DicomExportError, match=r"taken over; nothing was submitted"):
        task.attempt()
    assert task.submissions == 0


def test_operation_name_that_airflow_does_not_store_is_logged_and_returned() -> None:
    task = SubmittingTask()
    keep = task.state.set

    def refuse_names(key: str, value: Any, *, retention: object = None) -> None:
        if value["operation_name"] is not None:
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
@pytest.mark.parametrize(
    "refusal",
    [exceptions.DicomExportQuotaExhaustedError("429"), exceptions.DicomExportPermissionError("403")],
    ids=str,
)
def test_refused_submission_leaves_no_intent(refusal: exceptions.DicomExportError, append: bool) -> None:
    task = SubmittingTask(append=append)
    task.api.submission_errors = [refusal]
    with pytest.raises(type(refusal)) as error:
        task.attempt()
    assert error.value is refusal
    assert task.record is None
    assert task.attempt().reattached is False
    assert task.submissions == 2


def test_unexpected_error_of_a_submission_leaves_the_intent() -> None:
    task = SubmittingTask(append=True)
    task.api.submission_errors = [RuntimeError("interrupted")]
    with pytest.raises(RuntimeError):
        task.attempt()
    assert task.record is not None


def test_retry_without_task_state_resubmits_without_a_warning() -> None:
    task = SubmittingTask(has_task_state=False)
    task.attempt()
    assert task.attempt().reattached is False
    assert task.submissions == 2
    assert task.log.warnings == []


def test_retry_of_an_append_export_without_task_state_is_refused() -> None:
    task = SubmittingTask(append=True, has_task_state=False)
    task.attempt()
    with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="This is a retry, and this version"):
        task.attempt()
    assert task.submissions == 1


def test_refused_submission_without_task_state_raises_its_own_error() -> None:
    task = SubmittingTask(has_task_state=False)
    task.api.submission_errors = [exceptions.DicomExportPermissionError("403")]
    with pytest.raises(exceptions.DicomExportPermissionError, match="403"):
        task.attempt()


@pytest.mark.parametrize("has_task_state", [True, False])
@pytest.mark.parametrize("append", [False, True])
def test_task_that_is_not_durable_submits_with_every_try(append: bool, has_task_state: bool) -> None:
    task = SubmittingTask(append=append, has_task_state=has_task_state)
    for _ in range(2):
        assert task.attempt(durable=False).reattached is False
    assert task.submissions == 2
    assert task.record is None


def test_preparation_that_fails_leaves_nothing_behind() -> None:
    task = SubmittingTask()

    def fail() -> None:
        raise exceptions.DicomExportPermissionError("The filter file cannot be written.")

    task.submission = replace(task.submission, prepare=fail)
    with pytest.raises(exceptions.DicomExportPermissionError, match="filter file"):
        task.attempt()
    assert (task.submissions, task.record) == (0, None)
