"""Selections in parts: their files, their exports beside each other, and what a later try may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.exceptions import DicomExportDuplicateRiskError, DicomExportOperationFailedError
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.selection.filter_file import stored_filter
from airflow_provider_dicom.selection.volume import Volume
from rig.dicom_files import Uids, upload_copies
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")

STUDY = "1.2.826.0.1.5"


def uids(*numbers: int) -> list[Uids]:
    return [Uids(STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}") for number in numbers]


@pytest.fixture
def arrive(healthcare: HealthcareEmulator, store: DicomStoreName) -> Callable[..., None]:
    """Stores instances with these numbers."""

    def store_instances(*numbers: int) -> None:
        upload_copies(healthcare.url, str(store), uids(*numbers))

    return store_instances


@pytest.fixture
def select(where: dict[str, Any], bucket: str) -> Callable[..., list[str]]:
    """Selects all instances, two in each part, and returns the parts."""

    def run(try_number: int = 1) -> list[str]:
        task = DicomStoreSearchOperator(
            task_id="select",
            filter_uri=f"gs://{bucket}/f.txt",
            level="instances",
            max_paths_per_file=2,
            **where,
        )
        result = TaskRun(try_number=try_number).run(task)
        assert result["filter_uri"] == f"gs://{bucket}/f.txt"
        uris: list[str] = result["filter_uris"]
        return uris

    return run


def paths(*numbers: int) -> bytes:
    return "".join(f"{one.path}\n" for one in uids(*numbers)).encode()


def test_selection_is_split_in_order_and_written_as_a_whole_as_well(
    arrive: Callable[..., None],
    select: Callable[..., list[str]],
    bucket: str,
    storage: StorageEmulator,
    anonymous: str,
) -> None:
    arrive(1, 2, 3, 4, 5)
    parts = [f"gs://{bucket}/f-0000{number}-of-00003.txt" for number in range(3)]
    assert select() == parts
    assert storage.read(bucket, "f.txt") == paths(1, 2, 3, 4, 5)
    contents = [storage.read(bucket, uri.rpartition("/")[2]) for uri in parts]
    assert contents == [paths(1, 2), paths(3, 4), paths(5)]
    stored = stored_filter(parts[2], gcp_conn_id=anonymous, impersonation_chain=None)
    assert (stored.volume, stored.is_split_anew) == (Volume(paths=1), False)


def test_later_try_that_selects_the_same_leaves_the_parts_as_they_are(
    arrive: Callable[..., None], select: Callable[..., list[str]], bucket: str, storage: StorageEmulator
) -> None:
    arrive(1, 2, 3)
    first = select()
    before = storage.generations(bucket, "f-")
    assert select(try_number=2) == first
    assert storage.generations(bucket, "f-") == before


def test_later_try_that_selects_something_else_does_not_touch_the_earlier_parts(
    arrive: Callable[..., None],
    select: Callable[..., list[str]],
    bucket: str,
    storage: StorageEmulator,
    anonymous: str,
) -> None:
    arrive(1, 2, 4)
    select()
    before = storage.generations(bucket, "f-")
    # As many parts as before, but the second one has another content.
    arrive(3)
    anew = select(try_number=2)
    assert anew == [f"gs://{bucket}/f-try2-0000{number}-of-00002.txt" for number in range(2)]
    after = storage.generations(bucket, "f-")
    assert before.items() <= after.items()
    assert [storage.read(bucket, uri.rpartition("/")[2]) for uri in anew] == [paths(1, 2), paths(3, 4)]
    assert all(
        stored_filter(uri, gcp_conn_id=anonymous, impersonation_chain=None).is_split_anew for uri in anew
    )
    assert select(try_number=3) == anew
    assert storage.generations(bucket, "f-") == after


@pytest.fixture
def table(bigquery: BigQueryEmulator, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a table that does not exist yet."""
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    dataset = bucket.replace("-", "_")
    bigquery.create_dataset("test-project", dataset)
    return f"bq://test-project.{dataset}.t"


def rows_of(bigquery: BigQueryEmulator, table: str) -> list[str]:
    name = table.removeprefix("bq://")
    rows = bigquery.query("test-project", f"SELECT SOPInstanceUID FROM `{name}` ORDER BY 1")
    return [row[0] for row in rows]


def instances_of(*numbers: int) -> list[str]:
    return [one.instance for one in uids(*numbers)]


def test_parts_append_to_one_table_and_a_part_in_doubt_stops_alone(
    arrive: Callable[..., None],
    select: Callable[..., list[str]],
    operator: ExportOperatorFactory,
    table: str,
    bigquery: BigQueryEmulator,
    control: Control,
) -> None:
    arrive(1, 2, 3, 4, 5)
    runs = [TaskRun(map_index=index) for index in range(3)]
    tasks = [
        operator(destination=table, write_disposition="WRITE_APPEND", filter_uri=uri) for uri in select()
    ]
    runs[0].run(tasks[0])
    # The second part writes rows of its first instance, and fails.
    control.settings(operation_error={"code": 13, "message": "internal"})
    with pytest.raises(DicomExportOperationFailedError):
        runs[1].run(tasks[1])
    control.settings(operation_error=None)
    runs[2].run(tasks[2])
    runs[1].begin_next_try()
    with pytest.raises(DicomExportDuplicateRiskError, match="Nothing was submitted again"):
        runs[1].run(tasks[1])
    rows = rows_of(bigquery, table)
    assert {*instances_of(1, 2, 5)} <= {*rows}
    assert len(rows) == len({*rows})
    # The parts that are not in doubt return their results when they are cleared.
    for index in (0, 2):
        runs[index].begin_next_try()
        assert runs[index].run(tasks[index])["state"] == "SUCCEEDED"
    assert rows_of(bigquery, table) == rows


def test_parts_of_a_selection_that_was_split_anew_are_not_appended(
    arrive: Callable[..., None],
    select: Callable[..., list[str]],
    operator: ExportOperatorFactory,
    table: str,
    bigquery: BigQueryEmulator,
) -> None:
    def export(uri: str, **changes: Any) -> Any:
        return operator(destination=table, write_disposition="WRITE_APPEND", filter_uri=uri, **changes)

    arrive(1, 2, 4)
    runs = [TaskRun(map_index=index) for index in range(2)]
    for run, uri in zip(runs, select(), strict=True):
        run.run(export(uri))
    before = rows_of(bigquery, table)
    arrive(3, 5)
    anew = select(try_number=2)
    assert len(anew) == 3
    for run, uri in zip(runs, anew, strict=False):
        run.begin_next_try()
        with pytest.raises(DicomExportDuplicateRiskError, match="another request for the same destination"):
            run.run(export(uri))
    # The list is longer than before: the new part has no earlier try, and knows nothing of the others.
    new = TaskRun(map_index=2)
    with pytest.raises(DicomExportDuplicateRiskError, match="had split in another way"):
        new.run(export(anew[2]))
    assert rows_of(bigquery, table) == before == instances_of(1, 2, 4)
    # On purpose, and to a table that is written anew.
    assert new.run(export(anew[2], durable=False))["success"] == 1
    overwritten = operator(destination=f"{table}_2", write_disposition="WRITE_TRUNCATE", filter_uri=anew[2])
    assert TaskRun(map_index=2).run(overwritten)["success"] == 1


def test_part_with_a_table_of_its_own_can_always_be_repeated(
    arrive: Callable[..., None],
    select: Callable[..., list[str]],
    operator: ExportOperatorFactory,
    table: str,
    bigquery: BigQueryEmulator,
    control: Control,
) -> None:
    arrive(1, 2, 3)
    first, second = (
        (
            TaskRun(map_index=index),
            operator(destination=f"{table}_{index}", write_disposition="WRITE_TRUNCATE", filter_uri=uri),
        )
        for index, uri in enumerate(select())
    )
    control.settings(operation_error={"code": 13, "message": "internal"})
    with pytest.raises(DicomExportOperationFailedError):
        first[0].run(first[1])
    control.settings(operation_error=None)
    first[0].begin_next_try()
    for run, task in (first, second):
        run.run(task)
    assert rows_of(bigquery, f"{table}_0") == instances_of(1, 2)
    assert rows_of(bigquery, f"{table}_1") == instances_of(3)
