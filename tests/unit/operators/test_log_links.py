"""Addresses of logs in what the export operator prints and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import console
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from tests.support.finished_operations import NAME, ended
from tests.support.task_runs import FakeTaskInstance

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"


def operator(**parameters: Any) -> DicomStoreExportOperator:
    return DicomStoreExportOperator(
        task_id="export",
        location="l",
        dataset_id="d",
        dicom_store_id="s",
        destination="gs://exports/nightly",
        **parameters,
    )


def test_warning_of_an_accepted_error_leads_to_the_logs_of_the_dicom_store(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    operation = ended({"success": 98, "failure": 2}, {"code": 2, "message": "2 instances failed"})
    del operation["metadata"]["logsUrl"]
    context: Any = {"ti": FakeTaskInstance()}
    result = operator(max_failures=2, list_failures=False).record_outcome(operation, context)
    assert result["logs_url"] == console.logs_query_url(operation, STORE)
    printed = caplog.text + capsys.readouterr().out
    assert f"0 pending. Operation: {NAME}. Logs: {result['logs_url']}" in printed


@pytest.mark.parametrize("earlier", [None, NAME, f"{NAME}0"])
def test_links_lead_to_the_operation_whose_name_is_published(earlier: str | None) -> None:
    task, ti = operator(deferrable=False), FakeTaskInstance()
    latest: Any = (
        None if earlier is None else {"name": earlier, "metadata": {"createTime": "2025-11-23T01:00:00Z"}}
    )
    task._latest_operation = latest
    context: Any = {"ti": ti}
    task._publish_name(NAME, context)
    expected: Operation = latest if earlier == NAME else {"name": NAME}
    assert ti.xcoms["_link_DicomExportLogsLink"] == console.logs_query_url(expected, STORE)
    assert task.submitted_operation == expected
