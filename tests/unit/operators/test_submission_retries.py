"""Later tries of a task: re-attached, submitted again or refused, with API and task state faked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.operators._submission_types import (
    Predecessor,
    SubmittedOperation,
)
from tests.support.submitting_task import (
    DATASET,
    DUPLICATE_RISK,
    STATE_KEY,
    STORE,
    SubmittingTask,
)


@pytest.mark.parametrize("append", [False, True])
def test_retry_reattaches_to_the_running_operation(append: bool) -> None:
    task = SubmittingTask(append=append)
    first = task.attempt().operation
    second = task.attempt()
    assert (second.operation, second.reattached) == (first, True)
    assert task.api.calls == ["prepare", "submit", "get"]
    assert task.followed == [first["name"]]
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
    task.attempt().operation["done"] = True
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
    task.change_record(submitted_at="2026-03-29T02:00:00+00:00")
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


def test_changed_request_cancels_the_running_operation_and_submits() -> None:
    task = SubmittingTask()
    first = task.attempt().operation["name"]
    task.submission = replace(task.submission, filter_digest="digest-2")
    second = task.attempt()
    assert second.reattached is False
    assert task.api.calls == ["prepare", "submit", "get", f"cancel {first}", "prepare", "submit"]
    assert task.record is not None
    assert task.record["filter_digest"] == "digest-2"
    assert task.followed == [first]
    (line,) = task.log.warnings
    assert "request has changed" in line
    assert first in line
    assert f"{first} is cancelled, as the API confirms" in task.log.infos[1]


def test_changed_request_waits_for_an_operation_that_goes_on_in_spite_of_its_cancellation() -> None:
    task = SubmittingTask()
    first = task.attempt().operation
    task.submission = replace(task.submission, filter_digest="digest-2")
    task.api.ends_when_cancelled = False
    for _ in range(2):
        assert task.attempt() == Predecessor(first["name"], is_own=True)
    assert task.submissions == 1
    first["done"] = True
    assert task.attempt().reattached is False
    assert task.submissions == 2


@pytest.mark.parametrize("method", ["get", "cancel"])
def test_changed_request_waits_for_an_operation_that_cannot_be_read_or_cancelled(method: str) -> None:
    task = SubmittingTask()
    first = task.attempt().operation["name"]
    task.submission = replace(task.submission, filter_digest="digest-2")
    task.api.errors[method] = exceptions.DicomExportUnavailableError("503: away")
    assert task.attempt() == Predecessor(first, is_own=True)
    assert task.submissions == 1
    assert "503: away" in task.log.warnings[-1]


def test_changed_request_fails_if_the_state_of_the_earlier_operation_is_refused() -> None:
    task = SubmittingTask()
    task.attempt()
    task.submission = replace(task.submission, filter_digest="digest-2")
    task.api.errors["get"] = exceptions.DicomExportPermissionError("403")
    with pytest.raises(exceptions.DicomExportPermissionError):
        task.attempt()
    assert task.submissions == 1


@pytest.mark.parametrize("end", ["done", "gone"])
def test_changed_request_does_not_cancel_an_operation_that_is_over(end: str) -> None:
    task = SubmittingTask()
    operation = task.attempt().operation
    operation["done"] = True
    if end == "gone":
        task.api.operations.clear()
    task.submission = replace(task.submission, filter_digest="digest-2")
    task.attempt()
    assert task.api.calls == ["prepare", "submit", "get", "prepare", "submit"]


def test_changed_request_after_an_intent_only_has_nothing_to_cancel() -> None:
    task = SubmittingTask()
    task.attempt().operation["done"] = True
    task.forget_operation_name()
    task.submission = replace(task.submission, filter_digest="digest-2")
    assert task.attempt().reattached is False
    assert task.api.calls == ["prepare", "submit", "prepare", "submit"]


@pytest.mark.parametrize("changes", ["digest", "body"])
def test_append_export_is_refused_after_another_request_for_the_same_table(changes: str) -> None:
    task = SubmittingTask(append=True)
    name = task.attempt().operation["name"]
    if changes == "digest":
        task.submission = replace(task.submission, filter_digest="digest-2")
    else:
        body: dict[str, Any] = dict(task.submission.request.body or {})
        body["bigqueryDestination"] = {**body["bigqueryDestination"], "includeSourceStore": False}
        task.submission = replace(task.submission, request=replace(task.submission.request, body=body))
    with pytest.raises(
        exceptions.DicomExportDuplicateRiskError, match="another request for the same"
    ) as error:
        task.attempt()
    assert name in str(error.value)
    assert task.api.calls == ["prepare", "submit"]


def test_append_export_whose_filter_file_cannot_be_read_reattaches() -> None:
    task = SubmittingTask(append=True)
    body: dict[str, Any] = {
        **(task.submission.request.body or {}),
        "filterConfig": {"resourcePathsGcsUri": "gs://b/f"},
    }
    task.submission = replace(task.submission, request=replace(task.submission.request, body=body))
    name = task.attempt().operation["name"]
    task.submission = replace(task.submission, filter_digest=None)
    assert task.attempt() == SubmittedOperation(task.api.operations[name], reattached=True)
    assert task.submissions == 1


@pytest.mark.parametrize("kind", ["gcs", "append"])
@pytest.mark.parametrize("what", ["store", "destination"])
def test_export_of_another_store_or_destination_is_left_alone(what: str, kind: str) -> None:
    task = SubmittingTask(kind=kind)
    first = task.submission
    task.attempt()
    others = {"store": replace(STORE, dicom_store_id="other")}
    if what == "destination":
        others = {"destination": "gs://elsewhere"}  # type: ignore[dict-item]
    task.submission = replace(first, request=replace(first.request, **others))  # type: ignore[arg-type]
    assert task.attempt().reattached is False
    assert task.api.calls == ["prepare", "submit"] * 2
    assert len(task.records.read() or {}) == 2
    task.submission = first
    assert task.attempt().reattached is True


def test_single_record_of_the_first_version_is_reattached_to() -> None:
    task = SubmittingTask()
    name = task.attempt().operation["name"]
    first = dict(task.record or {})
    for new in ("state", "repeatable", "unknown_since", "unknown_until"):
        del first[new]
    task.state.set(STATE_KEY, first)
    assert task.attempt() == SubmittedOperation(task.api.operations[name], reattached=True)


@pytest.mark.parametrize("kind", ["empty", "append"])
def test_later_try_without_a_record_is_refused_if_it_appends(kind: str) -> None:
    task = SubmittingTask(kind=kind)
    task.attempt()
    task.state.values.clear()
    if kind == "empty":
        assert task.attempt().reattached is False
        return
    for _ in range(2):
        with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="Airflow has no record of what"):
            task.attempt()
    assert task.submissions == 1


def test_later_try_submits_if_the_first_one_ended_before_any_submission() -> None:
    task = SubmittingTask(append=True)
    task.records.open()
    task.context["ti"].try_number = 2
    assert task.attempt().reattached is False


def test_snapshot_of_a_later_try_without_a_record_is_the_start_of_the_run() -> None:
    task = SubmittingTask()
    start = datetime(2026, 3, 29, 2, tzinfo=UTC)
    task.context |= {"dag_run": SimpleNamespace(start_date=start)}
    task.attempt()
    assert task.unknown["unknown_since"] is None
    task.state.values.clear()
    task.attempt()
    assert task.unknown == {"unknown_since": start.isoformat(), "unknown_until": None}


def test_snapshot_of_a_later_try_without_a_record_and_a_start_of_the_run_is_not_known() -> None:
    task = SubmittingTask()
    task.context["ti"].try_number = 2
    task.attempt()
    assert task.unknown == {"unknown_since": None, "unknown_until": None}


@pytest.mark.parametrize("status", [429, 503])
def test_transient_error_of_the_look_up_leaves_the_wait_to_whoever_polls(status: int) -> None:
    task = SubmittingTask()
    name = task.attempt().operation["name"]
    kinds = {429: exceptions.DicomExportQuotaExhaustedError, 503: exceptions.DicomExportUnavailableError}
    task.api.errors["get"] = kinds[status](f"{status}.")
    assert task.attempt() == SubmittedOperation({"name": name}, reattached=True)
    assert task.log.warnings == [f"{status}. The export itself goes on; polling continues."]
    assert task.submissions == 1


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


@pytest.mark.parametrize("has_task_state", [True, False])
@pytest.mark.parametrize("append", [False, True])
def test_task_that_is_not_durable_submits_with_every_try(append: bool, has_task_state: bool) -> None:
    task = SubmittingTask(append=append, has_task_state=has_task_state)
    for _ in range(2):
        assert task.attempt(durable=False).reattached is False
    assert task.submissions == 2
    assert task.record is None
