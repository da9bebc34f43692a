"""What is on disk, and what a restarted server makes of it."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.data import get_testdata_file

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models import dicom_files
from airflow_provider_dicom.emulator.models.archive import Archive, ResourcePath
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, Operations, State
from airflow_provider_dicom.emulator.server.state import Limits, ServerState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.emulator.server.discovery import JsonObject

DATASET = "projects/p/locations/l/datasets/d"
STORE = f"{DATASET}/dicomStores/s"
BIGQUERY: JsonObject = {"bigqueryDestination": {"tableUri": "bq://p.d.t"}}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive.open(tmp_path)
    yield archive
    archive.close()


async def test_output_that_may_be_visible_already_is_not_made_so_again(tmp_path: Path) -> None:
    before = ServerState.open(tmp_path, Limits())
    before.archive.create_store(STORE, {})
    operation = before.operations.create(EXPORT_METHOD, STORE, BIGQUERY)
    operation.state = State.CLOSING
    await before.operations.save(operation)
    await before.close()

    after = ServerState.open(tmp_path, Limits())
    await after.runner.recover()
    recovered = after.operations.get(operation.name)
    assert recovered.done
    assert recovered.error == {
        "code": 14,
        "message": "The server stopped while it made the output visible.",
    }
    await after.close()


async def test_an_export_that_makes_no_sense_any_more_ends(tmp_path: Path) -> None:
    before = ServerState.open(tmp_path, Limits())
    request: JsonObject = {"gcsDestination": {"uriPrefix": "gone://b"}}
    operation = before.operations.create(EXPORT_METHOD, STORE, request)
    await before.operations.save(operation)
    await before.close()
    after = ServerState.open(tmp_path, Limits())
    await after.runner.recover()
    error = after.operations.get(operation.name).error
    assert error is not None
    assert error["code"] == 3
    await after.close()


async def test_operations_come_back_as_they_were(tmp_path: Path, archive: Archive) -> None:
    operations = Operations(archive.database)
    kept = operations.create(EXPORT_METHOD, STORE, BIGQUERY)
    kept.success, kept.failure = 3, 1
    kept.note("1.2", "why")
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


async def test_zeros_are_left_out(archive: Archive) -> None:
    operations = Operations(archive.database)
    operation = operations.create(EXPORT_METHOD, STORE, {})
    assert "counter" not in operation.body()["metadata"]
    operation.pending = 5_000_000_000
    assert operation.body()["metadata"]["counter"] == {"pending": "5000000000"}
    assert "done" not in operation.body()
    operations.close()


def _add(archive: Archive, name: str, store: str = STORE) -> dicom_files.DicomFile:
    source = get_testdata_file(name)
    assert isinstance(source, str)
    upload = archive.incoming / name
    with open(source, "rb") as original:  # noqa: PTH123
        upload.write_bytes(original.read())
    file = dicom_files.read(upload)
    archive.add(store, upload, file)
    return file


def test_a_store_that_is_deleted_leaves_nothing(archive: Archive) -> None:
    archive.create_store(STORE, {})
    _add(archive, "CT_small.dcm")
    assert list(archive.files.iterdir())
    archive.delete_store(STORE)
    assert not list(archive.files.iterdir())
    archive.create_store(STORE, {})
    assert list(archive.study_attributes(STORE, ResourcePath())) == []
    archive.delete_dataset(DATASET)
    with pytest.raises(ApiError):
        archive.store(STORE)


def test_an_upload_to_a_store_that_is_gone_is_refused(archive: Archive) -> None:
    with pytest.raises(ApiError, match="does not exist"):
        _add(archive, "CT_small.dcm")
    assert not list(archive.files.iterdir())


def test_what_was_not_stored_is_swept_away(tmp_path: Path) -> None:
    first = Archive.open(tmp_path)
    (first.incoming / "half").write_bytes(b"x")
    first.close()
    second = Archive.open(tmp_path)
    assert not list(second.incoming.iterdir())
    second.close()


def test_uploads_side_by_side(archive: Archive) -> None:
    archive.create_store(STORE, {})

    async def all_at_once() -> None:
        names = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm")
        await asyncio.gather(*(asyncio.to_thread(_add, archive, name) for name in names))

    asyncio.run(all_at_once())
    assert archive.metrics(STORE)["instances"] == 4


def test_files_read_side_by_side_leave_pydicoms_settings_alone() -> None:
    path = Path(str(get_testdata_file("CT_small.dcm")))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(dicom_files.read, [path] * 64))
    finally:
        sys.setswitchinterval(before)
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN


def test_attributes_in_batches(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.create_store(STORE, {})
    files = [_add(archive, name) for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm")]
    expected = sorted(file.instance_uid for file in files)
    for size in (1, 2, 3, 4, 5):
        monkeypatch.setattr("airflow_provider_dicom.emulator.models.archive._BATCH", size)
        found = archive.instance_attributes(STORE, ResourcePath())
        assert sorted(attributes["00080018"]["Value"][0] for attributes in found) == expected


def test_attributes_without_bulk_data(archive: Archive) -> None:
    archive.create_store(STORE, {})
    file = _add(archive, "CT_small.dcm")
    assert "7FE00010" not in file.attributes
    assert file.attributes["00280010"] == {"vr": "US", "Value": [128]}
    (stored,) = archive.instance_attributes(STORE, ResourcePath(file.study_uid))
    assert stored == file.attributes
