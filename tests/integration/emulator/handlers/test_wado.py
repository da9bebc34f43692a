"""dicomweb-client retrieves and deletes pydicom's own files."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread

from rig.dicom_files import as_uploaded, sample_files, uids_of, upload

if TYPE_CHECKING:
    import requests
    from dicomweb_client import DICOMwebClient

    from rig.servers import HealthcareEmulator

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def test_retrieved_instance_has_the_uploaded_bytes(samples: DICOMwebClient, http: requests.Session) -> None:
    for path in sample_files()[::10]:
        uids = uids_of(path)
        address = f"{samples.base_url}/studies/{uids.study}/series/{uids.series}/instances/{uids.instance}"
        response = http.get(address, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert response.status_code == 200
        assert response.content == as_uploaded(path)
        retrieved = samples.retrieve_instance(*uids, media_types=(("application/dicom", "*"),))
        assert retrieved.SOPInstanceUID == uids.instance


def test_retrieved_study_and_series_are_complete(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    study = next(header for header in headers if header.get("PatientName") == "Doe^Archibald")
    inside = [header for header in headers if header.StudyInstanceUID == study.StudyInstanceUID]
    types = (("application/dicom", "*"),)
    whole = samples.retrieve_study(study.StudyInstanceUID, media_types=types)
    assert {part.SOPInstanceUID for part in whole} == {header.SOPInstanceUID for header in inside}
    series = samples.retrieve_series(study.StudyInstanceUID, study.SeriesInstanceUID, media_types=types)
    assert {part.SeriesInstanceUID for part in series} == {study.SeriesInstanceUID}


def test_retrieved_instance_has_the_requested_transfer_syntax(samples: DICOMwebClient) -> None:
    path = next(path for path in sample_files() if path.name == "examples_jpeg2k.dcm")
    expected = dcmread(path).pixel_array
    for types in ((("application/dicom", EXPLICIT_LITTLE_ENDIAN),), ("application/dicom",)):
        plain = samples.retrieve_instance(*uids_of(path), media_types=types)
        assert plain.file_meta.TransferSyntaxUID == EXPLICIT_LITTLE_ENDIAN
        assert (plain.pixel_array == expected).all()


def test_stored_transfer_syntax_is_named_as_it_is(samples: DICOMwebClient, http: requests.Session) -> None:
    for path in sample_files()[::7]:
        uids = uids_of(path)
        address = f"{samples.base_url}/studies/{uids.study}/series/{uids.series}/instances/{uids.instance}"
        stored = f"application/dicom; transfer-syntax={dcmread(path).file_meta.TransferSyntaxUID}"
        single = http.get(address, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert single.headers["content-type"] == stored
        many = http.get(
            address, headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        )
        boundary = many.headers["content-type"].rpartition("boundary=")[2]
        # The body begins with the boundary, and has no preamble.
        head = f"--{boundary}\r\nContent-Type: {stored}\r\n\r\n".encode()
        assert many.content == head + as_uploaded(path) + f"\r\n--{boundary}--\r\n".encode()


def test_instance_without_pixels_is_named_as_it_is_written(
    samples: DICOMwebClient, http: requests.Session
) -> None:
    path = next(path for path in sample_files() if path.name == "rtplan.dcm")
    uids = uids_of(path)
    address = f"{samples.base_url}/studies/{uids.study}/series/{uids.series}/instances/{uids.instance}"
    accept = "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90"
    response = http.get(address, headers={"Accept": accept})
    # An encapsulated syntax differs from this one in the pixels only.
    assert response.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT_LITTLE_ENDIAN}"
    assert dcmread(BytesIO(response.content)).file_meta.TransferSyntaxUID == EXPLICIT_LITTLE_ENDIAN


def test_retrieved_metadata_has_no_bulk_data(samples: DICOMwebClient, headers: list[Dataset]) -> None:
    header = next(header for header in headers if header.get("PatientID") == "1CT1")
    uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
    (metadata,) = [samples.retrieve_instance_metadata(*uids)]
    assert metadata["00280010"]["Value"] == [header.Rows]
    assert "7FE00010" not in metadata
    assert len(samples.retrieve_study_metadata(uids[0])) == 1
    assert len(samples.retrieve_series_metadata(*uids[:2])) == 1


def test_retrieval_of_missing_instances_and_other_types_is_refused(
    samples: DICOMwebClient, http: requests.Session
) -> None:
    assert http.get(f"{samples.base_url}/studies/1.2.3").status_code == 404
    uids = uids_of(sample_files()[0])
    study = f"{samples.base_url}/studies/{uids.study}"
    assert http.get(study, headers={"Accept": "image/png"}).status_code == 406
    assert http.get(f"{study}/series/{uids.series}/instances/{uids.instance}/frames/1").status_code == 501


def test_deleted_instances_and_studies_are_gone(
    healthcare: HealthcareEmulator, dicom_store: str, url: str, http: requests.Session
) -> None:
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
