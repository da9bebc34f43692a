"""Queries of metadata tables of all kinds, on the BigQuery emulator: flattened, JSON, streamed, old ones."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import BigQueryTable
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError, DicomExportNotFoundError
from airflow_provider_dicom.selection.metadata_table import MetadataTable
from airflow_provider_dicom.selection.volume import Volume
from tests.support.bigquery_costs import QueryServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rig.servers import BigQueryEmulator
    from tests.support.provider_fixtures import Connect

PROJECT, DATASET = "test-project", "metadata_tables"
UIDS = "StudyInstanceUID STRING, SeriesInstanceUID STRING, SOPInstanceUID STRING"
#: A flattened table of a stream: a row for each change of an instance.
STREAMED = f"""
    {UIDS}, Modality STRING, StudyDate DATE,
    ImageType ARRAY<STRING>, NumberOfFrames STRING, SeriesNumber INT64, StorageClass STRING,
    BlobStorageSize INT64, LastUpdated TIMESTAMP, Type STRING
"""
JSON = f"""
    {UIDS}, Metadata JSON,
    StorageClass STRING, LastUpdated TIMESTAMP, Type STRING
"""
NIGHT = datetime(2026, 3, 29, tzinfo=UTC)
NEXT_NIGHT = datetime(2026, 3, 30, tzinfo=UTC)
_numbers = itertools.count(1)


def path(number: int) -> str:
    return f"/studies/1.{number // 10}/series/1.{number // 10}.1/instances/1.{number}"


def row(number: int, updated: str, kind: str = "'CREATE'", **more: str) -> str:
    """Return the values of a row of a streamed table."""
    values = {
        "modality": "'CT'",
        "date": "DATE '2026-03-01'",
        "image_type": "['ORIGINAL', 'PRIMARY']",
        "frames": "NULL",
        "series": "1",
        "storage": "'STANDARD'",
        "size": "100",
    } | more
    uids = f"'1.{number // 10}', '1.{number // 10}.1', '1.{number}'"
    return f"({uids}, {', '.join(values.values())}, TIMESTAMP '{updated}+00:00', {kind})"


@pytest.fixture(scope="module")
def dataset(bigquery: BigQueryEmulator) -> BigQueryEmulator:
    """The emulator, with a dataset for the tests' tables."""
    bigquery.create_dataset(PROJECT, DATASET)
    return bigquery


@pytest.fixture
def table(
    dataset: BigQueryEmulator, anonymous: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., MetadataTable]:
    """Creates tables with rows."""
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", dataset.url)

    def create(*rows: str, columns: str = STREAMED) -> MetadataTable:
        name = f"t{next(_numbers)}"
        if "JSON" in columns:
            # The emulator's CREATE TABLE makes a STRING of a JSON.
            dataset.create_table(PROJECT, DATASET, name, dict(map(str.split, columns.split(","))))
        else:
            dataset.query(PROJECT, f"CREATE TABLE `{PROJECT}.{DATASET}.{name}` ({columns})")
        if rows:
            dataset.query(PROJECT, f"INSERT INTO `{PROJECT}.{DATASET}.{name}` VALUES {', '.join(rows)}")
        return MetadataTable(
            BigQueryTable(PROJECT, DATASET, name), gcp_conn_id=anonymous, impersonation_chain=None
        )

    return create


def arrived(table: MetadataTable, level: Any = "instances", **options: Any) -> list[str]:
    """Return the paths of what a night selects."""
    return sorted(one.path for one in table.arrived(level, since=NIGHT, until=NEXT_NIGHT, **options))


DURING, BEFORE, AFTER = "2026-03-29 12:00:00", "2026-03-28 12:00:00", "2026-03-30 12:00:00"


def test_latest_row_of_an_instance_decides(table: Callable[..., MetadataTable]) -> None:
    streamed = table(
        row(1, DURING),
        *(row(2, DURING), row(2, "2026-03-29 13:00:00", "'DELETE'")),
        *(row(3, DURING), row(3, AFTER)),
        # The deletion has the time of the row that it deletes.
        *(row(4, DURING, "'DELETE'"), row(4, DURING)),
        row(5, BEFORE),
        *(row(6, BEFORE, "'DELETE'"), row(6, DURING)),
    )
    assert arrived(streamed) == [path(1), path(6)]
    assert dict(streamed.instances()) == {path(number): 1 for number in (1, 3, 5, 6)}


def test_arrival_is_told_from_a_change_where_the_table_keeps_earlier_rows(
    table: Callable[..., MetadataTable],
) -> None:
    streamed = table(
        row(1, DURING),
        # Moved to another storage class.
        *(row(2, BEFORE), row(2, DURING, storage="'ARCHIVE'")),
        # Arrived and changed in the same night.
        *(row(3, DURING), row(3, "2026-03-29 13:00:00")),
        # Deleted, and stored again.
        *(row(4, BEFORE), row(4, "2026-03-28 13:00:00", "'DELETE'"), row(4, DURING)),
    )
    assert arrived(streamed) == [path(1), path(2), path(3), path(4)]
    assert arrived(streamed, only_arrivals=True) == [path(1), path(3), path(4)]


def test_table_of_change_data_capture_has_no_type_and_no_earlier_rows(
    table: Callable[..., MetadataTable],
) -> None:
    captured = table(
        f"('1.1', '1.1.1', '1.11', TIMESTAMP '{DURING}+00:00')",
        columns=f"{UIDS}, LastUpdated TIMESTAMP",
    )
    assert arrived(captured) == ["/studies/1.1/series/1.1.1/instances/1.11"]
    assert list(captured.instances()) == [("/studies/1.1/series/1.1.1/instances/1.11", 0)]
    with pytest.raises(DicomExportInvalidRequestError, match=r"no column Type.*cannot be told from a change"):
        arrived(captured, only_arrivals=True)


def test_old_table_without_times_is_refused_but_for_an_inventory(table: Callable[..., MetadataTable]) -> None:
    old = table("('1.1', '1.1.1', '1.11')", columns=UIDS)
    assert len(list(old.instances())) == 1
    with pytest.raises(DicomExportInvalidRequestError, match=r"no column LastUpdated.*September 2022"):
        arrived(old)
    with pytest.raises(
        DicomExportInvalidRequestError, match=r"no column LastUpdated.*deleted or stored last"
    ):
        list(table(columns=f"{UIDS}, Type STRING").instances())


def test_table_of_something_else_is_refused(table: Callable[..., MetadataTable]) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match=r"no column StudyInstanceUID.*not a table of"):
        list(table(columns="name STRING").instances())


def test_times_as_text_are_refused(table: Callable[..., MetadataTable]) -> None:
    columns = STREAMED.replace("LastUpdated TIMESTAMP", "LastUpdated STRING")
    with pytest.raises(DicomExportInvalidRequestError, match=r"another type \(STRING\) of the column"):
        arrived(table(columns=columns))


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        ({"Modality": "MR"}, [2]),
        ({"modality": ["MR", "CT"]}, [1, 2, 3]),
        ({"StudyDate": "20260302"}, [2]),
        ({"StudyDate": date(2026, 3, 2)}, [2]),
        ({"StudyDate": ["2026-03-01", "2026-03-02"], "Modality": "CT"}, [1, 3]),
        ({"StorageClass": "ARCHIVE"}, [3]),
        ({"SeriesNumber": 7}, [3]),
        ({"SeriesNumber": "7"}, [3]),
        ({"ImageType": "LOCALIZER"}, [1]),
        ({"Modality": "' OR TRUE --"}, []),
    ],
)
def test_conditions_are_those_of_the_latest_row(
    conditions: Any, numbers: list[int], table: Callable[..., MetadataTable]
) -> None:
    streamed = table(
        row(1, DURING, image_type="['ORIGINAL', 'LOCALIZER']"),
        *(row(2, BEFORE), row(2, DURING, modality="'MR'", date="DATE '2026-03-02'")),
        row(3, DURING, storage="'ARCHIVE'", series="7"),
    )
    assert arrived(streamed, conditions=conditions) == [path(number) for number in numbers]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"Modalty": "CT"}, r"conditions\['Modalty'\].*no column of this name"),
        ({"StudyDate": "yesterday"}, r"conditions\['StudyDate'\] holds a value that is no DATE"),
        ({"StudyDate": 7}, "no DATE"),
        ({"SeriesNumber": "seven"}, "no INT64"),
        ({"SeriesNumber": True}, "no INT64"),
        ({"Modality": True}, "no STRING"),
        ({"LastUpdated": "2026-03-29"}, "no TIMESTAMP"),
    ],
)
def test_condition_that_the_table_cannot_meet_is_refused(
    conditions: Any, message: str, table: Callable[..., MetadataTable]
) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match=message) as raised:
        arrived(table(), conditions=conditions)
    assert "yesterday" not in str(raised.value)


def test_empty_list_of_values_skips(table: Callable[..., MetadataTable]) -> None:
    with pytest.raises(AirflowSkipException, match=r"conditions\['Modality'\] is an empty list"):
        arrived(table(row(1, DURING)), conditions={"Modality": []})


def test_conditions_of_a_json_table_are_data_elements(table: Callable[..., MetadataTable]) -> None:
    elements = '{"00080060": {"vr": "CS", "Value": ["MR"]}, "00080020": {"vr": "DA", "Value": ["20260302"]}}'
    rows = (
        f"('1.1', '1.1.1', '1.11', JSON '{elements}', 'STANDARD', TIMESTAMP '{DURING}+00:00', 'INSERT')",
        f"('1.1', '1.1.1', '1.12', JSON '{{}}', 'STANDARD', TIMESTAMP '{DURING}+00:00', 'INSERT')",
    )
    written = table(*rows, columns=JSON)
    assert len(arrived(written)) == 2
    found = ["/studies/1.1/series/1.1.1/instances/1.11"]
    for conditions in (
        {"Modality": ["MR", "CT"]},
        {"00080060": "MR"},
        {"StudyDate": date(2026, 3, 2), "StorageClass": "STANDARD"},
    ):
        assert arrived(written, conditions=conditions) == found
    assert arrived(written, conditions={"Modality": "CT"}) == []
    with pytest.raises(DicomExportInvalidRequestError, match="accepted: the tag"):
        arrived(written, conditions={"PatientName": "x"})


def test_volume_of_a_study_counts_all_its_instances_that_are_not_deleted(
    table: Callable[..., MetadataTable],
) -> None:
    streamed = table(
        *(row(11, BEFORE, storage="'ARCHIVE'"), row(12, DURING)),
        *(row(13, BEFORE), row(13, BEFORE, "'DELETE'")),
        row(21, BEFORE),
    )
    (study,) = streamed.arrived("studies", since=NIGHT, until=NEXT_NIGHT)
    assert study == ("/studies/1.1", Volume(None, 2, 200, 100))
    (instance,) = streamed.arrived("instances", since=NIGHT, until=NEXT_NIGHT)
    assert instance == (path(12), Volume(None, 1, 100, 0))


def test_frames_are_those_of_the_table(table: Callable[..., MetadataTable]) -> None:
    rows = [row(number, DURING, frames=frames) for number, frames in enumerate(("NULL", "'30'", "'x'"), 1)]
    assert dict(table(*rows).instances()) == {path(1): 1, path(2): 30, path(3): 0}


def test_missing_table_is_named(
    dataset: BigQueryEmulator, anonymous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", dataset.url)
    missing = MetadataTable(
        BigQueryTable(PROJECT, DATASET, "none"), gcp_conn_id=anonymous, impersonation_chain=None
    )
    with pytest.raises(DicomExportNotFoundError, match=f"bq://{PROJECT}.{DATASET}.none"):
        list(missing.instances())


class TestCost:
    """The cost of a query, on a server that, unlike the emulator, knows one."""

    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[QueryServer]:
        with QueryServer(cost=5_000_000_000) as server:
            monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", server.url)
            yield server

    def table(self, conn_id: str, limit: int | None = None) -> MetadataTable:
        return MetadataTable(
            BigQueryTable(PROJECT, DATASET, "t"),
            gcp_conn_id=conn_id,
            impersonation_chain=None,
            maximum_bytes_billed=limit,
        )

    def test_cost_is_said_before_the_query_runs(
        self, server: QueryServer, anonymous: str, logged: pytest.LogCaptureFixture
    ) -> None:
        instances = self.table(anonymous).instances()
        next(instances, None)
        assert (
            "The query reads 4.7 GiB (5000000000 bytes) of bq://test-project.metadata_tables.t" in logged.text
        )
        assert [job.get("dryRun", False) for job in server.jobs] == [True, False]
        assert "maximumBytesBilled" not in server.jobs[1]["query"]

    def test_query_beyond_the_limit_is_not_run(self, server: QueryServer, anonymous: str) -> None:
        with pytest.raises(DicomExportInvalidRequestError, match="5000000000 bytes, more than maximum_bytes"):
            list(self.table(anonymous, 4_999_999_999).instances())
        assert [job.get("dryRun", False) for job in server.jobs] == [True]

    def test_limit_of_the_connection_is_sent_to_bigquery(self, server: QueryServer, connect: Connect) -> None:
        conn_id = connect(is_anonymous=True, project=PROJECT, maximum_bytes_billed="5000000000")
        list(self.table(conn_id).instances())
        assert server.jobs[1]["query"]["maximumBytesBilled"] == "5000000000"
        list(self.table(conn_id, 6_000_000_000).instances())
        assert server.jobs[3]["query"]["maximumBytesBilled"] == "6000000000"

    @pytest.mark.parametrize("limit", ["many", "-1", "0", "1.5"])
    def test_limit_of_the_connection_that_is_no_number_is_refused(
        self, limit: str, server: QueryServer, connect: Connect
    ) -> None:
        conn_id = connect(is_anonymous=True, project=PROJECT, maximum_bytes_billed=limit)
        with pytest.raises(DicomExportInvalidRequestError, match=r"maximum_bytes_billed=.*is not accepted"):
            list(self.table(conn_id).instances())
        assert server.jobs == []


def test_log_is_not_needed(table: Callable[..., MetadataTable], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="airflow_provider_dicom")
    assert arrived(table(row(1, DURING))) == [path(1)]
    assert "The query reads 0 bytes of bq://" in caplog.text
