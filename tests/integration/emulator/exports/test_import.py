"""Imports from Cloud Storage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom.data
import pytest
from googleapiclient.errors import HttpError

from rig.dicom_files import sample_files, uids_of, upload
from tests.support.discovery import mime_types
from tests.support.discovery_check import execute

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from googleapiclient.discovery import Resource

    from rig.control import Control
    from rig.servers import HealthcareEmulator, StorageEmulator

    Finished = Callable[[str], dict[str, Any]]
    Import = Callable[..., str]

FILES = Path(pydicom.data.__file__).parent / "test_files"
CT = FILES / "CT_small.dcm"
MR = FILES / "MR_small.dcm"


@pytest.fixture
def start(google: Resource, dicom_store: str) -> Import:
    """Start an import into the test's store, and return the operation's name."""

    def start_import(uri: str, store: str = dicom_store) -> str:
        request = google.dicomStores().import_(name=store, body={"gcsSource": {"uri": uri}})
        return str(execute(request)["name"])

    return start_import


def instances(healthcare: HealthcareEmulator, http: requests.Session, store: str) -> set[str]:
    response = http.get(f"{healthcare.url}/v1/{store}/dicomWeb/instances")
    found = response.json() if response.status_code == 200 else []
    return {instance["00080018"]["Value"][0] for instance in found}


@pytest.mark.parametrize(
    ("wildcard", "expected"),
    [
        ("in/one.dcm", {"one"}),
        ("in/*.dcm", {"one"}),
        ("in/o?e.dcm", {"one"}),
        ("in/**", {"one", "two"}),
        ("in/**.dcm", {"one"}),
        ("**", {"one", "two"}),
        ("in/*/*", {"two"}),
    ],
)
def test_import_stores_the_objects_that_match(
    healthcare: HealthcareEmulator,
    http: requests.Session,
    storage: StorageEmulator,
    bucket: str,
    dicom_store: str,
    start: Import,
    finished: Finished,
    wildcard: str,
    expected: set[str],
) -> None:
    files = {"one": CT, "two": MR}
    storage.write(bucket, "in/one.dcm", CT.read_bytes())
    storage.write(bucket, "in/deep/two", MR.read_bytes())
    done = finished(start(f"gs://{bucket}/{wildcard}"))
    assert done["response"] == {
        "@type": "type.googleapis.com/google.cloud.healthcare.v1.dicom.ImportDicomDataResponse"
    }
    assert done["metadata"]["apiMethodName"].endswith(".ImportDicomData")
    assert done["metadata"]["counter"] == {"success": str(len(expected))}
    assert instances(healthcare, http, dicom_store) == {uids_of(files[name]).instance for name in expected}


def test_file_that_is_not_dicom_fails_alone_and_the_operation_has_an_error(
    healthcare: HealthcareEmulator,
    http: requests.Session,
    control: Control,
    storage: StorageEmulator,
    bucket: str,
    dicom_store: str,
    start: Import,
    finished: Finished,
) -> None:
    storage.write(bucket, "in/ct.dcm", CT.read_bytes())
    storage.write(bucket, "in/notes.txt", b"not DICOM")
    name = start(f"gs://{bucket}/in/*")
    done = finished(name)
    assert done["error"] == {"code": 2, "message": "1 instances could not be imported; see the logs."}
    assert done["metadata"]["counter"] == {"success": "1", "failure": "1"}
    assert instances(healthcare, http, dicom_store) == {uids_of(CT).instance}
    (report,) = [report for report in control.imports()["operations"] if report["name"] == name]
    (entry,) = report["log"]
    assert entry["instance"] == f"gs://{bucket}/in/notes.txt"
    assert "not a readable DICOM Part 10 file" in entry["message"]


def test_import_never_overwrites(
    healthcare: HealthcareEmulator,
    http: requests.Session,
    storage: StorageEmulator,
    bucket: str,
    dicom_store: str,
    start: Import,
    finished: Finished,
) -> None:
    upload(healthcare.url, dicom_store, [CT])
    url = f"{healthcare.url}/v1/{dicom_store}/dicomWeb{uids_of(CT).path}"
    accept = {"Accept": "application/dicom; transfer-syntax=*"}
    before = http.get(url, headers=accept).content
    # Other bytes with the same UIDs.
    storage.write(bucket, "changed.dcm", CT.read_bytes() + bytes(2))
    done = finished(start(f"gs://{bucket}/changed.dcm"))
    assert done["metadata"]["counter"] == {"success": "1"}
    assert http.get(url, headers=accept).content == before


@pytest.mark.parametrize("mime_type", [m for m in mime_types() if m.startswith("application/dicom")])
def test_export_import_and_export_again_yield_the_same_bytes(
    google: Resource,
    healthcare: HealthcareEmulator,
    storage: StorageEmulator,
    bucket: str,
    dicom_store: str,
    start: Import,
    finished: Finished,
    mime_type: str,
) -> None:
    names = ("CT_small.dcm", "color-pl.dcm", "rtplan.dcm", "JPEG-lossy.dcm")
    wanted = [path for path in sample_files() if path.name in names]
    upload(healthcare.url, dicom_store, wanted)
    copy = f"{dicom_store}-copy"
    parent, _, store_id = copy.rpartition("/dicomStores/")
    execute(google.dicomStores().create(parent=parent, dicomStoreId=store_id, body={}))

    def exported(store: str, folder: str, form: str | None) -> dict[str, bytes]:
        destination = {"uriPrefix": f"gs://{bucket}/{folder}"} | ({"mimeType": form} if form else {})
        finished(
            str(
                execute(google.dicomStores().export(name=store, body={"gcsDestination": destination}))["name"]
            )
        )
        found = storage.objects(bucket, f"{folder}/")
        return {name.removeprefix(f"{folder}/"): storage.read(bucket, name) for name in found}

    first = exported(dicom_store, "first", mime_type)
    assert first
    done = finished(start(f"gs://{bucket}/first/**.dcm", copy))
    assert done["metadata"]["counter"] == {"success": str(len(first))}
    assert exported(copy, "second", None) == first
    assert exported(copy, "third", mime_type) == first


@pytest.mark.parametrize(
    "uri",
    [
        "gs://{bucket}",
        "gs://{bucket}/",
        "s3://{bucket}/x",
        "{bucket}/x",
        "",
        "gs://{bucket}*/x",
        "gs://{bucket}/**/x.dcm",
        "gs://{bucket}/*/**",
        "gs://{bucket}/***",
    ],
)
def test_invalid_source_is_refused(bucket: str, start: Import, uri: str) -> None:
    with pytest.raises(HttpError) as refused:
        start(uri.format(bucket=bucket))
    assert refused.value.status_code == 400
    assert "Invalid Cloud Storage URI" in refused.value.reason


def test_request_that_cannot_be_carried_out_is_refused_at_once(
    google: Resource, bucket: str, dicom_store: str, start: Import
) -> None:
    with pytest.raises(HttpError, match="No matching objects found"):
        start(f"gs://{bucket}/nothing/**")
    with pytest.raises(HttpError, match="does not exist"):
        start(f"gs://{bucket}-missing/**")
    with pytest.raises(HttpError, match="source is required"):
        execute(google.dicomStores().import_(name=dicom_store, body={}))
    body = {
        "gcsSource": {"uri": f"gs://{bucket}/**"},
        "blobStorageSettings": {"blobStorageClass": "COLDLINE"},
    }
    with pytest.raises(HttpError, match="has no storage class COLDLINE") as refused:
        execute(google.dicomStores().import_(name=dicom_store, body=body))
    assert refused.value.status_code == 501


def test_import_is_stepped_and_cancelled_like_an_export(
    google: Resource,
    healthcare: HealthcareEmulator,
    http: requests.Session,
    manual: Control,
    storage: StorageEmulator,
    bucket: str,
    dicom_store: str,
    start: Import,
    finished: Finished,
) -> None:
    for number, path in enumerate((CT, MR)):
        storage.write(bucket, f"in/{number}.dcm", path.read_bytes())
    name = start(f"gs://{bucket}/in/*.dcm")
    (stepped,) = manual.step(name, 1)["operations"]
    assert stepped["metadata"]["counter"] == {"success": "1", "pending": "1"}
    execute(google.operations().cancel(name=name, body={}))
    assert finished(name)["error"]["code"] == 1
    assert instances(healthcare, http, dicom_store) == {uids_of(CT).instance}
