"""Google's own client, made from the discovery document, works with the server."""

from __future__ import annotations

import itertools
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
_numbers = itertools.count(1)


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
    gone = _refusal(google.get(name=f"{LOCATION}/datasets/life"))
    assert gone.status_code == 403
    assert gone.reason == (
        "Permission 'healthcare.datasets.get' denied on resource "
        f"'//healthcare.googleapis.com/{LOCATION}/datasets/life' (or it may not exist)."
    )


def test_dataset_is_patched(google: Resource) -> None:
    name = f"{LOCATION}/datasets/patched"
    key = {"kmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}
    execute(google.create(parent=LOCATION, datasetId="patched", body={"encryptionSpec": key}))
    berlin = {"timeZone": "Europe/Berlin", "satisfiesPzs": True}
    patched = execute(google.patch(name=name, updateMask="timeZone", body=berlin))
    assert patched == {"name": name, "encryptionSpec": key, "timeZone": "Europe/Berlin"}
    assert execute(google.get(name=name)) == patched
    assert execute(google.patch(name=name, updateMask="time_zone", body={})) == {
        "name": name,
        "encryptionSpec": key,
    }
    for mask, body in (("timeZone", {"timeZone": "Europe/Nowhere"}), ("name", {}), (None, berlin)):
        assert _refusal(google.patch(name=name, updateMask=mask, body=body)).status_code == 400
    assert (
        _refusal(google.create(parent=LOCATION, datasetId="x", body={"timeZone": "../x"})).status_code == 400
    )


@pytest.fixture
def dataset(google: Resource) -> str:
    """An empty dataset of the test's own."""
    dataset_id = f"dataset-{next(_numbers)}"
    execute(google.create(parent=LOCATION, datasetId=dataset_id, body={}))
    return f"{LOCATION}/datasets/{dataset_id}"


def test_all_in_a_missing_dataset_is_forbidden_unless_the_server_is_lenient(
    google: Resource, control: Control, dataset: str
) -> None:
    nowhere = f"{LOCATION}/datasets/nowhere"
    stores, store = google.dicomStores(), f"{nowhere}/dicomStores/s"
    requests: list[Any] = [
        google.get(name=nowhere),
        google.patch(name=nowhere, updateMask="timeZone", body={}),
        google.delete(name=nowhere),
        google.operations().list(name=nowhere),
        google.operations().get(name=f"{nowhere}/operations/1"),
        google.operations().cancel(name=f"{nowhere}/operations/1", body={}),
        stores.create(parent=nowhere, dicomStoreId="s", body={}),
        stores.list(parent=nowhere),
        stores.get(name=store),
        stores.patch(name=store, updateMask="labels", body={}),
        stores.delete(name=store),
        stores.export(name=store, body={"gcsDestination": {"uriPrefix": "gs://b"}}),
        stores.getDICOMStoreMetrics(name=store),
    ]
    for request in requests:
        refusal = _refusal(request)
        assert (refusal.status_code, refusal.reason[-22:]) == (403, "(or it may not exist).")
    # The dataset exists, what is in it does not.
    assert _refusal(stores.get(name=f"{dataset}/dicomStores/s")).status_code == 404
    control.settings(missing_dataset_status=404)
    assert {_refusal(request).status_code for request in requests} == {404}
    control.settings(create_missing_datasets=True)
    assert execute(stores.create(parent=nowhere, dicomStoreId="s", body={})) == {"name": store}
    assert execute(google.get(name=nowhere)) == {"name": nowhere}
    execute(google.delete(name=nowhere))


def test_store_is_created_patched_and_deleted(google: Resource, dataset: str) -> None:
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
    for given, labels in (({"bed": "1"}, {"ward": "b", "bed": "1"}), ({}, {"ward": "b"})):
        patched = execute(stores.patch(name=name, updateMask="labels.bed", body={"labels": given}))
        assert patched == {"name": name, "labels": labels}
    topic = {"pubsubTopic": "projects/p/topics/t"}
    execute(
        stores.patch(
            name=name, updateMask="notificationConfig.pubsubTopic", body={"notificationConfig": topic}
        )
    )
    assert execute(stores.get(name=name))["notificationConfig"] == topic
    assert execute(stores.delete(name=name)) == {}
    assert _refusal(stores.get(name=name)).status_code == 404
    assert _refusal(stores.delete(name=name)).status_code == 404


@pytest.mark.parametrize("nothing", [{}, {"labels": {}}, {"labels": None}])
def test_stores_without_labels_are_listed(google: Resource, dataset: str, nothing: dict[str, Any]) -> None:
    stores, name = google.dicomStores(), f"{dataset}/dicomStores/s"
    execute(stores.create(parent=dataset, dicomStoreId="s", body={"labels": {"ward": "a"}}))
    assert execute(stores.patch(name=name, updateMask="labels", body=nothing)) == {"name": name}
    assert execute(stores.list(parent=dataset)) == {"dicomStores": [{"name": name}]}
    assert execute(stores.list(parent=dataset, filter="labels.ward=a")) == {}


@pytest.mark.parametrize(
    "labels",
    [
        {"Ward": "a"},
        {"1": "a"},
        {"": "a"},
        {"ward": "A"},
        {"ward": "a b"},
        {"w" * 64: ""},
        {"ward": "a" * 64},
        {"ö" * 63: "ö" * 65},
        {f"l{number}": "" for number in range(65)},
    ],
)
def test_invalid_labels_are_refused(google: Resource, dataset: str, labels: dict[str, str]) -> None:
    stores = google.dicomStores()
    refusal = _refusal(stores.create(parent=dataset, dicomStoreId="s", body={"labels": labels}))
    assert refusal.status_code == 400
    assert "label" in refusal.reason
    valid = {"größe": "", "b": "1-_" * 21, "見出し": "値"}
    store = execute(stores.create(parent=dataset, dicomStoreId="s", body={"labels": valid}))
    assert (
        _refusal(stores.patch(name=store["name"], updateMask="labels", body={"labels": labels})).status_code
        == 400
    )


@pytest.mark.parametrize("bad", ["a b", "a/b", "é" * 257, "a?b", "a:b", ".", ".."])
def test_store_with_an_invalid_id_is_refused(google: Resource, dataset: str, bad: str) -> None:
    refusal = _refusal(google.dicomStores().create(parent=dataset, dicomStoreId=bad, body={}))
    assert refusal.status_code == 400
    assert "dicomStoreId" in refusal.reason


def test_stores_are_listed_in_pages_and_by_label(google: Resource, dataset: str) -> None:
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
    google: Resource, manual: Control, dataset: str, export: Callable[[str], str]
) -> None:
    store = f"{dataset}/dicomStores/s"
    execute(google.dicomStores().create(parent=dataset, dicomStoreId="s", body={}))
    operations = google.operations()

    def listed(**query: Any) -> list[str]:
        found, request = [], operations.list(name=dataset, pageSize=2, **query)
        while request is not None:
            page = execute(request)
            found += [operation["name"] for operation in page.get("operations", [])]
            request = operations.list_next(request, page)
        return found

    created = listed()
    names = [export(store) for _ in range(5)]
    manual.step(names[0])
    assert listed() == [*names[::-1], *created]
    assert listed(filter="done=false") == names[:0:-1]
    assert listed(filter="done = true") == [*names[:1], *created]
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
