"""Submissions without a reply, which may run on unseen: waited for, and remembered."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.operators._submission_types import Predecessor
from tests.support.submitting_task import SubmittingTask

NO_REPLY = exceptions.DicomExportSubmissionUnknownError("The reply was lost.")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between two submissions take no time."""
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda _: None))


def lose_reply(task: SubmittingTask, *, accepted: bool = True) -> None:
    """Lose the reply to the next submission, after the API has accepted it or not."""

    def send() -> Any:
        if task.submissions == 0:
            task.api.calls.append("submit")
            if accepted:
                task.api.add()
            raise NO_REPLY
        return task.api.submit()

    task.submission = replace(task.submission, send=send)


@pytest.mark.parametrize("kind", ["gcs", "truncate", "empty"])
def test_lost_submission_that_runs_is_waited_for_before_it_is_repeated(kind: str) -> None:
    task = SubmittingTask(kind=kind)
    lose_reply(task)
    step = task.attempt()
    (twin,) = task.api.operations.values()
    assert step == Predecessor(twin["name"], is_own=False)
    assert task.submissions == 1
    assert task.attempt() == step, "a resumed or later try waits, too"
    twin["done"] = True
    assert task.attempt().reattached is False
    assert task.submissions == 2


def test_every_running_candidate_is_waited_for() -> None:
    task = SubmittingTask()
    lose_reply(task)
    other = task.api.add()
    twins = [other["name"], task.attempt().operation_name]
    assert twins[0] == twins[1]
    other["done"] = True
    waited = task.attempt()
    assert waited.operation_name != other["name"]
    assert task.submissions == 1


def test_operations_that_others_start_later_are_not_waited_for() -> None:
    task = SubmittingTask()
    lose_reply(task)
    task.attempt()
    (twin,) = task.api.operations.values()
    twin["done"] = True
    later = datetime.now(UTC) + timedelta(minutes=6)
    task.api.add(metadata={"createTime": later.isoformat()})
    assert task.attempt().reattached is False


def test_end_of_the_time_of_an_intent_does_not_move_with_the_tries() -> None:
    task = SubmittingTask()
    task.attempt()
    task.forget_operation_name()
    task.change_record(submitted_at="2026-03-29T02:00:00+00:00")
    task.attempt()
    first = task.record and task.record["unknown_until"]
    task.attempt()
    assert first is not None
    assert task.record is not None
    assert task.record["unknown_until"] == first


def test_try_that_waits_for_a_lost_submission_writes_no_record_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = SubmittingTask()
    lose_reply(task)
    step = task.attempt()
    written: list[str] = []
    monkeypatch.setattr(task.state, "set", lambda key, value, **_: written.append(key))
    assert task.attempt() == step
    assert written == []


def test_recorded_operations_of_other_exports_are_no_candidates() -> None:
    task = SubmittingTask()
    first = task.submission
    task.submission = replace(first, request=replace(first.request, destination="gs://elsewhere"))
    task.attempt()
    task.submission = first
    task.api.submission_errors = [NO_REPLY]
    assert task.attempt().reattached is False


@pytest.mark.parametrize("listed", [True, False], ids=["none-listed", "list-refused"])
def test_lost_submission_that_is_not_found_is_repeated_and_remembered(listed: bool) -> None:
    task = SubmittingTask()
    before = datetime.now(UTC)
    lose_reply(task, accepted=not listed)
    if not listed:
        task.api.errors["list"] = exceptions.DicomExportPermissionError("403")
    assert task.attempt().reattached is False
    assert task.submissions == 2
    since = task.unknown["unknown_since"]
    assert since is not None
    assert before <= datetime.fromisoformat(since) <= datetime.now(UTC)
    assert task.record is not None
    assert task.record["unknown_since"] == since
    assert any("cannot be listed" in line for line in task.log.warnings) is not listed
    assert task.attempt().reattached is True
    assert task.unknown["unknown_since"] == since, "a later try knows it, too"


def test_lost_submission_is_remembered_until_it_is_repeated_without_task_state() -> None:
    task = SubmittingTask(has_task_state=False)
    lose_reply(task)
    assert isinstance(task.attempt(), Predecessor)
    assert task.unknown["unknown_since"] is not None


ALREADY_EXISTS = exceptions.DicomExportInvalidRequestError("409: Already Exists: Table p:d.t.")


def test_table_that_a_lost_submission_may_have_filled_is_an_error_of_its_own() -> None:
    task = SubmittingTask(kind="empty")
    task.api.submission_errors = [NO_REPLY, ALREADY_EXISTS]
    with pytest.raises(exceptions.DicomExportDestinationNotEmptyError) as error:
        task.attempt()
    for part in ("Already Exists", "bq://p.d.t", "DicomStoreExportCheckOperator", "operations list"):
        assert part in str(error.value)


@pytest.mark.parametrize("kind", ["empty", "truncate"])
def test_table_that_is_full_without_a_lost_submission_is_an_ordinary_error(kind: str) -> None:
    task = SubmittingTask(kind=kind)
    task.api.submission_errors = [ALREADY_EXISTS]
    if kind == "truncate":
        task.api.submission_errors.insert(0, NO_REPLY)
    with pytest.raises(exceptions.DicomExportInvalidRequestError) as error:
        task.attempt()
    assert error.value is ALREADY_EXISTS


def test_other_error_after_a_lost_submission_stays_as_it_is() -> None:
    task = SubmittingTask(kind="empty")
    denied = exceptions.DicomExportPermissionError("403")
    task.api.submission_errors = [NO_REPLY, denied]
    with pytest.raises(exceptions.DicomExportPermissionError) as error:
        task.attempt()
    assert error.value is denied
