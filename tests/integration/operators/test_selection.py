"""Selections that become filter files, against the local Healthcare API, Cloud Storage and BigQuery."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import BigQueryTable
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.selection import DicomMetadataQueryOperator, DicomStoreSearchOperator
from airflow_provider_dicom.selection.filter_file import read_filter
from airflow_provider_dicom.selection.metadata_table import MetadataTable
from rig.dicom_files import Uids, upload_copies
from tests.support.rendering import dag, render
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator
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
    search: SearchOperatorFactory,
    instances: list[Uids],
    store: DicomStoreName,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    assert TaskRun().run(search(level="instances", page_size=2)) == {
        "dicom_store": str(store),
        "filter_uri": f"gs://{bucket}/f.txt",
        "filter_uris": [f"gs://{bucket}/f.txt"],
        "count": 3,
        "since": None,
        "until": None,
    }
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


@pytest.mark.parametrize("folder", ["20260329", "2026/03/29", "1.2.3"])
def test_search_finds_exported_instances_in_folders_whose_names_are_digits(
    folder: str,
    search: SearchOperatorFactory,
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
) -> None:
    TaskRun().run(operator(destination=f"gs://{bucket}/nights/{folder}/"))
    with pytest.raises(AirflowSkipException, match="nothing to export"):
        TaskRun().run(search(level="instances", exclude_exported_to=f"gs://{bucket}/nights/"))


def test_search_counts_objects_that_it_ignores_and_does_not_quote_their_names(
    search: SearchOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("", "2026/", "Citizen/report.pdf", "2026/1.2/3.4/5.6.dcm.part"):
        storage.write(bucket, f"nights/{name}", b"")
    TaskRun().run(search(level="instances", exclude_exported_to=f"gs://{bucket}/nights/"))
    log = capsys.readouterr().out
    assert f"2 objects below gs://{bucket}/nights/ were ignored" in log
    assert "Citizen" not in log


def test_search_selects_an_instance_again_unless_all_its_frames_are_exported(
    search: SearchOperatorFactory,
    operator: ExportOperatorFactory,
    thirty_frames: Uids,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    arguments = {"level": "instances", "exclude_exported_to": f"gs://{bucket}/nights/"}
    TaskRun().run(operator(destination=f"gs://{bucket}/nights/20260329/", mime_type="image/png"))
    with pytest.raises(AirflowSkipException, match="nothing to export"):
        TaskRun().run(search(**arguments))
    study, series, instance = thirty_frames
    storage.delete(bucket, f"nights/20260329/{study}/{series}/{instance}/30.png")
    assert TaskRun().run(search(**arguments))["count"] == 1
    assert storage.read(bucket, "f.txt").decode() == f"{thirty_frames.path}\n"


def test_exclude_exported_to_needs_instance_level_and_a_destination(search: SearchOperatorFactory) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="level='studies'"):
        search(exclude_exported_to="gs://bucket/nights")
    with pytest.raises(DicomExportInvalidRequestError, match="exclude_exported_to="):
        search(level="instances", exclude_exported_to="nights")


def test_query_selects_what_the_table_holds_and_names_no_dicom_store(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    anonymous: str,
    bigquery: BigQueryEmulator,
    bucket: str,
    storage: StorageEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    monkeypatch.setenv("AIRFLOW_VAR_MARK", "2026-01-01T00:00:00Z")
    bigquery.create_dataset("test-project", "queried")
    TaskRun().run(operator(destination="bq://test-project.queried.t"))
    query = DicomMetadataQueryOperator(
        task_id="query",
        table="bq://test-project.queried.t",
        filter_uri=f"gs://{bucket}/f.txt",
        high_water_mark="mark",
        until="2096-02-29T00:00:00Z",
        gcp_conn_id=anonymous,
    )
    assert TaskRun().run(query) == {
        "dicom_store": None,
        "filter_uri": f"gs://{bucket}/f.txt",
        "filter_uris": [f"gs://{bucket}/f.txt"],
        "count": 3,
        "since": "2026-01-01T00:00:00+00:00",
        "until": "2096-02-29T00:00:00+00:00",
    }
    assert storage.read(bucket, "f.txt").decode().splitlines() == sorted(uids.path for uids in instances)


@pytest.mark.parametrize("schema", ["flattened", "json"])
def test_query_has_conditions_and_notes_the_volume_with_the_filter_file(
    schema: str,
    operator: ExportOperatorFactory,
    store: DicomStoreName,
    healthcare: HealthcareEmulator,
    anonymous: str,
    bigquery: BigQueryEmulator,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    monkeypatch.setenv("AIRFLOW_VAR_MARK", "2026-01-01T00:00:00Z")
    old, new = Uids("1.2", "1.2.1", "1.2.1.1"), Uids("1.3", "1.3.1", "1.3.1.1")
    upload_copies(healthcare.url, str(store), [old], study_date="20260328")
    upload_copies(healthcare.url, str(store), [new], study_date="20260329")
    bigquery.create_dataset("test-project", f"conditions_{schema}")
    table = f"bq://test-project.conditions_{schema}.t"
    TaskRun().run(operator(destination=table, bigquery_schema=schema))
    with dag():
        query = DicomMetadataQueryOperator(
            task_id="query",
            table=table,
            filter_uri=f"gs://{bucket}/f.txt",
            high_water_mark="mark",
            until="2096-02-29T00:00:00Z",
            conditions={"StudyDate": ["{{ day }}", "20260401"]},
            gcp_conn_id=anonymous,
        )
    # A condition may name a patient.
    assert repr(query.conditions) == "<dict of private values: StudyDate>"
    assert TaskRun().run(render(query, day="20260329"))["count"] == 1
    (line,) = read_filter(f"gs://{bucket}/f.txt", gcp_conn_id=anonymous, impersonation_chain=None)
    assert line == new.path
    assert "They stand for 1 instances" in capsys.readouterr().out
    TaskRun().run(operator(filter_uri=f"gs://{bucket}/f.txt"))
    said = capsys.readouterr().out
    assert "nothing of it in COLDLINE or ARCHIVE" in said
    assert "Exporting 1 instances" in said


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
    # The year 1, where the window begins, has no 29 February.
    now = datetime(2096, 2, 29, tzinfo=UTC)
    everything = sorted(uids.path for uids in instances)
    assert sorted(one.path for one in table.arrived("instances", since=None, until=now)) == everything
    assert sorted(path for path, _ in table.instances()) == everything
    assert list(table.arrived("instances", since=now, until=now + timedelta(days=1))) == []
