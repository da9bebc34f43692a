"""Operations: their form in the API, their pages, and what a restart reads from disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, Operations

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive

DATASET = "projects/p/locations/l/datasets/d"
STORE = f"{DATASET}/dicomStores/s"
BIGQUERY: JsonObject = {"bigqueryDestination": {"tableUri": "bq://p.d.t"}}


async def test_operations_read_from_disk_are_the_same(archive: Archive) -> None:
    operations = Operations(archive.database)
    kept = operations.create(EXPORT_METHOD, STORE, BIGQUERY)
    kept.success, kept.failure = 3, 1
    kept.log_failure("1.2", "/studies/1.2", 3, "why")
    await operations.finish(kept, response={"@type": "x"})
    gone = operations.create(EXPORT_METHOD, STORE, BIGQUERY)
    gone.vanished = True
    await operations.save(gone)
    operations.close()
    again = Operations(archive.database)
    assert again.get(kept.name) == kept
    assert again.get(kept.name).encoded() == kept.encoded()
    with pytest.raises(ApiError):
        again.get(gone.name)
    assert again.create(EXPORT_METHOD, STORE, {}).id > gone.id
    again.close()


async def test_pages_of_operations_stay_stable_while_more_arrive(archive: Archive) -> None:
    operations = Operations(archive.database)
    made = [operations.create(EXPORT_METHOD, STORE, {}) for _ in range(4)]
    page, before = operations.page(DATASET, before=None, size=2, done=None)
    assert page == made[:1:-1]
    operations.create(EXPORT_METHOD, STORE, {})
    page, before = operations.page(DATASET, before=before, size=2, done=None)
    assert page == made[1::-1]
    assert before is None
    assert operations.page(f"{DATASET}2", before=None, size=2, done=None) == ([], None)
    operations.close()


async def test_counters_of_zero_are_omitted(archive: Archive) -> None:
    operations = Operations(archive.database)
    operation = operations.create(EXPORT_METHOD, STORE, {})
    assert "counter" not in operation.body()["metadata"]
    operation.pending = 5_000_000_000
    assert operation.body()["metadata"]["counter"] == {"pending": "5000000000"}
    assert "done" not in operation.body()
    operations.close()


@pytest.mark.parametrize("cancelled_before", [False, True])
async def test_operation_cancelled_while_it_ends_is_done_on_disk(
    archive: Archive, cancelled_before: bool
) -> None:
    operations = Operations(archive.database)
    operation = operations.create(EXPORT_METHOD, STORE, BIGQUERY)
    operation.cancel_requested = cancelled_before
    ending = asyncio.create_task(operations.finish(operation, response={}))
    await asyncio.sleep(0)
    operation.cancel_requested = True
    await operations.save(operation)
    await ending
    operations.close()
    again = Operations(archive.database)
    assert again.get(operation.name) == operation
    assert again.get(operation.name).done
    again.close()


def log_query(address: object) -> list[str]:
    """Return the lines of the log query in an address."""
    parts = urlsplit(str(address))
    assert (parts.netloc, parts.query) == ("console.cloud.google.com", "project=p")
    return unquote(parts.path.removeprefix("/logs/query;query=")).split("\n")


async def test_logs_are_found_by_full_name_labels_of_the_store_and_times(
    archive: Archive,
) -> None:
    operations = Operations(archive.database)
    operation = operations.create(EXPORT_METHOD, STORE, {})
    operation.create_time = "2026-01-02T02:00:00.500000Z"
    running = [
        'resource.type="healthcare_dicom_store"',
        'resource.labels.project_id="p"',
        'resource.labels.location="l"',
        'resource.labels.dataset_id="d"',
        'resource.labels.dicom_store_id="s"',
        f'operation.id:"{operation.name}"',
        'timestamp>="2026-01-02T02:00:00.500000Z"',
    ]
    assert log_query(operation.body()["metadata"]["logsUrl"]) == running
    operation.end_time = "2026-01-02T23:55:00.250000Z"
    ended = [*running, 'timestamp<="2026-01-03T00:05:00.250000Z"']
    assert log_query(operation.body()["metadata"]["logsUrl"]) == ended
    operations.close()


async def test_logs_of_an_operation_on_a_dataset_have_no_label_of_a_store(archive: Archive) -> None:
    operations = Operations(archive.database)
    operation = operations.create("DatasetService.CreateDataset", DATASET, {})
    query = log_query(operation.body()["metadata"]["logsUrl"])
    assert query[0] == 'resource.type="healthcare_dataset"'
    assert not any("dicom_store" in line for line in query)
    operations.close()
