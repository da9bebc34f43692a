"""dicomtrolley searches with QIDO-RS and downloads with WADO-RS."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest
from dicomtrolley.core import QueryLevels
from dicomtrolley.qido_rs import HierarchicalQuery, QidoRS, RelationalQuery
from dicomtrolley.trolley import Trolley
from dicomtrolley.wado_rs import WadoRS, WadoRSMetaData
from pydicom import dcmread

from rig.dicom_files import sample_files, uids_of

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CT = next(path for path in sample_files() if path.name == "CT_small.dcm")


@pytest.fixture
def base(healthcare: HealthcareEmulator, samples: tuple[str, list[Uids]]) -> str:
    return f"{healthcare.url}/v1/{samples[0]}/dicomWeb"


@pytest.fixture
def trolley(base: str, http: requests.Session) -> Trolley:
    return Trolley(searcher=QidoRS(http, base), downloader=WadoRS(http, base))


def test_hierarchical_queries_find_the_study(trolley: Trolley) -> None:
    (study,) = trolley.find_studies(HierarchicalQuery(PatientID="1CT1"))
    assert study.uid == uids_of(CT).study
    day = datetime.date(2004, 1, 19)
    dated = trolley.find_studies(HierarchicalQuery(min_study_date=day, max_study_date=day))
    assert uids_of(CT).study in {found.uid for found in dated}
    (series,) = trolley.find_studies(
        HierarchicalQuery(StudyInstanceUID=uids_of(CT).study, query_level=QueryLevels.SERIES)
    )
    assert [one.uid for one in series.series] == [uids_of(CT).series]


def test_relational_query_finds_instances(trolley: Trolley) -> None:
    (study,) = trolley.find_studies(RelationalQuery(PatientID="1CT1", query_level=QueryLevels.INSTANCE))
    assert [one.uid for one in study.series[0].instances] == [uids_of(CT).instance]


def test_found_study_is_downloaded(trolley: Trolley, tmp_path: Path) -> None:
    study = trolley.find_study(HierarchicalQuery(PatientID="1CT1"))
    trolley.download(study, tmp_path)
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (dcmread(path).pixel_array == dcmread(CT).pixel_array).all()


def test_metadata_is_downloaded_without_pixels(base: str, http: requests.Session) -> None:
    trolley = Trolley(searcher=QidoRS(http, base), downloader=WadoRSMetaData(http, base))
    study = trolley.find_study(HierarchicalQuery(PatientID="1CT1"))
    (dataset,) = trolley.fetch_all_datasets([study])
    assert dataset.PatientID == "1CT1"
    assert "PixelData" not in dataset
