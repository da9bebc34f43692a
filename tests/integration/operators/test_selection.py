"""Selections that become filter files, against the local Healthcare API, Cloud Storage and BigQuery."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import BigQueryTable
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.selection.inventory import MetadataTable
from tests.support.rendering import dag, render
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator, StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")


class SearchOperatorFactory(Protocol):
    """Builds operators that search the test's DICOM store."""

    def __call__(self, **changes: object) -> DicomStoreSearchOperator:
        """Build an operator; ``changes`` are its parameters other than the defaults."""


@pytest.fixture
def search(where: dict[str, Any], bucket: str) -> SearchOperatorFactory:
    """Builds operators that search the test's DICOM store and write ``f.txt``."""

    def build(**changes: object) -> DicomStoreSearchOperator:
        arguments: dict[str, Any] = {
            "task_id": "search",
            "filter_uri": f"gs://{bucket}/f.txt",
        }
        return DicomStoreSearchOperator(**(where | arguments | changes))

    return build


def test_search_writes_the_paths_of_all_pages_to_the_filter_file(
    search: SearchOperatorFactory, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    selection = TaskRun().run(search(level="instances", page_size=2))
    assert selection == {"filter_uri": f"gs://{bucket}/f.txt", "count": 3, "since": None, "until": None}
    lines = storage.read(bucket, "f.txt").decode().splitlines()
    assert lines == sorted(uids.path for uids in instances)


def test_search_renders_its_filters_and_skips_without_matches(
    search: SearchOperatorFactory, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    task_run = TaskRun()
    with dag():
        task = search(filters={"StudyInstanceUID": "{{ uid }}"}, filter_uri=f"gs://{bucket}/none.txt")
    with pytest.raises(AirflowSkipException, match="nothing to export"):
        task_run.run(render(copy.deepcopy(task), uid="1.2.3"))
    assert storage.objects(bucket, "none.txt") == {}
    assert task_run.run(render(task, uid=instances[0].study))["count"] == 1


def test_search_finds_each_kind_of_filter_value(search: SearchOperatorFactory, instances: list[Uids]) -> None:
    first, second, *_ = instances
    uids = sorted({first.instance, second.instance})
    assert TaskRun().run(search(level="instances", filters={"SOPInstanceUID": uids}))["count"] == len(uids)
    assert TaskRun().run(search(level="instances", filters={"PatientID": "*"}))["count"] == len(instances)
    with pytest.raises(AirflowSkipException, match=r"filters\['StudyInstanceUID'\] is an empty list"):
        TaskRun().run(search(filters={"StudyInstanceUID": []}))
    with pytest.raises(AirflowSkipException, match="matches nothing"):
        TaskRun().run(search(filters={"StudyDate": date(1910, 1, 1)}))


def test_search_leaves_out_instances_that_were_exported_before(
    search: SearchOperatorFactory,
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    first, *others = instances
    storage.write(bucket, "first.txt", first.path.encode())
    TaskRun().run(
        operator(destination=f"gs://{bucket}/nights/2026-03-29/", filter_uri=f"gs://{bucket}/first.txt")
    )
    arguments = {"level": "instances", "exclude_exported_to": f"gs://{bucket}/nights/"}
    assert TaskRun().run(search(**arguments))["count"] == 2
    assert storage.read(bucket, "f.txt").decode().splitlines() == sorted(uids.path for uids in others)
    TaskRun().run(
        operator(destination=f"gs://{bucket}/nights/2026-03-30/", filter_uri=f"gs://{bucket}/f.txt")
    )
    with pytest.raises(AirflowSkipException, match="nothing to export"):
        TaskRun().run(search(**arguments))


def test_exclude_exported_to_needs_instance_level_and_a_destination(search: SearchOperatorFactory) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="level='studies'"):
        search(exclude_exported_to="gs://bucket/nights")
    with pytest.raises(DicomExportInvalidRequestError, match="exclude_exported_to="):
        search(level="instances", exclude_exported_to="nights")


def test_metadata_table_selects_instances_by_arrival_time(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bigquery: BigQueryEmulator,
    anonymous: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    bigquery.create_dataset("test-project", "selection")
    TaskRun().run(operator(destination="bq://test-project.selection.t", bigquery_schema="flattened"))
    table = MetadataTable(
        BigQueryTable("test-project", "selection", "t"), gcp_conn_id=anonymous, impersonation_chain=None
    )
    now = datetime.now(UTC)
    everything = sorted(uids.path for uids in instances)
    assert sorted(table.arrived("instances", since=None, until=now)) == everything
    assert sorted(table.instances()) == everything
    assert list(table.arrived("instances", since=now, until=now + timedelta(days=1))) == []
