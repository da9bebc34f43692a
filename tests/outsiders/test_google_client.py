"""Google's own client calls every method for DICOM that the discovery document has."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import httplib2
import pytest
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError

from rig.dicom_files import sample_files, uids_of, upload
from tests.support.discovery_check import discovery_document, validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from googleapiclient.discovery import Resource
    from googleapiclient.http import HttpRequest

    from rig.servers import HealthcareEmulator, StorageEmulator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PREFIX = "healthcare.projects.locations."
CT = next(path for path in sample_files() if path.name == "CT_small.dcm")
UIDS = uids_of(CT)
STUDY, SERIES = f"studies/{UIDS.study}", f"studies/{UIDS.study}/series/{UIDS.series}"
INSTANCE = f"{SERIES}/instances/{UIDS.instance}"
BUCKET = "outsiders"
POLICY = {"bindings": [{"role": "roles/healthcare.dicomViewer", "members": ["user:eva@example.com"]}]}
PERMISSIONS = {"permissions": ["healthcare.dicomStores.get"]}
#: What is left to viewers, or to others, as the documentation says.
UNIMPLEMENTED = {
    "get",
    "list",
    "datasets.deidentify",
    "datasets.dicomStores.deidentify",
    "datasets.dicomStores.setBlobStorageSettings",
    "datasets.dicomStores.dicomWeb.studies.setBlobStorageSettings",
    "datasets.dicomStores.dicomWeb.studies.series.instances.getStorageInfo",
    "datasets.dicomStores.studies.series.instances.retrieveRendered",
    "datasets.dicomStores.studies.series.instances.frames.retrieveFrames",
    "datasets.dicomStores.studies.series.instances.frames.retrieveRendered",
    "datasets.dicomStores.studies.series.instances.bulkdata.retrieveBulkdata",
}


def methods() -> dict[str, dict[str, Any]]:
    """Return the methods for DICOM by their ids, without the common prefix."""

    def walk(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from resource.get("methods", {}).values()
        for child in resource.get("resources", {}).values():
            yield from walk(child)

    kinds = ("datasets.dicomStores.", "datasets.operations.")
    found = {}
    # A copy, because Google's client adds parameters to the document that it is built from.
    for method in walk(copy.deepcopy(discovery_document())):
        name = method["id"].removeprefix(PREFIX)
        if name.startswith(kinds) or name.count(".") == name.startswith("datasets."):
            found[name] = method
    return found


METHODS = methods()
#: The DICOMweb path of each method that has one.
PATHS = {
    "searchForStudies": "studies",
    "searchForSeries": "series",
    "searchForInstances": "instances",
    "studies.searchForSeries": f"{STUDY}/series",
    "studies.searchForInstances": f"{STUDY}/instances",
    "studies.series.searchForInstances": f"{SERIES}/instances",
    "storeInstances": "studies",
    "studies.storeInstances": STUDY,
    "studies.retrieveStudy": STUDY,
    "studies.retrieveMetadata": f"{STUDY}/metadata",
    "studies.series.retrieveSeries": SERIES,
    "studies.series.retrieveMetadata": f"{SERIES}/metadata",
    "studies.series.instances.retrieveInstance": INSTANCE,
    "studies.series.instances.retrieveMetadata": f"{INSTANCE}/metadata",
    "studies.series.instances.retrieveRendered": f"{INSTANCE}/rendered",
    "studies.series.instances.frames.retrieveFrames": f"{INSTANCE}/frames/1",
    "studies.series.instances.frames.retrieveRendered": f"{INSTANCE}/frames/1/rendered",
    "studies.series.instances.bulkdata.retrieveBulkdata": f"{INSTANCE}/bulkdata/7FE00010/0",
    "studies.delete": STUDY,
    "studies.series.delete": SERIES,
    "studies.series.instances.delete": INSTANCE,
}
BODIES: dict[str, dict[str, Any]] = {
    "setIamPolicy": {"policy": POLICY},
    "testIamPermissions": PERMISSIONS,
    "export": {"gcsDestination": {"uriPrefix": f"gs://{BUCKET}/methods"}},
    "import": {"gcsSource": {"uri": f"gs://{BUCKET}/source.dcm"}},
    "patch": {"labels": {"env": "test"}},
    "datasets.patch": {"timeZone": "Europe/Berlin"},
}
QUERIES: dict[str, dict[str, Any]] = {
    "datasets.create": {"datasetId": "made"},
    "datasets.dicomStores.create": {"dicomStoreId": "made"},
    "datasets.dicomStores.patch": {"updateMask": "labels"},
    "datasets.patch": {"updateMask": "timeZone"},
}


@pytest.fixture
def service(healthcare: HealthcareEmulator) -> Iterator[Resource]:
    service = build_from_document(
        discovery_document(), http=httplib2.Http(), client_options={"api_endpoint": healthcare.url}
    )
    yield service
    service.close()


def request_of(service: Resource, name: str, resource: str, dataset: str, operation: str) -> HttpRequest:
    """Return a request of Google's client for a method."""
    *path, verb = name.split(".")
    collection = service.projects().locations()
    for part in path:
        collection = getattr(collection, part)()
    arguments: dict[str, Any] = dict(QUERIES.get(name, {}))
    for parameter, node in METHODS[name]["parameters"].items():
        if node["location"] != "path":
            continue
        arguments[parameter] = {
            "^projects/[^/]+$": "projects/test-project",
            "^projects/[^/]+/locations/[^/]+$": dataset.rpartition("/datasets/")[0],
            "^projects/[^/]+/locations/[^/]+/datasets/[^/]+$": dataset,
            "^projects/[^/]+/locations/[^/]+/datasets/[^/]+/operations/[^/]+$": operation,
            "^projects/[^/]+/locations/[^/]+/datasets/[^/]+/dicomStores/[^/]+$": resource,
        }.get(node["pattern"]) or dicomweb_name(name, resource, node["pattern"])
    if "request" in METHODS[name] and METHODS[name]["request"]["$ref"] != "HttpBody":
        arguments["body"] = BODIES.get(name, BODIES.get(verb, {}))
    attribute = f"{verb}_" if verb == "import" else verb
    return getattr(collection, attribute)(**arguments)


def dicomweb_name(name: str, resource: str, pattern: str) -> str:
    short = name.removeprefix("datasets.dicomStores.")
    if short in PATHS:
        return PATHS[short]
    below = INSTANCE if "instances" in pattern else SERIES if "series" in pattern else STUDY
    return f"{resource}/dicomWeb/{below}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_responds_as_the_document_says(
    name: str, service: Resource, healthcare: HealthcareEmulator, storage: StorageEmulator, dicom_store: str
) -> None:
    storage.write(BUCKET, "source.dcm", CT.read_bytes())
    dataset = dicom_store.rpartition("/dicomStores/")[0]
    if not name.endswith("storeInstances"):
        upload(healthcare.url, dicom_store, [CT])
    if name in ("datasets.delete", "datasets.dicomStores.create"):
        # The dataset of its own: others share the one of the stores.
        dataset = f"{dataset}-{name.replace('.', '-').lower()}"
        parent, _, dataset_id = dataset.rpartition("/datasets/")
        service.projects().locations().datasets().create(
            parent=parent, datasetId=dataset_id, body={}
        ).execute()
    export = (
        service.projects()
        .locations()
        .datasets()
        .dicomStores()
        .export(name=dicom_store, body=BODIES["export"])
    )
    operation = export.execute()["name"]

    request = request_of(service, name, dicom_store, dataset, operation)
    schema = METHODS[name]["response"]["$ref"]
    if schema == "HttpBody":
        check_dicomweb(request, name)
    elif name in UNIMPLEMENTED:
        with pytest.raises(HttpError) as refused:
            request.execute()
        check_unimplemented(refused.value.status_code, json.loads(refused.value.content), name)
    else:
        validate(request.execute(), schema)


def check_dicomweb(request: HttpRequest, name: str) -> None:
    """Send a DICOMweb request, whose bodies Google's client does not know, as Google's samples do."""
    headers, body = dict(request.headers), request.body
    if name.endswith("storeInstances"):
        headers["content-type"], body = "application/dicom", CT.read_bytes()
    elif "retrieveMetadata" in name or "searchFor" in name:
        headers["accept"] = "application/dicom+json"
    elif "Rendered" not in name and "Frames" not in name:
        headers["accept"] = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    response, content = request.http.request(request.uri, request.method, body, headers)
    if name in UNIMPLEMENTED:
        check_unimplemented(response.status, json.loads(content), name)
        return
    assert response.status == 200, content
    kind = response["content-type"]
    if kind.startswith("multipart/related"):
        assert CT.read_bytes() in content or UIDS.instance.encode() in content
    else:
        assert kind == "application/dicom+json"
        assert json.loads(content)


def check_unimplemented(status: int, answer: dict[str, Any], name: str) -> None:
    assert status == 501
    assert answer["error"]["status"] == "UNIMPLEMENTED"
    assert answer["error"]["message"].endswith(f"{PREFIX}{name}.")


def test_methods_without_a_handler_are_those_that_are_known() -> None:
    assert METHODS.keys() > UNIMPLEMENTED
    assert len(METHODS) > 45
