"""The routes of the API's methods."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_dicom.emulator.server import routes

PAGE = Path(__file__).parents[4] / "docs" / "local-healthcare-api.md"
#: The kinds of resources that have nothing to do with DICOM.
OTHERS = ("consentStores", "dataMapperWorkspaces", "fhirStores", "hl7V2Stores", "services")


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("GET", "operations/1", "operations.get"),
        ("GET", "operations", "operations.list"),
        ("POST", "operations/1:cancel", "operations.cancel"),
        ("POST", "dicomStores/s:export", "export"),
        ("GET", "dicomStores/s", "stores.get"),
        ("GET", "dicomStores", "stores.list"),
        ("POST", "dicomStores", "stores.create"),
        ("GET", "dicomStores/s:getDICOMStoreMetrics", "metrics"),
        ("POST", "dicomStores/s:testIamPermissions", "testIamPermissions"),
        ("GET", "dicomStores/s/dicomWeb/studies", "search"),
        ("GET", "dicomStores/s/dicomWeb/studies/1/series/2/instances", "search"),
        ("POST", "dicomStores/s/dicomWeb/studies", "store"),
        ("POST", "dicomStores/s/dicomWeb/studies/1", "store"),
        ("GET", "dicomStores/s/dicomWeb/studies/1", "retrieve"),
        ("GET", "dicomStores/s/dicomWeb/studies/1/series/2/instances/3/metadata", "retrieve"),
        ("DELETE", "dicomStores/s/dicomWeb/studies/1", "delete"),
        ("POST", "dicomStores/s:import", "import"),
        ("GET", "dicomStores/s:getIamPolicy", "stores.getIamPolicy"),
        (
            "GET",
            "dicomStores/s/dicomWeb/studies/1:getStudyMetrics",
            "dicomStores.dicomWeb.studies.getStudyMetrics",
        ),
    ],
)
def test_url_has_the_route_of_its_method(verb: str, path: str, name: str) -> None:
    target = routes.find(verb, f"/v1/projects/p/locations/l/datasets/d/{path}")
    assert target is not None
    assert target.route.name == name


def test_denial_names_the_permission_and_the_dataset_is_known() -> None:
    dataset = "projects/p/locations/l/datasets/d"
    for verb, name, permission in (
        ("PATCH", dataset, "healthcare.datasets.update"),
        ("DELETE", dataset, "healthcare.datasets.delete"),
        ("GET", f"{dataset}/operations/1", "healthcare.operations.get"),
        ("DELETE", f"{dataset}/dicomStores/s/dicomWeb/studies/1", "healthcare.dicomStores.dicomWebDelete"),
    ):
        target = routes.find(verb, f"/v1/{name}")
        assert target is not None
        assert target.dataset == dataset
        assert f"Permission '{permission}' denied on resource" in target.denial()
    datasets = routes.find("GET", "/v1/projects/p/locations/l/datasets")
    assert datasets is not None
    assert datasets.dataset is None


def test_other_urls_and_http_methods_have_no_route() -> None:
    assert routes.find("GET", "/v1/projects/p") is None
    assert routes.find("PUT", "/v1/projects/p/locations/l/datasets/d/dicomStores/s") is None


def test_documentation_lists_every_method_for_dicom_and_those_that_are_missing() -> None:
    listed = {
        name: state == "yes"
        for names, state in re.findall(r"^\| (`.*?) \| (yes|501) \|", PAGE.read_text(), re.MULTILINE)
        for name in re.findall(r"`([\w.]+)`", names)
    }
    prefix = "healthcare.projects.locations."
    offered = {
        route.method.id.removeprefix(prefix): route.handler is not None
        for route in routes.ROUTES
        if not any(kind in route.method.id for kind in OTHERS)
    }
    assert listed == offered
