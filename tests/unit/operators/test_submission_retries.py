"""Later tries of a task: re-attached, submitted again or refused, with API and task state faked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_dicom import exceptions
from tests.support.submitting_task import DATASET, DUPLICATE_RISK, STATE_KEY, SubmittingTask


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
