"""The routes of the API's methods, and the page that lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_dicom.emulator.server import routes
from airflow_provider_dicom.emulator.server.discovery import methods

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "local-api.md"
#: Resources that have nothing to do with DICOM.
OTHERS = ("consentStores", "dataMapperWorkspaces", "fhirStores", "hl7V2Stores")


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


def test_reference_lists_every_method_as_offered_or_not() -> None:
    listed = {
        method: row[2].strip()
        for line in PAGE.read_text().partition("## Methods")[2].partition("\n## ")[0].splitlines()
        if (row := line.split("|"))[1:]
        for method in re.findall(r"`(datasets\.[\w.]+)`", row[1])
    }
    offered = {
        route.method.id.partition(".locations.")[2]: route.handler is not None for route in routes.ROUTES
    }
    about_dicom = {
        method
        for method in methods()
        if method.startswith("datasets.")
        and not method.startswith(tuple(f"datasets.{other}." for other in OTHERS))
    }
    assert listed == {method: "yes" if offered[method] else "no" for method in about_dicom}
