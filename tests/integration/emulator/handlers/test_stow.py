"""dicomweb-client and plain HTTP store pydicom's own files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from requests import HTTPError

from rig.dicom_files import sample_files, uids_of, upload
from rig.servers import loopback_session

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from rig.servers import HealthcareEmulator

BOUNDARY = "tests-boundary"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


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


def test_upload_of_valid_files_is_stored_completely(
    http: requests.Session, url: str, files: list[Path]
) -> None:
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


def test_upload_with_invalid_files_is_stored_in_part(
    http: requests.Session, url: str, files: list[Path]
) -> None:
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


def test_upload_without_valid_files_gets_a_conflict(http: requests.Session, url: str) -> None:
    response = _store(http, url, _multipart(b"not DICOM"))
    assert response.status_code == 409
    assert "00081199" not in response.json()
    assert len(_failures(response)) == 1


def test_repeated_upload_is_accepted_and_a_different_file_refused(
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


def test_upload_to_a_study_refuses_other_studies(http: requests.Session, url: str, files: list[Path]) -> None:
    study = uids_of(files[0]).study
    response = _store(http, url, _multipart(*(path.read_bytes() for path in files)), study=study)
    assert response.status_code == 202
    assert _failures(response) == ["its StudyInstanceUID is not the one of the URL"]
    assert _count(http, url) == 1


def test_upload_of_one_file_without_multipart_is_stored(
    http: requests.Session, url: str, files: list[Path]
) -> None:
    assert _store(http, url, files[0].read_bytes(), kind="application/dicom").status_code == 200
    assert _count(http, url) == 1


def test_upload_in_chunks_of_any_size_is_stored(http: requests.Session, url: str, files: list[Path]) -> None:
    body = _multipart(*(path.read_bytes() for path in files))
    chunks = (body[start : start + 977] for start in range(0, len(body), 977))
    assert _store(http, url, chunks).status_code == 200
    assert _count(http, url) == len(files)


def test_malformed_multipart_body_is_refused(http: requests.Session, url: str, files: list[Path]) -> None:
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


def test_preamble_blanks_and_capitals_are_accepted(
    http: requests.Session, url: str, files: list[Path]
) -> None:
    content = files[0].read_bytes()
    body = b"A preamble.\r\n" + _multipart(content, kind="Application/DICOM") + b"An epilogue."
    body = body.replace(f"--{BOUNDARY}\r\n".encode(), f"--{BOUNDARY} \t\r\n".encode())
    kind = f'Multipart/Related; Type="APPLICATION/dicom"; Boundary={BOUNDARY}'
    assert _store(http, url, body, kind=kind).status_code == 200
    (found,) = http.get(f"{url}/instances").json()
    path = "/".join(
        f"{name}/{found[tag]['Value'][0]}"
        for name, tag in (("studies", "0020000D"), ("series", "0020000E"), ("instances", "00080018"))
    )
    retrieved = http.get(f"{url}/{path}", headers={"Accept": "APPLICATION/DICOM; Transfer-Syntax=*"})
    assert retrieved.content == content
    whole = http.get(f"{url}/studies/{found['0020000D']['Value'][0]}", headers={"Accept": kind})
    assert whole.status_code == 200


def test_upload_of_another_content_type_is_refused(
    http: requests.Session, url: str, files: list[Path]
) -> None:
    for kind in (
        "application/json",
        f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}',
    ):
        assert _store(http, url, b"x", kind=kind).status_code == 415
    response = _store(http, url, _multipart(files[0].read_bytes(), kind="image/png"))
    assert response.status_code == 409
    assert "image/png" in _failures(response)[0]


def test_uploads_at_the_same_time_are_all_stored(
    http: requests.Session, healthcare: HealthcareEmulator, dicom_store: str, url: str
) -> None:
    paths = sample_files()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda path: upload(healthcare.url, dicom_store, [path]), paths))
    assert _count(http, url) == len(paths)


def test_dicomweb_client_reports_a_refused_upload(url: str) -> None:
    broken = dcmread(str(get_testdata_file("CT_small.dcm")))
    with loopback_session() as session:
        client = DICOMwebClient(url, session=session)
        client.store_instances([broken])
        broken.PatientID = "other"
        with pytest.raises(HTTPError, match="409"):
            client.store_instances([broken])
