"""The local Healthcare API serves this machine only, and what it is given takes little memory and time."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, generate_uid

from rig.servers import HealthcareEmulator, loopback_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import FileDataset

    from rig.control import Control

MIB = 1024 * 1024
DEFLATED_FRAMES = UID("1.2.840.10008.1.2.8.1")
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with loopback_session() as session:
        yield session


@pytest.fixture
def url(healthcare: HealthcareEmulator, dicom_store: str) -> str:
    """The DICOMweb address of an empty DICOM store."""
    return f"{healthcare.url}/v1/{dicom_store}/dicomWeb"


def error_of(response: requests.Response) -> tuple[int, str]:
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == response.status_code
    return error["code"], error["status"]


@pytest.mark.parametrize(
    "header", [{"Host": "attacker.example"}, {"Origin": "https://attacker.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["/v1/{store}", "/_emulator/settings", "/healthz", "/nothing"])
def test_request_of_a_web_page_is_refused(
    http: requests.Session,
    healthcare: HealthcareEmulator,
    dicom_store: str,
    path: str,
    header: dict[str, str],
) -> None:
    address = healthcare.url + path.format(store=dicom_store)
    assert error_of(http.get(address, headers=header)) == (403, "PERMISSION_DENIED")
    for own in ({"Host": "localhost:1"}, {"Origin": "http://localhost:3000"}):
        assert http.get(address, headers=own).status_code != 403


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_body_that_a_web_page_can_send_across_origins_is_refused(
    http: requests.Session, healthcare: HealthcareEmulator, dicom_store: str, kind: str | None
) -> None:
    collection = f"{healthcare.url}/v1/{dicom_store.rpartition('/')[0]}"
    for address, body in (
        (f"{collection}?dicomStoreId=by-a-page", b'{"labels": {}}'),
        (f"{healthcare.url}/_emulator/tokens", b'{"valid": null}'),
    ):
        response = http.post(address, data=body, headers={"Content-Type": kind})
        assert error_of(response) == (400, "INVALID_ARGUMENT")
    assert http.get(f"{collection}/by-a-page").status_code == 404
    for kind in ("application/json", "Application/JSON; charset=UTF-8"):
        response = http.post(f"{collection}?dicomStoreId=..", data=b"{}", headers={"Content-Type": kind})
        assert "dicomStoreId" in response.json()["error"]["message"]


def test_ids_that_clients_take_for_folders_are_refused(
    http: requests.Session, healthcare: HealthcareEmulator
) -> None:
    request = http.prepare_request(requests.Request("GET", healthcare.url))
    for place in ("locations/../datasets/d", "locations/l/datasets/."):
        request.url = f"{healthcare.url}/v1/projects/p/{place}"
        assert error_of(http.send(request)) == (400, "INVALID_ARGUMENT")
    for identifier in (".", ".."):
        for collection in (
            "locations/l/datasets?datasetId=",
            "locations/l/datasets/d/dicomStores?dicomStoreId=",
        ):
            address = f"{healthcare.url}/v1/projects/p/{collection}{identifier}"
            assert error_of(http.post(address, json={})) == (400, "INVALID_ARGUMENT")


def test_search_with_many_wildcards_ends_soon(http: requests.Session, url: str, control: Control) -> None:
    dataset = computed_tomography()
    dataset.PatientID = "a" * 60 + "c"
    store(http, url, written(dataset))
    control.settings(any_search=True)
    query = {"PatientID": "*a" * 30 + "*b"}
    # With a search backwards it would take years.
    assert http.get(f"{url}/studies", params=query, timeout=20).status_code == 204


def test_upload_that_inflates_without_end_is_refused(
    http: requests.Session, healthcare: HealthcareEmulator, url: str
) -> None:
    dataset = computed_tomography()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = as_file(dataset, deflated_zeros(300))
    before = peak_memory(healthcare)
    response = store(http, url, content, status=409)
    assert "inflates to more than" in response.text
    assert peak_memory(healthcare) < before + 50 * MIB
    assert http.get(f"{url}/instances").status_code == 204


def test_frame_that_inflates_without_end_is_not_decoded(
    http: requests.Session, healthcare: HealthcareEmulator, url: str
) -> None:
    dataset = computed_tomography()
    dataset.PixelData = encapsulate([deflated_zeros(300)])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = DEFLATED_FRAMES
    store(http, url, written(dataset))
    path = f"series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"
    address = f"{url}/studies/{dataset.StudyInstanceUID}/{path}"
    before = peak_memory(healthcare)
    response = http.get(address, headers={"Accept": f"application/dicom; transfer-syntax={EXPLICIT}"})
    assert response.status_code == 406
    assert peak_memory(healthcare) < before + 50 * MIB
    as_stored = http.get(address, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert as_stored.content == written(dataset)


def computed_tomography() -> FileDataset:
    """Return a small instance with UIDs of its own."""
    dataset = dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (
        generate_uid() for _ in range(3)
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def written(dataset: FileDataset) -> bytes:
    """Return the instance as a DICOM file."""
    elements = DicomBytesIO()
    elements.is_implicit_VR, elements.is_little_endian = False, True
    write_dataset(elements, dataset)
    return as_file(dataset, elements.getvalue())


def as_file(dataset: FileDataset, elements: bytes) -> bytes:
    """Return a DICOM file with the file meta information of an instance, and other elements."""
    file = DicomBytesIO()
    file.write(bytes(128) + b"DICM")
    write_file_meta_info(file, dataset.file_meta)
    file.write(elements)
    return file.getvalue()


def deflated_zeros(mebibytes: int) -> bytes:
    """Return a deflated stream of zeros, which is a thousand times smaller."""
    deflate = zlib.compressobj(wbits=-15)
    one = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    # Whatever follows a full flush can be repeated.
    return one * mebibytes + deflate.flush()


def store(http: requests.Session, url: str, content: bytes, status: int = 200) -> requests.Response:
    """Store a file, and check the status of the response."""
    headers = {"Content-Type": "application/dicom"}
    response = http.post(f"{url}/studies", data=content, headers=headers, timeout=60)
    assert response.status_code == status, response.text
    return response


def peak_memory(server: HealthcareEmulator) -> int:
    """Return the most memory that the server has taken so far, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (kibibytes,) = re.findall(r"VmHWM:\s*(\d+) kB", status)
    return int(kibibytes) * 1024
