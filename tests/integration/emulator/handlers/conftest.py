"""A DICOM store with pydicom's own files, and a client of DICOMweb that this project did not write."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread

from rig.dicom_files import create_store, sample_files, upload
from rig.servers import loopback_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig.servers import HealthcareEmulator

SAMPLES_STORE = "projects/dicomweb/locations/l/datasets/d/dicomStores/samples"


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def headers() -> list[Dataset]:
    """The attributes of pydicom's files, read by pydicom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [dcmread(path, stop_before_pixels=True) for path in sample_files()]
