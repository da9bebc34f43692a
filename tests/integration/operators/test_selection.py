"""Selections become filter files, against the local Healthcare API, Cloud Storage and BigQuery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import BigQueryTable
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.selection.inventory import MetadataTable
from tests.support.provider_rig import Run

if TYPE_CHECKING:
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator, StorageEmulator

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def search(where: dict[str, Any], bucket: str) -> Any:
    def build(**changes: Any) -> DicomStoreSearchOperator:
        arguments: dict[str, Any] = {
            "task_id": "search",
            "filter_uri": f"gs://{bucket}/f.txt",
        }
        return DicomStoreSearchOperator(**(where | arguments | changes))

    return build


def test_a_search_pages_and_writes_only_uids(
    search: Any, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    selection = Run()(search(level="instances", page_size=2))
    assert selection == {"filter_uri": f"gs://{bucket}/f.txt", "count": 3, "since": None, "until": None}
    lines = storage.read(bucket, "f.txt").decode().splitlines()
    assert lines == sorted(uids.path for uids in instances)


def test_filters_are_rendered_and_a_search_without_matches_skips(
    search: Any, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    run = Run()
    run.context["uid"] = instances[0].study
    assert run(search(filters={"StudyInstanceUID": "{{ uid }}"}))["count"] == 1
    run.context["uid"] = "1.2.3"
    with pytest.raises(AirflowSkipException, match="nothing to export"):
        run(search(filters={"StudyInstanceUID": "{{ uid }}"}, filter_uri=f"gs://{bucket}/none.txt"))
    assert storage.objects(bucket, "none.txt") == {}


def test_what_is_exported_already_is_left_out(
    search: Any, operator: Any, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    first, *others = instances
    storage.write(bucket, "first.txt", first.path.encode())
    Run()(operator(destination=f"gs://{bucket}/nights/2026-03-29/", filter_uri=f"gs://{bucket}/first.txt"))
    arguments = {"level": "instances", "exclude_exported_to": f"gs://{bucket}/nights/"}
    assert Run()(search(**arguments))["count"] == 2
    assert storage.read(bucket, "f.txt").decode().splitlines() == sorted(uids.path for uids in others)
    Run()(operator(destination=f"gs://{bucket}/nights/2026-03-30/", filter_uri=f"gs://{bucket}/f.txt"))
    with pytest.raises(AirflowSkipException, match="nothing to export"):
        Run()(search(**arguments))


def test_only_instances_can_be_told_from_exported_ones(search: Any) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="level='studies'"):
        search(exclude_exported_to="gs://bucket/nights")
    with pytest.raises(DicomExportInvalidRequestError, match="exclude_exported_to="):
        search(level="instances", exclude_exported_to="nights")


def test_what_arrived_within_a_window(
    operator: Any,
    instances: list[Uids],
    bigquery: BigQueryEmulator,
    anonymous: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    bigquery.create_dataset("test-project", "selection")
    Run()(operator(destination="bq://test-project.selection.t", bigquery_schema="flattened"))
    table = MetadataTable(
        BigQueryTable("test-project", "selection", "t"), gcp_conn_id=anonymous, impersonation_chain=None
    )
    now = datetime.now(UTC)
    everything = sorted(uids.path for uids in instances)
    assert sorted(table.arrived("instances", since=None, until=now)) == everything
    assert sorted(table.instances()) == everything
    assert list(table.arrived("instances", since=now, until=now + timedelta(days=1))) == []
