"""Operations: their form in the API, their pages, and what a restart reads from disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

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
    kept.log_failure("1.2", "why")
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
