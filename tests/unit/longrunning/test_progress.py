"""Progress records: what they hold."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dicom.longrunning import progress
from airflow_provider_dicom.longrunning.progress import progress_of, write_from_worker
from tests.support.progress_records import NAME, operation
from tests.support.recorded_log import RecordedLog


@pytest.mark.parametrize(
    ("changes", "is_accepted", "state"),
    [
        ({}, True, "RUNNING"),
        ({"done": True}, True, "PARTIAL"),
        ({"done": True, "failure": 0}, True, "SUCCEEDED"),
        ({"done": True}, False, "FAILED"),
        ({"done": True, "error": {"code": 13, "message": "The bucket has gone away."}}, False, "FAILED"),
        ({"done": True, "error": {"code": 2, "message": "Instances failed."}}, True, "PARTIAL"),
        ({"done": True, "error": {"code": 2, "message": "Instances failed."}}, None, "FAILED"),
        ({"done": True}, None, "PARTIAL"),
        ({"done": True, "error": {"code": 1, "message": "stopped"}}, False, "CANCELLED"),
    ],
)
def test_progress_record_of_an_operation(
    changes: dict[str, Any], is_accepted: bool | None, state: str
) -> None:
    record = progress_of(operation(5, 4, **{"failure": 1} | changes), is_accepted=is_accepted)
    assert record["state"] == state
    assert (record["operation_name"], record["success"], record["pending"]) == (NAME, 5, 4)
    assert record["create_time"] == "2026-11-24T18:00:00Z"
    assert record["message"] == changes.get("error", {}).get("message")


def test_long_error_message_of_a_progress_record_is_cut() -> None:
    record = progress_of(operation(done=True, error={"code": 13, "message": "x" * 100_000}))
    assert len(record["message"] or "") == progress.MESSAGE_LENGTH


def test_failing_write_from_a_worker_is_logged_and_not_raised() -> None:
    class Away:
        def xcom_push(self, key: str, value: object) -> None:
            raise RuntimeError("the API server is away")

    log = RecordedLog()
    write_from_worker(Away(), operation(1, done=True), log=log)
    assert log.warnings == ["The progress could not be stored for the web interface: the API server is away"]
