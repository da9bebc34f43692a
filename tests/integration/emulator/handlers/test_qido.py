"""dicomweb-client finds pydicom's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydicom import Dataset

if TYPE_CHECKING:
    import requests
    from dicomweb_client import DICOMwebClient

    from rig.control import Control


def _values(found: list[dict[str, Any]], tag: str) -> set[str]:
    return {attributes[tag]["Value"][0] for attributes in found}


def _studies(headers: list[Dataset], **wanted: str) -> set[str]:
    return {
        str(header.StudyInstanceUID)
        for header in headers
        if all(str(header.get(keyword)) == value for keyword, value in wanted.items())
    }


def test_search_without_filter_finds_everything(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    studies = {header.StudyInstanceUID for header in headers}
    assert _values(samples.search_for_studies(), "0020000D") == studies
    series = {header.SeriesInstanceUID for header in headers}
    assert _values(samples.search_for_series(), "0020000E") == series
    instances = {header.SOPInstanceUID for header in headers}
    assert _values(samples.search_for_instances(), "00080018") == instances


def test_parameters_of_all_methods_are_no_filters(samples: DICOMwebClient, http: requests.Session) -> None:
    # Google's client adds alt=json to every request.
    for parameters in ("alt=json", "prettyPrint=false&$.xgafv=2"):
        answer = http.get(f"{samples.base_url}/studies?PatientID=1CT1&{parameters}")
        assert answer.status_code == 200
        assert len(answer.json()) == 1


def test_search_returns_computed_attributes(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    computed = [
        *("NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries"),
        *("ModalitiesInStudy", "SOPClassesInStudy"),
    ]
    for found in samples.search_for_studies(fields=computed):
        of_study = [header for header in headers if found["0020000D"]["Value"] == [header.StudyInstanceUID]]
        assert found["00201208"]["Value"] == [len(of_study)]
        assert found["00201206"]["Value"] == [len({header.SeriesInstanceUID for header in of_study})]
        modalities = {header.Modality for header in of_study if header.get("Modality")}
        assert set(found["00080061"].get("Value", [])) == modalities
        sop_classes = {header.SOPClassUID for header in of_study}
        assert set(found["00080062"]["Value"]) == sop_classes
    (series,) = samples.search_for_series(
        search_filters={"SeriesInstanceUID": headers[1].SeriesInstanceUID},
        fields=["NumberOfSeriesRelatedInstances"],
    )
    assert series["00201209"]["Value"] == [1]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"PatientID": "98890234"}, {"PatientID": "98890234"}),
        ({"00100020": "98890234"}, {"PatientID": "98890234"}),
        ({"PatientName": "Doe^Peter"}, {"PatientName": "Doe^Peter"}),
        ({"PatientName": "Doe^Peter", "PatientID": "*"}, {"PatientName": "Doe^Peter"}),
        ({"StudyDate": "20040826"}, {"StudyDate": "20040826"}),
        ({"StudyDate": "20200101-20201231"}, {"StudyDate": "20200913"}),
        ({"StudyDate": "20191020-"}, {"StudyDate": "20200913"}),
        ({"StudyDate": "-19950903"}, {"StudyDate": "19950903"}),
        ({"StudyDate": "19970101-19971231"}, {"StudyDate": "1997.04.24"}),
        ({"ModalitiesInStudy": "ECG"}, {"Modality": "ECG"}),
        (
            {"PatientID": "98890234", "StudyDate": "20010101"},
            {"PatientID": "98890234", "StudyDate": "20010101"},
        ),
    ],
)
def test_search_filter_finds_the_matching_studies(
    samples: DICOMwebClient, headers: list[Dataset], filters: dict[str, str], wanted: dict[str, str]
) -> None:
    expected = _studies(headers, **wanted)
    assert expected
    assert _values(samples.search_for_studies(search_filters=filters), "0020000D") == expected


def test_search_for_a_repeated_uid_finds_each(
    samples: DICOMwebClient, headers: list[Dataset], http: requests.Session
) -> None:
    uids = sorted({str(header.StudyInstanceUID) for header in headers})[:3]
    found = http.get(f"{samples.base_url}/studies", params={"StudyInstanceUID": uids}).json()
    assert _values(found, "0020000D") == set(uids)
    # In one value, they are one UID, which nothing has.
    assert samples.search_for_studies(search_filters={"StudyInstanceUID": ",".join(uids)}) == []


def test_any_search_takes_what_googles_api_refuses(
    samples: DICOMwebClient, headers: list[Dataset], control: Control
) -> None:
    control.settings(any_search=True)
    for filters, wanted in (
        ({"PatientName": "doe^p*"}, {"PatientName": "Doe^Peter"}),
        ({"StudyTime": "1440-1549", "StudyDate": "20030716"}, {"StudyDate": "20030716"}),
    ):
        expected = _studies(headers, **wanted)
        assert _values(samples.search_for_studies(search_filters=filters), "0020000D") == expected
    uids = sorted({str(header.StudyInstanceUID) for header in headers})[:3]
    for separator in (",", "\\"):
        found = samples.search_for_studies(search_filters={"StudyInstanceUID": separator.join(uids)})
        assert _values(found, "0020000D") == set(uids)
    of_class = [header for header in headers if header.SOPClassUID == headers[0].SOPClassUID]
    found = samples.search_for_instances(search_filters={"SOPClassUID": headers[0].SOPClassUID})
    assert _values(found, "00080018") == {header.SOPInstanceUID for header in of_class}
    ecgs = {header.StudyInstanceUID for header in headers if header.get("Modality") == "ECG"}
    inside = [header for header in headers if header.StudyInstanceUID in ecgs]
    found = samples.search_for_series(search_filters={"ModalitiesInStudy": "ECG"})
    assert _values(found, "0020000E") == {header.SeriesInstanceUID for header in inside}
    found = samples.search_for_instances(search_filters={"ModalitiesInStudy": "ECG"})
    assert _values(found, "00080018") == {header.SOPInstanceUID for header in inside}


def test_search_without_results_gets_no_content(samples: DICOMwebClient, http: requests.Session) -> None:
    response = http.get(f"{samples.base_url}/studies", params={"PatientID": "nobody"})
    assert (response.status_code, response.content) == (204, b"")
    assert samples.search_for_studies(search_filters={"StudyDate": "20990101-"}) == []


def test_search_inside_a_study_or_series_finds_only_its_content(
    samples: DICOMwebClient, headers: list[Dataset]
) -> None:
    study = next(header for header in headers if header.get("PatientName") == "Citizen^Jan")
    inside = [header for header in headers if header.StudyInstanceUID == study.StudyInstanceUID]
    series = samples.search_for_series(study.StudyInstanceUID)
    assert _values(series, "0020000E") == {header.SeriesInstanceUID for header in inside}
    instances = samples.search_for_instances(study.StudyInstanceUID)
    assert _values(instances, "00080018") == {header.SOPInstanceUID for header in inside}
    instances = samples.search_for_instances(study.StudyInstanceUID, study.SeriesInstanceUID)
    assert _values(instances, "00080018") == {
        header.SOPInstanceUID for header in inside if header.SeriesInstanceUID == study.SeriesInstanceUID
    }


def test_search_pages_are_consecutive(samples: DICOMwebClient) -> None:
    whole = samples.search_for_instances()
    pages = [samples.search_for_instances(limit=50, offset=offset) for offset in (0, 50, 100, 150)]
    assert [len(page) for page in pages] == [50, 50, len(whole) - 100, 0]
    assert [attributes for page in pages for attributes in page] == whole


def test_search_returns_the_included_fields(samples: DICOMwebClient, http: requests.Session) -> None:
    wanted = {"PatientID": "77654033"}
    (study, *_) = samples.search_for_studies(search_filters=wanted)
    assert "00081030" not in study
    for fields in (["StudyDescription"], ["00081030", "PatientID"]):
        (study, *_) = samples.search_for_studies(search_filters=wanted, fields=fields)
        assert study["00081030"]["vr"] == "LO"
    everything = http.get(
        f"{samples.base_url}/instances", params={"includefield": "all", "limit": "1"}
    ).json()
    assert "00280030" in everything[0] or len(everything[0]) > 40
    assert "7FE00010" not in everything[0]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("studies", {"limit": "5001"}),
        ("studies", {"limit": "0"}),
        ("studies", {"limit": "many"}),
        ("series", {"limit": "5001"}),
        ("instances", {"limit": "50001"}),
        ("studies", {"offset": "1000001"}),
        ("studies", {"offset": "-1"}),
        ("studies", {"Colour": "red"}),
        ("studies", {"Modality": "CT"}),
        ("studies", {"includefield": "Colour"}),
        ("studies", {"StudyDate": "2020-01-01"}),
        ("studies", {"StudyDate": "-"}),
        ("studies", {"fuzzymatching": "perhaps"}),
        ("studies", {"PatientName": "Doe*"}),
        ("series", {"ModalitiesInStudy": "CT"}),
        ("instances", {"ModalitiesInStudy": "CT"}),
        ("instances", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}),
        ("instances", {"includefield": "AvailableTransferSyntaxUID"}),
    ],
)
def test_search_with_an_invalid_parameter_is_refused(
    samples: DICOMwebClient, http: requests.Session, path: str, query: dict[str, str]
) -> None:
    response = http.get(f"{samples.base_url}/{path}", params=query)
    assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_search_accepts_the_largest_limits(samples: DICOMwebClient, http: requests.Session) -> None:
    for path, limit in (("studies", 5_000), ("series", 5_000), ("instances", 50_000)):
        query = {"limit": str(limit), "offset": "1000000", "fuzzymatching": "true"}
        assert http.get(f"{samples.base_url}/{path}", params=query).status_code == 204


def test_search_results_are_valid_dicom_json(samples: DICOMwebClient) -> None:
    for found in (samples.search_for_studies(fields=["all"]), samples.search_for_instances(fields=["all"])):
        for attributes in found:
            assert Dataset.from_json(attributes)
