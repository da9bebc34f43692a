"""Other versions of the API are other names of what they share with v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rig.dicom_files import as_uploaded, sample_files, upload

if TYPE_CHECKING:
    import requests

    from rig.control import Control
    from rig.servers import HealthcareEmulator


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha2"])
def test_store_is_the_same_under_each_name(
    healthcare: HealthcareEmulator, http: requests.Session, control: Control, dicom_store: str, version: str
) -> None:
    (uids,) = upload(healthcare.url, dicom_store, sample_files()[:1])
    base = f"{healthcare.url}/{version}/{dicom_store}"
    assert http.get(base).json() == {"name": dicom_store}
    (found,) = http.get(f"{base}/dicomWeb/studies").json()
    assert found["0020000D"]["Value"] == [uids.study]
    headers = {"Content-Type": "application/dicom"}
    data = as_uploaded(sample_files()[0])
    stored = http.post(f"{base}/dicomWeb/studies", data=data, headers=headers).json()
    # Addresses in responses have the version of the request.
    assert stored["00081190"]["Value"] == [f"{base}/dicomWeb/studies/{uids.study}"]
    assert http.get(f"{base}/dicomWeb{uids.path}").status_code == 200
    counts = control.requests()["counts"]
    assert [counts[route] for route in ("stores.get", "search", "retrieve")] == [1, 1, 1]


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha2"])
def test_errors_have_the_envelope_under_each_name(
    healthcare: HealthcareEmulator, http: requests.Session, dicom_store: str, version: str
) -> None:
    for path, status in ((f"{dicom_store}-missing", 404), ("nothing", 404), (f"{dicom_store}?x=1", 400)):
        answer = http.get(f"{healthcare.url}/{version}/{path}")
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == status
