"""Resource ids, and the resource names that are built from them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName, id_error
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from tests.support.resource_ids import LOCATIONS, PROJECTS, RESOURCE_IDS

NAMES = ["dataset_id", "dicom_store_id", "operation_id"]
PARAMETERS = ["project_id", "location", "dataset_id", "dicom_store_id", "operation_id"]


@given(RESOURCE_IDS)
@example("a")
@example("Abteilung_für-Röntgen.2")
@example("放射線科")
@example("x" * 256)
@example("-")
@example("_.")
@pytest.mark.parametrize("parameter", NAMES)
def test_every_id_of_the_apis_own_pattern_is_accepted(parameter: str, value: str) -> None:
    assert id_error(parameter, value) is None


@pytest.mark.parametrize("parameter", ["dataset_id", "dicom_store_id"])
@given(st.text(max_size=300))
@example("Ro\u0308ntgen")
@example("a:b")
@example("a\u20e3")
def test_dataset_and_store_ids_outside_the_apis_pattern_are_refused(parameter: str, value: str) -> None:
    matches_pattern = 1 <= len(value) <= 256 and all(
        character in "_-." or unicodedata.category(character)[0] in "LN" for character in value
    )
    error = id_error(parameter, value)
    if matches_pattern and ".." not in value and value != ".":
        assert error is None
    else:
        assert error is not None
        assert f"{parameter}={value!r}" in error
        assert "accepted: letters and digits" in error


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a/b",
        "a?b",
        "a#b",
        "a%2Fb",
        "..",
        ".",
        "a..b",
        "a b",
        " a",
        "a\n",
        "a\tb",
        "a\x00",
        "\x7f",
        "a\u00a0b",
        "a\u2028b",
        "a\u200bb",
        "a\ud800",
        "x" * 257,
        None,
        7,
        True,
        b"a",
        ["a"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_ids_that_could_reach_another_resource_are_refused(parameter: str, value: object) -> None:
    error = id_error(parameter, value)
    assert error is not None
    assert error.startswith(f"{parameter}={value!r} ")
    assert "; accepted: " in error


@pytest.mark.parametrize("value", ["my-project-1", "example.com:my-project", "123456789012", "p"])
def test_project_ids_and_numbers_are_accepted(value: str) -> None:
    assert id_error("project_id", value) is None


@pytest.mark.parametrize("value", ["us", "us-central1", "northamerica-northeast2", "global"])
def test_locations_are_accepted(value: str) -> None:
    assert id_error("location", value) is None


@pytest.mark.parametrize(
    "value",
    ["us;touch${IFS}X;", "$(id)", "`id`", "a|b", "-us", "us-", "US", "\u0440us", "us'", "--help", "a_b"],
)
@pytest.mark.parametrize("parameter", ["project_id", "location"])
def test_projects_and_locations_that_google_does_not_accept_are_refused(parameter: str, value: str) -> None:
    error = id_error(parameter, value)
    assert error is not None
    assert "lowercase letters, digits and '-'" in error


@given(PROJECTS, LOCATIONS, RESOURCE_IDS, RESOURCE_IDS)
def test_operation_name_is_parsed_into_the_ids_that_it_was_built_from(
    project: str, location: str, dataset: str, last: str
) -> None:
    parent = DatasetName(project, location, dataset)
    operation = OperationName(parent, last)
    assert str(DicomStoreName(parent, last)) == (
        f"projects/{project}/locations/{location}/datasets/{dataset}/dicomStores/{last}"
    )
    assert OperationName.parse(str(operation)) == operation


@pytest.mark.parametrize(
    "name",
    [
        "",
        "operations/1",
        "projects/p/locations/l/datasets/d/operations/",
        "projects/p/locations/l/operations/1",
        "/projects/p/locations/l/datasets/d/operations/1",
        "projects/p/locations/l/datasets/d/operations/1/",
        "projects/p/locations/l/datasets/d/operations/1\n",
        "projects/p/locations/l/datasets/../operations/1",
        "projects/p/locations/l/datasets/d/dicomStores/s",
        "projects/p/locations/l/datasets/d/operations/a?b",
        "https://evil/projects/p/locations/l/datasets/d/operations/1",
        None,
        3,
    ],
    ids=repr,
)
def test_invalid_operation_name_is_refused(name: str) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="accepted: "):
        OperationName.parse(name)


def test_all_invalid_ids_are_reported_at_once() -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        DatasetName("", "a/b", "c d")
    for sentence in ("project_id=''", "location='a/b'", "dataset_id='c d'"):
        assert sentence in str(error.value)
