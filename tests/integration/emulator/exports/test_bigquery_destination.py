"""The BigQuery destination, through the real client."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom.data
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery import Client, LoadJobConfig, SchemaField, Table
from pydicom import dcmread

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports import bigquery_destination
from airflow_provider_dicom.emulator.exports.bigquery_destination import BigQueryDestination
from airflow_provider_dicom.emulator.imaging.transcode import CannotTranscode
from airflow_provider_dicom.emulator.models.instances import StoredInstance
from rig.dicom_files import sample_files
from rig.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.emulator.exports.bigquery_schema import SchemaKind
    from rig.servers import BigQueryEmulator

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FILES = Path(pydicom.data.__file__).parent / "test_files"
STORE = "projects/test-project/locations/l/datasets/d/dicomStores/s"
CT, PLAN, REPORT = "CT_small.dcm", "rtplan.dcm", "test-SR.dcm"
_table_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def dataset(bigquery: BigQueryEmulator) -> str:
    bigquery.create_dataset("test-project", "exports")
    return "test-project.exports"


@pytest.fixture
def table(bigquery: BigQueryEmulator, dataset: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a table that does not exist yet."""
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    return f"{dataset}.table{next(_table_numbers)}"


@pytest.fixture
def client(table: str) -> Iterator[Client]:
    client = Client(project="test-project", credentials=AnonymousCredentials())
    yield client
    client.close()


def stored(path: Path | str) -> StoredInstance:
    ds = dcmread(FILES / path, stop_before_pixels=True)
    return StoredInstance(
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, FILES / path, STORE, datetime.now(UTC)
    )


def export(
    table: str,
    *names: Path | str,
    disposition: str | None = None,
    schema: SchemaKind = "default",
    include_source_store: bool = False,
    cancelled: bool = False,
) -> None:
    destination = BigQueryDestination(f"bq://{table}", disposition, schema, include_source_store)
    destination.open()
    for name in names:
        destination.write(stored(name))
    destination.close(cancelled=cancelled)


def modalities(client: Client, table: str) -> list[str]:
    return sorted(row["Modality"] for row in client.list_rows(table))


def test_export_creates_a_missing_table(client: Client, table: str) -> None:
    export(table, CT, PLAN)
    assert modalities(client, table) == ["CT", "RTPLAN"]


def test_exported_nested_records_can_be_queried(client: Client, table: str) -> None:
    export(table, CT, PLAN, REPORT)
    query = f"""
        SELECT PatientName.Alphabetic.FamilyName AS name, StudyDate, PixelSpacing, LastUpdated,
            BeamSequence[SAFE_OFFSET(0)].ControlPointSequence[SAFE_OFFSET(0)].NominalBeamEnergy AS energy
        FROM `{table}` WHERE Modality = 'RTPLAN'
    """
    [row] = client.query(query).result()
    plan = dcmread(FILES / PLAN)
    assert row["name"] == plan.PatientName.family_name
    assert row["StudyDate"].strftime("%Y%m%d") == plan.StudyDate
    assert row["PixelSpacing"] == []
    assert row["energy"] == str(plan.BeamSequence[0].ControlPointSequence[0].NominalBeamEnergy)
    assert row["LastUpdated"].tzinfo is not None


@pytest.mark.parametrize("schema", ["default", "flattened", "json"])
def test_every_sample_file_is_exported_as_a_row(client: Client, table: str, schema: SchemaKind) -> None:
    export(table, *sample_files(), schema=schema)
    uids = sorted(row["SOPInstanceUID"] for row in client.list_rows(table))
    assert uids == sorted(stored(path).instance_uid for path in sample_files())


def test_json_schema_has_metadata_as_json(client: Client, table: str) -> None:
    export(table, CT, schema="json", include_source_store=True)
    [row] = client.list_rows(table)
    assert row["SourceDicomStore"] == STORE
    assert row["Metadata"]["00080060"] == {"vr": "CS", "Value": ["CT"]}
    assert {field.name: field.field_type for field in client.get_table(table).schema}["Metadata"] == "JSON"


def test_source_store_is_a_column_only_if_requested(client: Client, table: str) -> None:
    export(table, CT, include_source_store=True)
    [row] = client.list_rows(table)
    assert row["SourceDicomStore"] == STORE
    export(table, CT, disposition="WRITE_TRUNCATE")
    [row] = client.list_rows(table)
    assert "SourceDicomStore" not in row.keys()  # noqa: SIM118 - a row iterates over values


@pytest.mark.parametrize("disposition", [None, "WRITE_EMPTY"])
def test_write_empty_refuses_rows(client: Client, table: str, disposition: str | None) -> None:
    export(table, CT)
    with pytest.raises(ApiError, match="has rows") as error:
        BigQueryDestination(f"bq://{table}", disposition, "default", False).open()
    assert error.value.status == "ALREADY_EXISTS"
    assert modalities(client, table) == ["CT"]


@pytest.mark.parametrize("fields", [[], [SchemaField("Leftover", "STRING")]])
def test_write_empty_fills_an_empty_table(client: Client, table: str, fields: list[SchemaField]) -> None:
    client.create_table(Table(table, schema=fields))
    export(table, CT)
    assert modalities(client, table) == ["CT"]


def test_write_empty_refuses_rows_written_during_the_export(client: Client, table: str) -> None:
    destination = BigQueryDestination(f"bq://{table}", "WRITE_EMPTY", "default", False)
    destination.open()
    destination.write(stored(PLAN))
    export(table, CT)
    with pytest.raises(ApiError, match="has rows"):
        destination.close(cancelled=False)
    assert modalities(client, table) == ["CT"]


def test_write_truncate_replaces_rows_and_columns(client: Client, table: str) -> None:
    export(table, PLAN, REPORT)
    export(table, CT, disposition="WRITE_TRUNCATE")
    assert modalities(client, table) == ["CT"]
    assert "BeamSequence" not in {field.name for field in client.get_table(table).schema}


def test_write_truncate_without_instances_empties_the_table(client: Client, table: str) -> None:
    export(table, CT)
    export(table, disposition="WRITE_TRUNCATE")
    assert modalities(client, table) == []


def test_write_append_adds_rows(client: Client, table: str) -> None:
    export(table, CT, disposition="WRITE_APPEND")
    export(table, CT, disposition="WRITE_APPEND")
    assert modalities(client, table) == ["CT", "CT"]


def test_write_append_adds_columns_and_keeps_values(client: Client, table: str) -> None:
    export(table, CT)
    [before] = client.list_rows(table)
    export(table, PLAN, REPORT, disposition="WRITE_APPEND")
    assert modalities(client, table) == ["CT", "RTPLAN", "SR"]
    rows = {row["Modality"]: row for row in client.list_rows(table)}
    assert rows["RTPLAN"]["BeamSequence"][0]["BeamName"]
    for name, value in before.items():
        kept = rows["CT"][name]
        # Records may have got more fields.
        assert kept == value or _without_nulls(kept) == _without_nulls(value), name


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part not in (None, [])}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def test_write_append_refuses_a_column_of_another_type(client: Client, table: str) -> None:
    config = LoadJobConfig(
        schema=[SchemaField("Modality", "INTEGER")], source_format="NEWLINE_DELIMITED_JSON"
    )
    client.load_table_from_file(io.BytesIO(b'{"Modality": 5}'), table, job_config=config).result()
    with pytest.raises(ApiError, match="column Modality is NULLABLE INTEGER, not NULLABLE STRING") as error:
        export(table, CT, disposition="WRITE_APPEND")
    assert error.value.status == "INVALID_ARGUMENT"
    assert [row["Modality"] for row in client.list_rows(table)] == [5]


def test_rows_are_invisible_until_the_destination_is_closed(client: Client, table: str) -> None:
    export(table, CT)
    destination = BigQueryDestination(f"bq://{table}", "WRITE_APPEND", "default", False)
    destination.open()
    destination.write(stored(PLAN))
    assert modalities(client, table) == ["CT"]
    destination.close(cancelled=False)
    assert modalities(client, table) == ["CT", "RTPLAN"]


@pytest.mark.parametrize("disposition", ["WRITE_EMPTY", "WRITE_TRUNCATE", "WRITE_APPEND"])
def test_cancelled_export_changes_no_table(client: Client, table: str, disposition: str) -> None:
    if disposition != "WRITE_EMPTY":
        export(table, CT)
    export(table, PLAN, disposition=disposition, cancelled=True)
    tables = [f"{item.dataset_id}.{item.table_id}" for item in client.list_tables("test-project.exports")]
    if disposition == "WRITE_EMPTY":
        assert table.removeprefix("test-project.") not in tables
    else:
        assert modalities(client, table) == ["CT"]


def test_unreadable_instance_fails_alone(client: Client, table: str, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("Confidential")
    destination = BigQueryDestination(f"bq://{table}", None, "default", False)
    destination.open()
    with pytest.raises(CannotTranscode, match="InvalidDicomError while reading"):
        destination.write(StoredInstance("1", "2", "3", note, STORE, datetime.now(UTC)))
    destination.write(stored(CT))
    destination.close(cancelled=False)
    assert modalities(client, table) == ["CT"]


def test_export_to_a_missing_dataset_is_refused(table: str) -> None:
    with pytest.raises(ApiError, match="Not found: Dataset test-project:nowhere") as error:
        BigQueryDestination("bq://test-project.nowhere.table", None, "default", False).open()
    assert error.value.http_status == 404


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bq://",
        "bq://project.dataset",
        "bq://project.dataset.table.more",
        "bq://project/dataset/table",
        "project.dataset.table",
        "gs://bucket/out",
        "bq://project.data-set.table",
        f"bq://project.dataset.{'t' * 2000}",
    ],
)
def test_invalid_table_uri_is_refused(uri: str) -> None:
    with pytest.raises(ApiError, match="Invalid BigQuery URI") as error:
        BigQueryDestination(uri, None, "default", False)
    assert error.value.status == "INVALID_ARGUMENT"


def test_invalid_write_disposition_is_refused() -> None:
    with pytest.raises(ApiError, match="Invalid write disposition"):
        BigQueryDestination("bq://project.dataset.table", "WRITE_OVER", "default", False)


def test_bigquery_without_an_emulator_is_refused(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST")
    with pytest.raises(ApiError, match="BIGQUERY_EMULATOR_HOST") as error:
        BigQueryDestination(f"bq://{table}", None, "default", False).open()
    assert error.value.status == "FAILED_PRECONDITION"


def test_unreachable_bigquery_is_unavailable(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_destination, "RETRY", bigquery_destination.RETRY.with_timeout(1.0))
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://{LOOPBACK}:{free_port()}")
    with pytest.raises(ApiError, match="cannot be reached") as error:
        BigQueryDestination(f"bq://{table}", None, "default", False).open()
    assert error.value.status == "UNAVAILABLE"
