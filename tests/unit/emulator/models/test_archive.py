"""The data directory: what is stored, searched and deleted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models import dicom_files, search
from airflow_provider_dicom.emulator.models.archive import Archive
from airflow_provider_dicom.emulator.names import ResourcePath

DATASET = "projects/p/locations/l/datasets/d"
STORE = f"{DATASET}/dicomStores/s"


def _add(archive: Archive, name: str, store: str = STORE) -> dicom_files.DicomFile:
    source = get_testdata_file(name)
    assert isinstance(source, str)
    upload = archive.incoming / name
    upload.write_bytes(Path(source).read_bytes())
    file = dicom_files.read(upload)
    archive.add(store, upload, file)
    return file


def test_deleted_store_leaves_no_files_and_no_rows(archive: Archive) -> None:
    archive.create_store(STORE, {}, create_dataset=True)
    _add(archive, "CT_small.dcm")
    assert list(archive.files.iterdir())
    archive.delete_store(STORE)
    assert not list(archive.files.iterdir())
    archive.create_store(STORE, {}, create_dataset=True)
    assert list(search.candidates(archive.database, "studies", STORE, ResourcePath(), [])) == []
    archive.delete_dataset(DATASET)
    with pytest.raises(ApiError):
        archive.store(STORE)


def test_store_is_not_created_in_a_missing_dataset(archive: Archive) -> None:
    with pytest.raises(ApiError, match=f"dataset {DATASET} does not exist"):
        archive.create_store(STORE, {})
    assert not archive.has_dataset(DATASET)


def test_fields_that_an_earlier_version_stored_as_null_are_unset(archive: Archive) -> None:
    archive.create_store(STORE, {"labels": None}, create_dataset=True)
    assert archive.store(STORE) == {"name": STORE}
    assert list(archive.stores(DATASET)) == [{"name": STORE}]


def test_upload_to_a_deleted_store_is_refused(archive: Archive) -> None:
    with pytest.raises(ApiError, match="does not exist"):
        _add(archive, "CT_small.dcm")
    assert not list(archive.files.iterdir())


def test_unfinished_uploads_are_deleted_at_the_next_start(tmp_path: Path) -> None:
    first = Archive.open(tmp_path)
    (first.incoming / "half").write_bytes(b"x")
    first.close()
    second = Archive.open(tmp_path)
    assert not list(second.incoming.iterdir())
    second.close()


def test_files_stored_at_the_same_time_are_all_stored(archive: Archive) -> None:
    archive.create_store(STORE, {}, create_dataset=True)

    async def all_at_once() -> None:
        names = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm")
        await asyncio.gather(*(asyncio.to_thread(_add, archive, name) for name in names))

    asyncio.run(all_at_once())
    assert archive.metrics(STORE)["instances"] == 4


def test_search_reads_every_instance_once_whatever_the_batch_size(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.create_store(STORE, {}, create_dataset=True)
    files = [_add(archive, name) for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm")]
    expected = sorted(file.instance_uid for file in files)
    for size in (1, 2, 3, 4, 5):
        monkeypatch.setattr("airflow_provider_dicom.emulator.models.search._BATCH", size)
        found = search.candidates(archive.database, "instances", STORE, ResourcePath(), [])
        assert sorted(attributes["00080018"]["Value"][0] for attributes in found) == expected


def test_attributes_are_stored_without_bulk_data(archive: Archive) -> None:
    archive.create_store(STORE, {}, create_dataset=True)
    file = _add(archive, "CT_small.dcm")
    assert "7FE00010" not in file.attributes
    assert file.attributes["00280010"] == {"vr": "US", "Value": [128]}
    below = ResourcePath(file.study_uid)
    (stored,) = search.candidates(archive.database, "instances", STORE, below, [])
    assert stored == file.attributes
