"""dicomweb-client: all of its transactions that are not for viewers, and an honest 501 for those."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydicom import Dataset, dcmread
from requests import HTTPError

from rig.dicom_files import as_uploaded, sample_files, uids_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomweb_client import DICOMwebClient

    from rig.dicom_files import Uids

    Samples = tuple[str, list[Uids]]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STORED = (("application/dicom", "*"),)
BIG_ENDIAN = "1.2.840.10008.1.2.2"
CT = next(path for path in sample_files() if path.name == "CT_small.dcm")
MR = next(path for path in sample_files() if path.name == "MR_small.dcm")


def values(found: list[dict[str, dict[str, list[str]]]], tag: str) -> list[str]:
    return [one[tag]["Value"][0] for one in found]


def test_store_search_retrieve_and_delete(client: DICOMwebClient) -> None:
    answer = client.store_instances([dcmread(CT), dcmread(MR)])
    assert len(answer.ReferencedSOPSequence) == 2
    studies = client.search_for_studies()
    assert sorted(values(studies, "0020000D")) == sorted(uids_of(path).study for path in (CT, MR))
    ct = uids_of(CT)
    assert client.retrieve_instance(*ct, media_types=STORED) == dcmread(CT)
    client.delete_instance(*ct)
    client.delete_series(uids_of(MR).study, uids_of(MR).series)
    assert client.search_for_instances() == []
    client.store_instances([dcmread(CT)], study_instance_uid=ct.study)
    client.delete_study(ct.study)
    assert client.search_for_studies() == []


def test_searches_at_each_level_have_pages(reader: DICOMwebClient, samples: Samples) -> None:
    uids = samples[1]
    everything = reader.search_for_instances(limit=7, get_remaining=True)
    assert sorted(values(everything, "00080018")) == sorted(uid.instance for uid in uids)
    first, second = (reader.search_for_instances(limit=5, offset=offset) for offset in (0, 5))
    assert first + second == everything[:10]
    assert len(reader.search_for_series()) == len({uid.series for uid in uids})
    assert len(reader.search_for_studies()) == len({uid.study for uid in uids})
    one = uids[0]
    inside = [uid for uid in uids if uid.study == one.study]
    assert len(reader.search_for_instances(study_instance_uid=one.study)) == len(inside)
    assert len(reader.search_for_series(study_instance_uid=one.study)) == len({uid.series for uid in inside})
    assert len(reader.search_for_instances(one.study, one.series)) == len(
        [uid for uid in inside if uid.series == one.series]
    )


@pytest.mark.parametrize(
    ("level", "filters"),
    [
        ("studies", {"PatientID": "1CT1"}),
        ("studies", {"PatientName": "CompressedSamples^CT1"}),
        ("studies", {"StudyDate": "20040119"}),
        ("studies", {"StudyDate": "20040101-20040131"}),
        ("series", {"Modality": "CT"}),
        ("instances", {"PatientID": "1CT1", "Modality": "CT"}),
        ("instances", {"SOPInstanceUID": uids_of(CT).instance}),
    ],
)
def test_filters_find_the_instance(reader: DICOMwebClient, level: str, filters: dict[str, str]) -> None:
    searches: dict[str, Callable[..., list[dict[str, dict[str, list[str]]]]]] = {
        "studies": reader.search_for_studies,
        "series": reader.search_for_series,
        "instances": reader.search_for_instances,
    }
    search = searches[level]
    found = search(search_filters=filters)
    assert uids_of(CT).study in values(found, "0020000D")
    assert search(search_filters={"PatientID": "nobody"}) == []


def test_fields_are_included(reader: DICOMwebClient) -> None:
    filters = {"SOPInstanceUID": uids_of(CT).instance}
    (bare,) = reader.search_for_instances(search_filters=filters)
    assert "00081030" not in bare
    (found,) = reader.search_for_studies(
        fields=["StudyDescription"], search_filters={"StudyInstanceUID": uids_of(CT).study}
    )
    assert Dataset.from_json(found).StudyDescription == dcmread(CT).StudyDescription


def test_studies_series_and_instances_are_retrieved_whole(reader: DICOMwebClient, samples: Samples) -> None:
    one = uids_of(next(path for path in sample_files() if "DICOMDIR" not in path.name))
    inside = {uid.instance for uid in samples[1] if uid.study == one.study}
    assert {ds.SOPInstanceUID for ds in reader.retrieve_study(one.study, media_types=STORED)} == inside
    assert {ds.SOPInstanceUID for ds in reader.iter_study(one.study, media_types=STORED)} == inside
    series = {uid.instance for uid in samples[1] if uid[:2] == one[:2]}
    assert {ds.SOPInstanceUID for ds in reader.retrieve_series(*one[:2], media_types=STORED)} == series
    assert {ds.SOPInstanceUID for ds in reader.iter_series(*one[:2], media_types=STORED)} == series


def test_every_sample_is_retrieved_as_it_was_stored(reader: DICOMwebClient) -> None:
    for path in sample_files():
        stored = dcmread(path)
        retrieved = reader.retrieve_instance(*uids_of(path), media_types=STORED)
        assert retrieved.file_meta.TransferSyntaxUID == stored.file_meta.TransferSyntaxUID, path.name
    syntax = dcmread(CT).file_meta.TransferSyntaxUID
    retrieved = reader.retrieve_instance(*uids_of(CT), media_types=(("application/dicom", syntax),))
    assert retrieved == dcmread(CT)
    assert as_uploaded(CT)


def test_metadata_is_that_of_the_files(reader: DICOMwebClient, samples: Samples) -> None:
    one = uids_of(CT)
    metadata = Dataset.from_json(reader.retrieve_instance_metadata(*one))
    header = dcmread(CT, stop_before_pixels=True)
    for keyword in ("PatientName", "StudyDate", "Modality", "Rows", "ImageOrientationPatient"):
        assert metadata[keyword] == header[keyword]
    assert len(reader.retrieve_series_metadata(*one[:2])) == len(
        [uid for uid in samples[1] if uid[:2] == one[:2]]
    )
    assert len(reader.retrieve_study_metadata(one.study)) == len(
        [uid for uid in samples[1] if uid.study == one.study]
    )


VIEWERS: dict[str, Callable[[DICOMwebClient], object]] = {
    "frames": lambda client: client.retrieve_instance_frames(*uids_of(CT), frame_numbers=[1]),
    "rendered frames": lambda client: client.retrieve_instance_frames_rendered(
        *uids_of(CT), frame_numbers=[1], media_types=("image/png",)
    ),
    "rendered instance": lambda client: client.retrieve_instance_rendered(
        *uids_of(CT), media_types=("image/png",)
    ),
}


@pytest.mark.parametrize("name", VIEWERS)
def test_what_viewers_need_is_not_implemented(reader: DICOMwebClient, name: str) -> None:
    reader.set_http_retry_params(retry=False)
    with pytest.raises(HTTPError) as refused:
        VIEWERS[name](reader)
    assert refused.value.response.status_code == 501
