"""The inventory of a bucket: the resource path of an exported object, from its name."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.selection.inventory import path_of_object

PATH = "/studies/1.2/series/3.4/instances/5.6"


FOLDERS = ["", "2026-03-29/", "nights/of 2026/", "20260329/", "2026/03/29/", "1.2.3/", "7/8.9/10/11/"]


@pytest.mark.parametrize("name", ["1.2/3.4/5.6.dcm", "1.2/3.4/5.6", "1.2/3.4/5.6.png"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_name_of_a_file_is_the_resource_path_of_an_instance_in_any_folder(name: str, folder: str) -> None:
    assert path_of_object(folder + name, in_folders=True) == PATH
    assert path_of_object(folder + name) == (None if folder else PATH)


@pytest.mark.parametrize("name", ["1.2/3.4/5.6/12.png", "1.2/3.4/5.6/12"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_name_of_a_frame_is_the_resource_path_of_a_frame_in_any_folder(name: str, folder: str) -> None:
    assert path_of_object(folder + name, in_folders=True) == f"{PATH}/frames/12"
    assert path_of_object(folder + name) == (None if folder else f"{PATH}/frames/12")


def test_uid_without_a_dot_is_an_instance_in_a_dicom_file_and_without_folders() -> None:
    assert path_of_object("1/2/3.dcm") == path_of_object("1/2/3.png") == "/studies/1/series/2/instances/3"
    assert path_of_object("20260329/1/2/3.dcm", in_folders=True) == "/studies/1/series/2/instances/3"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1.2/3.4/",
        "1.2/3.4",
        "1.2/3.4/5.6.DCM",
        "1.2/3.4/report.txt",
        "1.2/3.4/5.6/x/1.png",
        "1.2/3.4/5.6/1.dcm",
        f"1.2/3/{'4' * 65}.dcm",
    ],
)
def test_other_object_names_are_no_resource_paths(name: str) -> None:
    assert path_of_object(name) is None


@pytest.mark.parametrize("name", ["", "1.dcm", "1.2/3.dcm", "x/1.2/3.4.dcm", "x/1.2/3.4/5.6.dcm.part", "x/"])
def test_other_object_names_in_folders_are_no_resource_paths(name: str) -> None:
    assert path_of_object(name, in_folders=True) is None
