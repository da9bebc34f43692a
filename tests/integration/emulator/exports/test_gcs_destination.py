"""The Cloud Storage destination, through the real client."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom.data
import pytest
import requests
from pydicom import dcmread

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports import gcs_destination
from airflow_provider_dicom.emulator.exports.gcs_destination import GcsDestination, read_filter
from airflow_provider_dicom.emulator.imaging.transcode import CannotTranscode
from airflow_provider_dicom.emulator.models.instances import StoredInstance
from airflow_provider_dicom.emulator.names import ResourcePath
from rig.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from rig.servers import StorageEmulator

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FILES = Path(pydicom.data.__file__).parent / "test_files"
STORE = "projects/p/locations/l/datasets/d/dicomStores/s"


@pytest.fixture(autouse=True)
def _client_finds_the_emulator(storage: StorageEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)


def stored(name: str, instance_uid: str = "1.2.3.4") -> StoredInstance:
    return StoredInstance("1.2", "1.2.3", instance_uid, FILES / name, STORE, datetime.now(UTC))


def export(uri_prefix: str, mime_type: str | None, *instances: StoredInstance) -> None:
    destination = GcsDestination(uri_prefix, mime_type)
    destination.open()
    try:
        for instance in instances:
            destination.write(instance)
    finally:
        destination.close(cancelled=False)


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("/out", "out/"),
        ("/out/", "out/"),
        ("/out/2026-01-02/nightly", "out/2026-01-02/nightly/"),
        ("/Köln Süd/日本 #1?", "Köln Süd/日本 #1?/"),
        ("/50%/a+b", "50%/a+b/"),
        ("/", ""),
        ("", ""),
    ],
)
def test_object_names_start_with_the_prefix(
    storage: StorageEmulator, bucket: str, prefix: str, folder: str
) -> None:
    export(f"gs://{bucket}{prefix}", None, stored("CT_small.dcm"))
    content = (FILES / "CT_small.dcm").read_bytes()
    assert storage.objects(bucket) == {f"{folder}1.2/1.2.3/1.2.3.4.dcm": len(content)}
    assert storage.read(bucket, f"{folder}1.2/1.2.3/1.2.3.4.dcm") == content


@pytest.mark.parametrize(
    ("mime_type", "content_type", "ending"),
    [
        (None, "application/dicom", ".dcm"),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90", "application/dicom", ".dcm"),
        ("image/png", "image/png", ".png"),
        ("image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50", "image/jpeg", ".jpg"),
        ("application/octet-stream; transfer-syntax=*", "application/octet-stream", ""),
    ],
)
def test_object_has_the_extension_and_content_type_of_its_mime_type(
    storage: StorageEmulator, bucket: str, mime_type: str | None, content_type: str, ending: str
) -> None:
    export(f"gs://{bucket}/out", mime_type, stored("CT_small.dcm"))
    name = f"out/1.2/1.2.3/1.2.3.4{ending}"
    assert [*storage.objects(bucket)] == [name]
    url = f"{storage.url}/storage/v1/b/{bucket}/o/{name.replace('/', '%2F')}"
    assert requests.get(url, timeout=30).json()["contentType"] == content_type


def test_object_of_a_frame_is_named_by_its_number(storage: StorageEmulator, bucket: str) -> None:
    export(f"gs://{bucket}/out", "image/jpeg", stored("rtdose.dcm"))
    names = {f"out/1.2/1.2.3/1.2.3.4/{number}.jpg" for number in range(1, 16)}
    assert {*storage.objects(bucket)} == names


def test_transcoded_object_is_readable_dicom(storage: StorageEmulator, bucket: str) -> None:
    syntax = "1.2.840.10008.1.2.4.80"
    export(f"gs://{bucket}", f"application/dicom; transfer-syntax={syntax}", stored("MR_small.dcm"))
    ds = dcmread(io.BytesIO(storage.read(bucket, "1.2/1.2.3/1.2.3.4.dcm")))
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert (ds.pixel_array == dcmread(FILES / "MR_small.dcm").pixel_array).all()


def test_existing_object_is_replaced(storage: StorageEmulator, bucket: str) -> None:
    export(f"gs://{bucket}/out", None, stored("CT_small.dcm"))
    export(f"gs://{bucket}/out", None, stored("MR_small.dcm"))
    content = (FILES / "MR_small.dcm").read_bytes()
    assert storage.objects(bucket) == {"out/1.2/1.2.3/1.2.3.4.dcm": len(content)}


def test_object_above_the_resumable_limit_is_complete(
    storage: StorageEmulator, bucket: str, tmp_path: Path
) -> None:
    # Above 8 MiB the client uploads in another way.
    path = tmp_path / "large.dcm"
    path.write_bytes(bytes(range(256)) * 40_000)
    large = StoredInstance("1.2", "1.2.3", "1.2.3.4", path, STORE, datetime.now(UTC))
    export(f"gs://{bucket}/out", None, large)
    assert storage.read(bucket, "out/1.2/1.2.3/1.2.3.4.dcm") == path.read_bytes()


def test_instance_that_cannot_be_converted_leaves_no_object(storage: StorageEmulator, bucket: str) -> None:
    destination = GcsDestination(f"gs://{bucket}/out", "image/png")
    destination.open()
    with pytest.raises(CannotTranscode):
        destination.write(stored("rtplan.dcm"))
    destination.write(stored("CT_small.dcm"))
    destination.close(cancelled=False)
    assert [*storage.objects(bucket)] == ["out/1.2/1.2.3/1.2.3.4.png"]


def test_export_to_a_missing_bucket_is_refused() -> None:
    with pytest.raises(ApiError, match="The specified bucket does not exist") as error:
        GcsDestination("gs://there-is-no-such-bucket/out", None).open()
    assert (error.value.http_status, error.value.status) == (404, "NOT_FOUND")


def test_bucket_deleted_during_the_export_is_an_error(storage: StorageEmulator, bucket: str) -> None:
    destination = GcsDestination(f"gs://{bucket}/out", None)
    destination.open()
    requests.delete(f"{storage.url}/storage/v1/b/{bucket}", timeout=30).raise_for_status()
    with pytest.raises(ApiError) as error:
        destination.write(stored("CT_small.dcm"))
    assert error.value.status == "NOT_FOUND"
    destination.close(cancelled=True)


@pytest.mark.parametrize("uri", ["", "gs://", "gs:///out", "s3://bucket/out", "bucket/out", "gs://a b/out"])
def test_invalid_uri_prefix_is_refused(uri: str) -> None:
    with pytest.raises(ApiError, match="Invalid Cloud Storage URI") as error:
        GcsDestination(uri, None)
    assert error.value.status == "INVALID_ARGUMENT"


def test_export_to_an_unlisted_mime_type_is_refused(bucket: str) -> None:
    with pytest.raises(ApiError, match="Unsupported MIME type"):
        GcsDestination(f"gs://{bucket}/out", "image/gif")


def test_cloud_storage_without_an_emulator_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    with pytest.raises(ApiError, match="STORAGE_EMULATOR_HOST") as error:
        GcsDestination(f"gs://{bucket}/out", None).open()
    assert error.value.status == "FAILED_PRECONDITION"


def test_unreachable_cloud_storage_is_unavailable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_destination, "RETRY", gcs_destination.RETRY.with_timeout(1.0))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{LOOPBACK}:{free_port()}")
    with pytest.raises(ApiError, match="cannot be reached") as error:
        GcsDestination(f"gs://{bucket}/out", None).open()
    assert error.value.status == "UNAVAILABLE"


# ---- filter files


def filter_file(storage: StorageEmulator, bucket: str, content: bytes) -> str:
    url = f"{storage.url}/upload/storage/v1/b/{bucket}/o"
    query = {"uploadType": "media", "name": "filters/one list.txt"}
    headers = {"Content-Type": "text/plain"}
    requests.post(url, params=query, data=content, headers=headers, timeout=30).raise_for_status()
    return f"gs://{bucket}/filters/one list.txt"


def test_filter_file_is_parsed_line_by_line(storage: StorageEmulator, bucket: str) -> None:
    uri = filter_file(
        storage,
        bucket,
        b"/studies/1.2\r\n\r\n/studies/1.2/series/1.2.3\n  \n/studies/1.2/series/1.2.3/instances/1.2.3.4",
    )
    assert read_filter(uri) == [
        ResourcePath("1.2"),
        ResourcePath("1.2", "1.2.3"),
        ResourcePath("1.2", "1.2.3", "1.2.3.4"),
    ]


def test_empty_filter_file_selects_nothing(storage: StorageEmulator, bucket: str) -> None:
    assert read_filter(filter_file(storage, bucket, b"\n")) == []


@pytest.mark.parametrize(
    "line",
    [
        "studies/1.2",
        "/studies/1.2/",
        "/studies/",
        "/studies/1.2/series",
        "/studies/1.2/instances/1.2.3.4",
        "/studies/1.2/series/1.3/instances/1.4/frames/1",
        "/studies/x",
        "/studies/" + "1" * 65,
        "/studies/1.2 ",
        "/studies/1.2\r/studies/1.3",
        "/studies/\u0661",
    ],
)
def test_invalid_line_of_a_filter_file_is_named_by_its_number(
    storage: StorageEmulator, bucket: str, line: str
) -> None:
    uri = filter_file(storage, bucket, f"/studies/1.2\n\n{line}\n/studies/1.2".encode())
    with pytest.raises(ApiError, match="line 3 is not a resource path") as error:
        read_filter(uri)
    assert error.value.status == "INVALID_ARGUMENT"


def test_filter_file_that_is_not_utf8_is_refused(storage: StorageEmulator, bucket: str) -> None:
    with pytest.raises(ApiError, match="line 1"):
        read_filter(filter_file(storage, bucket, b"/studies/1.\xff"))


def test_missing_filter_file_is_not_found(bucket: str) -> None:
    for uri in (f"gs://{bucket}/none.txt", "gs://there-is-no-such-bucket/none.txt"):
        with pytest.raises(ApiError, match="No such object") as error:
            read_filter(uri)
        assert error.value.status == "NOT_FOUND"


@pytest.mark.parametrize("uri", ["gs://bucket", "gs://bucket/", "bucket/list.txt", ""])
def test_filter_uri_without_an_object_is_refused(uri: str) -> None:
    with pytest.raises(ApiError, match="Invalid Cloud Storage URI"):
        read_filter(uri)
