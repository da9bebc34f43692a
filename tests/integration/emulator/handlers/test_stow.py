"""dicomweb-client stores, finds and retrieves pydicom's own files."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from requests import HTTPError

from rig.dicom_files import as_uploaded, create_store, sample_files, uids_of, upload
from rig.servers import loopback_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from rig.servers import HealthcareEmulator

SAMPLES_STORE = "projects/dicomweb/locations/l/datasets/d/dicomStores/samples"
BOUNDARY = "tests-boundary"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@pytest.fixture(scope="module")
def samples(healthcare: HealthcareEmulator) -> Iterator[DICOMwebClient]:
    """A store with all of pydicom's files."""
    create_store(healthcare.url, SAMPLES_STORE)
    upload(healthcare.url, SAMPLES_STORE, sample_files())
    with loopback_session() as session:
        yield DICOMwebClient(f"{healthcare.url}/v1/{SAMPLES_STORE}/dicomWeb", session=session)


@pytest.fixture
def url(healthcare: HealthcareEmulator, dicom_store: str) -> str:
    """The DICOMweb address of an empty store."""
    return f"{healthcare.url}/v1/{dicom_store}/dicomWeb"


@pytest.fixture(scope="module")
def headers() -> list[Dataset]:
    """The attributes of pydicom's files, read by pydicom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [dcmread(path, stop_before_pixels=True) for path in sample_files()]


def _values(found: list[dict[str, Any]], tag: str) -> set[str]:
    return {attributes[tag]["Value"][0] for attributes in found}


def _studies(headers: list[Dataset], **wanted: str) -> set[str]:
    return {
        str(header.StudyInstanceUID)
        for header in headers
        if all(str(header.get(keyword)) == value for keyword, value in wanted.items())
    }


# ---------------------------------------------------------------------------------------------------------
# Searches


def test_searches_find_everything(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    studies = {header.StudyInstanceUID for header in headers}
    assert _values(samples.search_for_studies(), "0020000D") == studies
    series = {header.SeriesInstanceUID for header in headers}
    assert _values(samples.search_for_series(), "0020000E") == series
    instances = {header.SOPInstanceUID for header in headers}
    assert _values(samples.search_for_instances(), "00080018") == instances


def test_what_the_server_counts(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    for found in samples.search_for_studies():
        of_study = [header for header in headers if found["0020000D"]["Value"] == [header.StudyInstanceUID]]
        assert found["00201208"]["Value"] == [len(of_study)]
        assert found["00201206"]["Value"] == [len({header.SeriesInstanceUID for header in of_study})]
        modalities = {header.Modality for header in of_study if header.get("Modality")}
        assert set(found["00080061"].get("Value", [])) == modalities
        sop_classes = {header.SOPClassUID for header in of_study}
        assert set(found["00080062"]["Value"]) == sop_classes
    (series,) = samples.search_for_series(search_filters={"SeriesInstanceUID": headers[1].SeriesInstanceUID})
    assert series["00201209"]["Value"] == [1]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"PatientID": "98890234"}, {"PatientID": "98890234"}),
        ({"00100020": "98890234"}, {"PatientID": "98890234"}),
        ({"PatientName": "Doe^P*"}, {"PatientName": "Doe^Peter"}),
        ({"PatientName": "doe^peter"}, {"PatientName": "Doe^Peter"}),
        ({"PatientName": "Doe^?eter"}, {"PatientName": "Doe^Peter"}),
        ({"StudyDate": "20040826"}, {"StudyDate": "20040826"}),
        ({"StudyDate": "20200101-20201231"}, {"StudyDate": "20200913"}),
        ({"StudyDate": "20191020-"}, {"StudyDate": "20200913"}),
        ({"StudyDate": "-19950903"}, {"StudyDate": "19950903"}),
        ({"StudyDate": "19970101-19971231"}, {"StudyDate": "1997.04.24"}),
        ({"StudyTime": "1440-1549", "StudyDate": "20030716"}, {"StudyDate": "20030716"}),
        ({"ModalitiesInStudy": "ECG"}, {"Modality": "ECG"}),
        (
            {"PatientID": "98890234", "StudyDate": "20010101"},
            {"PatientID": "98890234", "StudyDate": "20010101"},
        ),
    ],
)
def test_filters(
    samples: DICOMwebClient, headers: list[Dataset], filters: dict[str, str], wanted: dict[str, str]
) -> None:
    expected = _studies(headers, **wanted)
    assert expected
    assert _values(samples.search_for_studies(search_filters=filters), "0020000D") == expected


def test_filters_by_several_uids(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    uids = sorted({str(header.StudyInstanceUID) for header in headers})[:3]
    for separator in (",", "\\"):
        found = samples.search_for_studies(search_filters={"StudyInstanceUID": separator.join(uids)})
        assert _values(found, "0020000D") == set(uids)


def test_nothing_found(samples: DICOMwebClient, http: requests.Session) -> None:
    response = http.get(f"{samples.base_url}/studies", params={"PatientID": "nobody"})
    assert (response.status_code, response.content) == (204, b"")
    assert samples.search_for_studies(search_filters={"StudyDate": "20990101-"}) == []


def test_searches_within_a_study_and_a_series(samples: DICOMwebClient, headers: list[Dataset]) -> None:
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


def test_pages(samples: DICOMwebClient) -> None:
    whole = samples.search_for_instances()
    pages = [samples.search_for_instances(limit=50, offset=offset) for offset in (0, 50, 100, 150)]
    assert [len(page) for page in pages] == [50, 50, len(whole) - 100, 0]
    assert [attributes for page in pages for attributes in page] == whole


def test_chosen_attributes(samples: DICOMwebClient, http: requests.Session) -> None:
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
        ("studies", {"fuzzymatching": "true"}),
    ],
)
def test_searches_that_are_refused(
    samples: DICOMwebClient, http: requests.Session, path: str, query: dict[str, str]
) -> None:
    response = http.get(f"{samples.base_url}/{path}", params=query)
    assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_the_largest_limits_are_allowed(samples: DICOMwebClient, http: requests.Session) -> None:
    for path, limit in (("studies", 5_000), ("series", 5_000), ("instances", 50_000)):
        query = {"limit": str(limit), "offset": "1000000", "fuzzymatching": "false"}
        assert http.get(f"{samples.base_url}/{path}", params=query).status_code == 204


# ---------------------------------------------------------------------------------------------------------
# Retrieval


def test_an_instance_comes_back_as_it_was_stored(samples: DICOMwebClient, http: requests.Session) -> None:
    for path in sample_files()[::10]:
        uids = uids_of(path)
        address = f"{samples.base_url}/studies/{uids.study}/series/{uids.series}/instances/{uids.instance}"
        response = http.get(address, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert response.status_code == 200
        assert response.content == as_uploaded(path)
        retrieved = samples.retrieve_instance(*uids, media_types=(("application/dicom", "*"),))
        assert retrieved.SOPInstanceUID == uids.instance


def test_a_study_and_a_series_come_back_whole(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    study = next(header for header in headers if header.get("PatientName") == "Doe^Archibald")
    inside = [header for header in headers if header.StudyInstanceUID == study.StudyInstanceUID]
    types = (("application/dicom", "*"),)
    whole = samples.retrieve_study(study.StudyInstanceUID, media_types=types)
    assert {part.SOPInstanceUID for part in whole} == {header.SOPInstanceUID for header in inside}
    series = samples.retrieve_series(study.StudyInstanceUID, study.SeriesInstanceUID, media_types=types)
    assert {part.SeriesInstanceUID for part in series} == {study.SeriesInstanceUID}


def test_an_instance_is_transcoded_when_asked(samples: DICOMwebClient) -> None:
    path = next(path for path in sample_files() if path.name == "examples_jpeg2k.dcm")
    expected = dcmread(path).pixel_array
    for types in ((("application/dicom", EXPLICIT_LITTLE_ENDIAN),), ("application/dicom",)):
        plain = samples.retrieve_instance(*uids_of(path), media_types=types)
        assert plain.file_meta.TransferSyntaxUID == EXPLICIT_LITTLE_ENDIAN
        assert (plain.pixel_array == expected).all()


def test_metadata(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    header = next(header for header in headers if header.get("PatientID") == "1CT1")
    uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
    (metadata,) = [samples.retrieve_instance_metadata(*uids)]
    assert metadata["00280010"]["Value"] == [header.Rows]
    assert "7FE00010" not in metadata
    assert len(samples.retrieve_study_metadata(uids[0])) == 1
    assert len(samples.retrieve_series_metadata(*uids[:2])) == 1


def test_what_cannot_be_retrieved(samples: DICOMwebClient, http: requests.Session) -> None:
    assert http.get(f"{samples.base_url}/studies/1.2.3").status_code == 404
    uids = uids_of(sample_files()[0])
    study = f"{samples.base_url}/studies/{uids.study}"
    assert http.get(study, headers={"Accept": "image/png"}).status_code == 406
    assert http.get(f"{study}/series/{uids.series}/instances/{uids.instance}/frames/1").status_code == 501


def test_deletion(healthcare: HealthcareEmulator, dicom_store: str, url: str, http: requests.Session) -> None:
    uploaded = upload(
        healthcare.url, dicom_store, [p for p in sample_files() if p.name.startswith("IM00000")]
    )
    first = uploaded[0]
    series = f"{url}/studies/{first.study}/series/{first.series}"
    assert http.delete(f"{series}/instances/{first.instance}").json() == {}
    assert http.delete(f"{series}/instances/{first.instance}").status_code == 404
    left = http.get(f"{url}/instances").json()
    assert len(left) == len(uploaded) - 1
    operation = http.delete(f"{url}/studies/{first.study}").json()
    assert operation["done"]
    assert operation["metadata"]["counter"] == {"success": str(len(left))}
    assert http.get(f"{healthcare.url}/v1/{operation['name']}").json() == operation
    assert http.get(f"{url}/studies").status_code == 204
    assert http.get(f"{url}/series").status_code == 204


# ---------------------------------------------------------------------------------------------------------
# Uploads


def _multipart(*parts: bytes, kind: str = "application/dicom", end: bool = True) -> bytes:
    body = b"".join(
        b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (BOUNDARY.encode(), kind.encode(), p) for p in parts
    )
    return body + (b"--%s--\r\n" % BOUNDARY.encode() if end else b"")


def _store(
    http: requests.Session, url: str, body: Any, *, study: str = "", kind: str | None = None
) -> requests.Response:
    content_type = kind or f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    place = f"{url}/studies/{study}" if study else f"{url}/studies"
    return http.post(place, data=body, headers={"Content-Type": content_type})


def _count(http: requests.Session, url: str) -> int:
    response = http.get(f"{url}/instances")
    return len(response.json()) if response.status_code == 200 else 0


def _failures(response: requests.Response) -> list[str]:
    answer = Dataset.from_json(response.json())
    assert [item.FailureReason for item in answer.FailedSOPSequence] == [272] * len(answer.FailedSOPSequence)
    return [str(item.private_block(0x0009, "GOOGLE")[0x97].value) for item in answer.FailedSOPSequence]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return [path for path in sample_files() if path.name in ("CT_small.dcm", "MR_small.dcm")]


def test_all_stored(http: requests.Session, url: str, files: list[Path]) -> None:
    response = _store(http, url, _multipart(*(path.read_bytes() for path in files)))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"
    answer = Dataset.from_json(response.json())
    assert "FailedSOPSequence" not in answer
    for item, path in zip(answer.ReferencedSOPSequence, files, strict=True):
        uids = uids_of(path)
        assert item.ReferencedSOPInstanceUID == uids.instance
        assert http.get(
            item.RetrieveURL, headers={"Accept": "application/dicom; transfer-syntax=*"}
        ).content == (path.read_bytes())


def test_some_stored(http: requests.Session, url: str, files: list[Path]) -> None:
    good = files[0].read_bytes()
    without_uid = dcmread(files[1])
    del without_uid.StudyInstanceUID
    buffer = BytesIO()
    without_uid.save_as(buffer)
    response = _store(http, url, _multipart(b"not DICOM", good, b"", buffer.getvalue(), good[:1000]))
    assert response.status_code == 202
    assert len(response.json()["00081199"]["Value"]) == 1
    assert len(_failures(response)) == 4
    assert any("StudyInstanceUID is missing" in failure for failure in _failures(response))
    assert _count(http, url) == 1


def test_none_stored(http: requests.Session, url: str) -> None:
    response = _store(http, url, _multipart(b"not DICOM"))
    assert response.status_code == 409
    assert "00081199" not in response.json()
    assert len(_failures(response)) == 1


def test_the_same_again_and_something_else_with_its_uids(
    http: requests.Session, url: str, files: list[Path]
) -> None:
    content = files[0].read_bytes()
    assert _store(http, url, _multipart(content)).status_code == 200
    assert _store(http, url, _multipart(content)).status_code == 200
    assert _count(http, url) == 1
    changed = dcmread(files[0])
    changed.PatientName = "Somebody^Else"
    buffer = BytesIO()
    changed.save_as(buffer)
    response = _store(http, url, _multipart(buffer.getvalue()))
    assert response.status_code == 409
    assert "checksum mismatch" in _failures(response)[0]
    (study,) = http.get(f"{url}/studies").json()
    assert study["00100010"]["Value"] == [{"Alphabetic": "CompressedSamples^CT1"}]


def test_the_study_of_the_url(http: requests.Session, url: str, files: list[Path]) -> None:
    study = uids_of(files[0]).study
    response = _store(http, url, _multipart(*(path.read_bytes() for path in files)), study=study)
    assert response.status_code == 202
    assert _failures(response) == ["its StudyInstanceUID is not the one of the URL"]
    assert _count(http, url) == 1


def test_one_file_without_multipart(http: requests.Session, url: str, files: list[Path]) -> None:
    assert _store(http, url, files[0].read_bytes(), kind="application/dicom").status_code == 200
    assert _count(http, url) == 1


def test_pieces_of_any_size(http: requests.Session, url: str, files: list[Path]) -> None:
    body = _multipart(*(path.read_bytes() for path in files))
    chunks = (body[start : start + 977] for start in range(0, len(body), 977))
    assert _store(http, url, chunks).status_code == 200
    assert _count(http, url) == len(files)


def test_multipart_that_is_none(http: requests.Session, url: str, files: list[Path]) -> None:
    content = files[0].read_bytes()
    for body in (
        b"",
        b"no boundary at all",
        _multipart(content, end=False),
        _multipart(content)[:-10],
        _multipart(),
        _multipart(content).replace(b"Content-Type:", b"Content Type:"),
    ):
        response = _store(http, url, body)
        assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert _store(http, url, b"", kind='multipart/related; type="application/dicom"').status_code == 400
    assert _count(http, url) == 0


def test_types_that_cannot_be_stored(http: requests.Session, url: str, files: list[Path]) -> None:
    for kind in (
        "application/json",
        f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}',
    ):
        assert _store(http, url, b"x", kind=kind).status_code == 415
    response = _store(http, url, _multipart(files[0].read_bytes(), kind="image/png"))
    assert response.status_code == 409
    assert "image/png" in _failures(response)[0]


def test_uploads_side_by_side(
    http: requests.Session, healthcare: HealthcareEmulator, dicom_store: str, url: str
) -> None:
    paths = sample_files()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda path: upload(healthcare.url, dicom_store, [path]), paths))
    assert _count(http, url) == len(paths)


def test_answers_are_dicom_json(samples: DICOMwebClient) -> None:
    for found in (samples.search_for_studies(fields=["all"]), samples.search_for_instances(fields=["all"])):
        for attributes in found:
            assert Dataset.from_json(attributes)


def test_the_client_is_told_of_failures(url: str) -> None:
    broken = dcmread(get_testdata_file("CT_small.dcm"))
    with loopback_session() as session:
        client = DICOMwebClient(url, session=session)
        client.store_instances([broken])
        broken.PatientID = "other"
        with pytest.raises(HTTPError, match="409"):
            client.store_instances([broken])
