"""The inventory of a bucket: the resource path of an exported object, from its name."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.selection.inventory import path_of_object

PATH = "/studies/1.2/series/3.4/instances/5.6"


@pytest.mark.parametrize("name", ["1.2/3.4/5.6.dcm", "1.2/3.4/5.6", "1.2/3.4/5.6/1.png", "1.2/3.4/5.6/12"])
def test_names_of_files_and_frames_are_resource_paths(name: str) -> None:
    assert path_of_object(name) == PATH
    assert path_of_object(f"2026-03-29/{name}", in_folders=True) == PATH
    assert path_of_object(f"nights/of 2026/{name}", in_folders=True) == PATH
    assert path_of_object(f"2026-03-29/{name}") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1.2/3.4/",
        "1.2/3.4",
        "1.2/3.4/5.6.DCM",
        "1.2/3.4/report.txt",
        "1.2/3.4/5.6/x/1.png",
        f"1.2/3/{'4' * 65}.dcm",
    ],
)
def test_other_object_names_are_no_resource_paths(name: str) -> None:
    assert path_of_object(name) is None
