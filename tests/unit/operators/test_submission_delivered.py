"""What a later try does about an export whose result was delivered, or was about to be."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.operators._submission_types import DeliveredResult, SubmittedOperation
from tests.support.submitting_task import EXPORTS, SubmittingTask


@pytest.mark.parametrize("kind", ["empty", "append"])
def test_delivered_result_is_returned_again_with_a_warning_unless_the_export_overwrites(kind: str) -> None:
    task = SubmittingTask(kind=kind)
    name = task.attempt().operation["name"]
    task.deliver(name, {"operation_name": name, "success": 4})
    assert task.attempt() == DeliveredResult(name, {"operation_name": name, "success": 4})  # type: ignore[arg-type]
    assert task.api.calls == ["prepare", "submit"]
    (line,) = task.log.warnings
    assert f"delivered the result of {name}, which was submitted at " in line
    assert "(0:00:00 ago)" in line
    assert "To export again on purpose" in line


@pytest.mark.parametrize("kind", ["gcs", "truncate"])
def test_delivered_export_that_overwrites_is_submitted_again(kind: str) -> None:
    task = SubmittingTask(kind=kind)
    task.deliver(task.attempt().operation["name"])
    assert task.attempt().reattached is False
    assert task.api.calls == ["prepare", "submit"] * 2
    assert task.log.warnings == []
    assert task.record is not None
    assert task.record["state"] == "submitted"


@pytest.mark.parametrize("kind", EXPORTS)
def test_retry_reattaches_if_the_worker_died_between_the_delivery_and_its_report(kind: str) -> None:
    task = SubmittingTask(kind=kind)
    operation = task.attempt().operation
    operation["done"] = True
    for _ in range(2):
        task.deliver(operation["name"], is_cleared=False)
        assert task.attempt() == SubmittedOperation(operation, reattached=True)
    assert task.submissions == 1


@pytest.mark.parametrize("done", [False, True])
def test_export_whose_name_was_delivered_is_submitted_again_only_after_its_end(done: bool) -> None:
    task = SubmittingTask()
    operation = task.attempt().operation
    task.deliver(operation["name"], operation["name"])
    operation["done"] = done
    assert task.attempt().reattached is not done
    assert task.submissions == 1 + done
