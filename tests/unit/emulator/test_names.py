"""Resource names, resource paths and UIDs."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.names import ResourcePath, check_id, dataset_of, is_uid


def test_parts_of_resource_names_and_ids() -> None:
    name = "projects/p/locations/l/datasets/d/operations/7"
    assert dataset_of(name) == "projects/p/locations/l/datasets/d"
    for good in ("é-_.1", "...", ".a"):
        assert check_id("id", good) == good
    for bad in (None, "", ".", "..", "a b", "a/b", "a\n", "x" * 257):
        with pytest.raises(ApiError, match="id"):
            check_id("id", bad)


def test_is_uid_accepts_only_valid_uids() -> None:
    assert all(is_uid(uid) for uid in ("1", "1.2.840.10008", "1.02", "1" * 64))
    assert not any(is_uid(uid) for uid in ("", ".", "..", "1..2", "1.", ".1", "1.2\n", "a", "1/2", "1" * 65))


def test_resource_paths_are_parsed_and_written() -> None:
    for text, path in {
        "studies": ResourcePath(),
        "studies/1": ResourcePath("1"),
        "studies/1/series": ResourcePath("1"),
        "studies/1/series/2": ResourcePath("1", "2"),
        "studies/1/series/2/instances/3": ResourcePath("1", "2", "3"),
        "studies/1/series/2/instances/3/metadata": ResourcePath("1", "2", "3"),
    }.items():
        assert ResourcePath.parse(text) == path
    assert str(ResourcePath("1", "2", "3")) == "/studies/1/series/2/instances/3"
    assert str(ResourcePath("1")) == "/studies/1"
