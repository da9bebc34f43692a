"""Google's own client, made from the discovery document, works with the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from googleapiclient.errors import HttpError

from rig.dicom_files import sample_files, upload
from tests.support.discovery_check import execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from googleapiclient.discovery import Resource

    from rig.control import Control
    from rig.servers import HealthcareEmulator, StorageEmulator

LOCATION = "projects/google-client/locations/europe-west3"


def _refusal(request: Any) -> HttpError:
    with pytest.raises(HttpError) as caught:
        request.execute()
    return caught.value


def test_dataset_is_created_listed_and_deleted(google: Resource) -> None:
    created = execute(google.create(parent=LOCATION, datasetId="life", body={"timeZone": "UTC"}))
    assert created["done"]
    assert created["response"]["name"] == f"{LOCATION}/datasets/life"
    assert execute(google.get(name=f"{LOCATION}/datasets/life")) == {
        "name": f"{LOCATION}/datasets/life",
        "timeZone": "UTC",
    }
    assert execute(google.operations().get(name=created["name"])) == created
    assert f"{LOCATION}/datasets/life" in [
        d["name"] for d in execute(google.list(parent=LOCATION))["datasets"]
    ]
    again = _refusal(google.create(parent=LOCATION, datasetId="life", body={}))
    assert again.status_code == 409
    assert execute(google.delete(name=f"{LOCATION}/datasets/life")) == {}
    assert _refusal(google.get(name=f"{LOCATION}/datasets/life")).status_code == 404


def test_store_is_created_patched_and_deleted(google: Resource) -> None:
    dataset = f"{LOCATION}/datasets/stores"
    store = "röntgen-1.a_b"
    name = f"{dataset}/dicomStores/{store}"
    stores = google.dicomStores()
    body = {"labels": {"ward": "a"}}
    assert execute(stores.create(parent=dataset, dicomStoreId=store, body=body)) == {
        "name": name,
        **body,
    }
    assert execute(stores.get(name=name)) == {"name": name, **body}
    again = _refusal(stores.create(parent=dataset, dicomStoreId=store, body={}))
    assert (again.status_code, again.reason) == (409, f"DICOM store {name} already exists")
    patched = execute(stores.patch(name=name, updateMask="labels", body={"labels": {"ward": "b"}}))
    assert patched == {"name": name, "labels": {"ward": "b"}}
    assert execute(stores.delete(name=name)) == {}
    assert _refusal(stores.get(name=name)).status_code == 404
    assert _refusal(stores.delete(name=name)).status_code == 404


@pytest.mark.parametrize("bad", ["a b", "a/b", "é" * 257, "a?b", "a:b"])
def test_store_with_an_invalid_id_is_refused(google: Resource, bad: str) -> None:
    refusal = _refusal(
        google.dicomStores().create(parent=f"{LOCATION}/datasets/bad", dicomStoreId=bad, body={})
    )
    assert refusal.status_code == 400
    assert "dicomStoreId" in refusal.reason


def test_stores_are_listed_in_pages_and_by_label(google: Resource) -> None:
    dataset = f"{LOCATION}/datasets/paged"
    stores = google.dicomStores()
    for number in range(7):
        labels = {"parity": "odd" if number % 2 else "even"}
        execute(stores.create(parent=dataset, dicomStoreId=f"s{number}", body={"labels": labels}))
    names = []
    request = stores.list(parent=dataset, pageSize=3)
    sizes = []
    while request is not None:
        page = execute(request)
        sizes.append(len(page["dicomStores"]))
        names += [store["name"] for store in page["dicomStores"]]
        request = stores.list_next(request, page)
    assert sizes == [3, 3, 1]
    assert names == [f"{dataset}/dicomStores/s{number}" for number in range(7)]
    odd = execute(stores.list(parent=dataset, filter="labels.parity=odd", pageSize=2))
    assert [store["name"][-2:] for store in odd["dicomStores"]] == ["s1", "s3"]
    rest = execute(
        stores.list(parent=dataset, filter="labels.parity=odd", pageSize=2, pageToken=odd["nextPageToken"])
    )
    assert [store["name"][-2:] for store in rest["dicomStores"]] == ["s5"]
    assert "nextPageToken" not in rest
    assert _refusal(stores.list(parent=dataset, filter="name=x")).status_code == 400
    assert _refusal(stores.list(parent=dataset, pageToken="%")).status_code == 400
    assert _refusal(stores.list(parent=f"{LOCATION}/datasets/nowhere")).status_code == 404


def test_metrics_count_studies_series_and_instances(
    google: Resource, healthcare: HealthcareEmulator, dicom_store: str
) -> None:
    assert execute(google.dicomStores().getDICOMStoreMetrics(name=dicom_store)) == {"name": dicom_store}
    uploaded = upload(healthcare.url, dicom_store, sample_files()[:5])
    metrics = execute(google.dicomStores().getDICOMStoreMetrics(name=dicom_store))
    assert metrics["instanceCount"] == "5"
    assert metrics["studyCount"] == str(len({uids.study for uids in uploaded}))
    assert metrics["seriesCount"] == str(len({uids[:2] for uids in uploaded}))
    study = uploaded[0].study
    of_study = execute(
        google.dicomStores()
        .dicomWeb()
        .studies()
        .getStudyMetrics(study=f"{dicom_store}/dicomWeb/studies/{study}")
    )
    assert of_study["instanceCount"] == str(sum(uids.study == study for uids in uploaded))


def test_denied_permissions_are_reported_and_enforced(
    google: Resource, control: Control, dicom_store: str
) -> None:
    asked = ["healthcare.dicomStores.export", "healthcare.operations.get"]
    stores = google.dicomStores()
    body = {"permissions": asked}
    assert execute(stores.testIamPermissions(resource=dicom_store, body=body)) == {"permissions": asked}
    control.settings(denied_permissions=["healthcare.operations.get", "healthcare.dicomStores.get"])
    assert execute(stores.testIamPermissions(resource=dicom_store, body=body)) == {"permissions": asked[:1]}
    denied = _refusal(stores.get(name=dicom_store))
    assert denied.status_code == 403
    assert denied.reason == (
        "Permission 'healthcare.dicomStores.get' denied on resource "
        f"'//healthcare.googleapis.com/{dicom_store}' (or it may not exist)."
    )
    wildcard = _refusal(stores.testIamPermissions(resource=dicom_store, body={"permissions": ["storage.*"]}))
    assert wildcard.status_code == 400


def test_export_completes_with_metadata_and_objects(
    google: Resource,
    healthcare: HealthcareEmulator,
    storage: StorageEmulator,
    dicom_store: str,
    bucket: str,
    export: Callable[[str], str],
    finished: Callable[[str], dict[str, Any]],
) -> None:
    uploaded = upload(healthcare.url, dicom_store, sample_files()[:6])
    operation = finished(export(dicom_store))
    assert operation["response"] == {
        "@type": "type.googleapis.com/google.cloud.healthcare.v1.dicom.ExportDicomDataResponse"
    }
    metadata = operation["metadata"]
    assert metadata["apiMethodName"] == "google.cloud.healthcare.v1.dicom.DicomService.ExportDicomData"
    assert metadata["counter"] == {"success": "6"}
    assert metadata["createTime"] <= metadata["endTime"]
    assert storage.objects(bucket).keys() == {f"out/{'/'.join(uids)}.dcm" for uids in uploaded}


def test_operations_are_listed_in_pages_newest_first(
    google: Resource, manual: Control, export: Callable[[str], str]
) -> None:
    dataset = f"{LOCATION}/datasets/operations"
    store = f"{dataset}/dicomStores/s"
    execute(google.dicomStores().create(parent=dataset, dicomStoreId="s", body={}))
    names = [export(store) for _ in range(5)]
    manual.step(names[0])
    operations = google.operations()

    def listed(**query: Any) -> list[str]:
        found, request = [], operations.list(name=dataset, pageSize=2, **query)
        while request is not None:
            page = execute(request)
            found += [operation["name"] for operation in page.get("operations", [])]
            request = operations.list_next(request, page)
        return found

    assert listed() == names[::-1]
    assert listed(filter="done=false") == names[:0:-1]
    assert listed(filter="done = true") == names[:1]
    assert _refusal(operations.list(name=dataset, filter="metadata.x=1")).status_code == 400
    assert _refusal(operations.list(name=dataset, returnPartialSuccess=True)).status_code == 501
    assert execute(operations.list(name=dataset, filter="done=true", pageSize=5, pageToken=None))
    assert execute(operations.cancel(name=names[1], body={})) == {}
    assert _refusal(operations.get(name=f"{dataset}/operations/1")).status_code == 404
    assert _refusal(operations.cancel(name=f"{dataset}/operations/1", body={})).status_code == 404
    manual.step()


def test_method_without_a_handler_is_unimplemented(google: Resource, dicom_store: str) -> None:
    refusal = _refusal(google.dicomStores().deidentify(sourceStore=dicom_store, body={}))
    assert refusal.status_code == 501
    assert "healthcare.projects.locations.datasets.dicomStores.deidentify" in refusal.reason
