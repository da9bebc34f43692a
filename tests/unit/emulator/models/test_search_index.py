"""The index of searches finds all that a scan finds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers import qido
from airflow_provider_dicom.emulator.models import dicom_files, search, search_index
from airflow_provider_dicom.emulator.models.archive import Archive
from airflow_provider_dicom.emulator.models.dicom_files import SERIES_TAGS, STUDY_TAGS
from airflow_provider_dicom.emulator.names import WHOLE_STORE, ResourcePath
from rig.dicom_files import sample_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_dicom.emulator.models.dicom_files import Attributes
    from airflow_provider_dicom.emulator.models.search import Level

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
OTHER = f"{STORE}-other"
#: Values of each attribute that are searched for.
MOST_VALUES = 6
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def fill(archive: Archive, store: str) -> None:
    archive.create_dataset("projects/p/locations/l/datasets/d", {})
    archive.create_store(store, {})
    for path in sample_files():
        copy = archive.incoming / path.name
        shutil.copyfile(path, copy)
        archive.add(store, copy, dicom_files.read(copy))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive with pydicom's files."""
    archive = Archive.open(tmp_path_factory.mktemp("archive"))
    fill(archive, STORE)
    yield archive
    archive.close()


def candidates(archive: Archive, query: qido.Query, *, indexed: bool) -> list[Attributes]:
    conditions = qido.conditions(query) if indexed else []
    found = search.candidates(archive.database, query.level, STORE, query.below, conditions)
    return list(found)


def required(archive: Archive, tag: str) -> set[str]:
    """Values to search for: each one that an attribute has, its beginning, and in other letters."""
    everything = search.candidates(archive.database, "instances", STORE, WHOLE_STORE, [])
    values = {
        text
        for attributes in everything
        for value in attributes.get(tag, {}).get("Value", [])
        if not isinstance(value, list | dict) or tag != "00400275"
        for text in search_index.texts(value)
        if text
    }
    return values | {f"{value[:2]}*" for value in values} | {value.swapcase() for value in values}


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
def test_search_by_the_index_finds_what_a_scan_finds(filled: Archive, level: Level) -> None:
    tags = STUDY_TAGS if level == "studies" else STUDY_TAGS | SERIES_TAGS
    everything = list(search.candidates(filled.database, level, STORE, WHOLE_STORE, []))
    searches = 0
    for tag in sorted(tags):
        for value in sorted(required(filled, tag))[:MOST_VALUES]:
            query = qido.Query(level, WHOLE_STORE, {tag: [value]}, None, 5000, 0, any_search=True)
            try:
                scanned = list(qido.run(query, everything))
            except ApiError:
                continue
            assert list(qido.run(query, candidates(filled, query, indexed=True))) == scanned, (tag, value)
            searches += bool(scanned)
    assert searches > 50


@pytest.mark.parametrize("keyword", ["PatientID", *UIDS, "ModalitiesInStudy"])
def test_search_reads_only_studies_that_may_match(filled: Archive, keyword: str) -> None:
    level: Level = "studies" if keyword == "ModalitiesInStudy" else "instances"
    file = dicom_files.read(sample_files()[0])
    tag = next(iter(dicom_files.tags(keyword)))
    value = "MR" if keyword == "ModalitiesInStudy" else file.attributes[tag]["Value"][0]
    query = qido.Query(level, WHOLE_STORE, {tag: [value]}, None, 5000, 0, any_search=True)
    read = candidates(filled, query, indexed=True)
    assert 0 < len(read) < len(candidates(filled, query, indexed=False)) / 3


def test_filter_that_an_absent_attribute_meets_is_left_to_the_scan(filled: Archive) -> None:
    absent = search_index.Condition("00100020", lambda values: not values)
    every_study = search_index.studies(filled.database, STORE, [])
    assert len(every_study) > 10
    assert search_index.studies(filled.database, STORE, [absent]) == every_study


def test_data_of_an_earlier_version_gets_an_index(tmp_path: Path) -> None:
    archive = Archive.open(tmp_path)
    fill(archive, STORE)
    before = archive.database.rows("SELECT * FROM search_index")
    with archive.database.transaction() as connection:
        connection.execute("DELETE FROM search_index")
        connection.execute("PRAGMA user_version = 0")
    archive.close()
    archive = Archive.open(tmp_path)
    assert archive.database.rows("SELECT * FROM search_index") == before
    archive.close()


def test_deleted_studies_leave_the_index(archive: Archive) -> None:
    fill(archive, STORE)
    uids = dicom_files.read(sample_files()[0])
    archive.delete_instances(STORE, ResourcePath(uids.study_uid))
    rows = archive.database.rows("SELECT DISTINCT study FROM search_index")
    assert rows
    assert (uids.study_uid,) not in rows
    archive.delete_store(STORE)
    assert archive.database.rows("SELECT * FROM search_index") == []
