"""The filter file before its upload: valid paths, each once and in order, in memory that does not grow."""

from __future__ import annotations

import base64
import hashlib
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.selection import sorted_lines
from airflow_provider_dicom.selection.filter_file import FilterFile, resource_path_errors

MIB = 1024 * 1024


class ManyPaths(Sequence[str]):
    """Resource paths that are built on access, each twice, as a lazy list of XComs yields them."""

    def __init__(self, unique: int) -> None:
        self._unique = unique

    def __len__(self) -> int:
        return 2 * self._unique

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if not isinstance(index, int) or index >= len(self):
            raise IndexError(index)
        number = index % self._unique
        return f"/studies/1.2.840.{number % 1000}/series/1.2.840.{number}/instances/1.2.840.{number}.1"


def test_filter_file_holds_each_path_once_and_in_order() -> None:
    paths = ["/studies/2", "/studies/10", "/studies/2", "/studies/1"]
    with FilterFile.of(paths) as file:
        content = Path(file.filename).read_bytes()
    assert content == b"/studies/1\n/studies/10\n/studies/2\n"
    assert file.count == 3
    assert file.md5 == base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    assert file.file.closed


def test_digest_depends_on_the_paths_and_not_on_their_order() -> None:
    digests = []
    for paths in (["/studies/1", "/studies/2"], ["/studies/2", "/studies/1", "/studies/1"], ["/studies/1"]):
        with FilterFile.of(paths) as file:
            digests.append(file.digest)
    assert digests[0] == digests[1] != digests[2]


def test_filter_file_without_paths_is_never_uploaded() -> None:
    with FilterFile.of([]) as file, pytest.raises(DicomExportInvalidRequestError, match="no resource path"):
        file.upload("gs://bucket/f.txt", gcp_conn_id="none", impersonation_chain=None)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_lines, "RUN_BYTES", 64 * 1024)
    monkeypatch.setattr(sorted_lines, "BUFFER_BYTES", 4 * 1024)
    monkeypatch.setattr(sorted_lines, "MAX_RUNS", 20)
    peaks = []
    for unique in (1_000, 50_000):
        tracemalloc.start()
        paths = ManyPaths(unique)
        assert resource_path_errors(paths) == []
        with FilterFile.of(paths) as file:
            peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert file.count == unique
    assert peaks[1] < peaks[0] + MIB


def test_first_five_of_many_invalid_paths_are_reported() -> None:
    *first, more = resource_path_errors(["/studies/x"] * 1000)
    assert len(first) == 5
    assert more == "995 more are refused as well."


UIDS = st.lists(st.integers(0, 10**8).map(str), min_size=1, max_size=6).map(".".join)


@given(st.lists(st.lists(UIDS, min_size=1, max_size=3), min_size=1, max_size=5))
def test_resource_paths_of_studies_series_and_instances_are_accepted(paths: list[list[str]]) -> None:
    levels = ("studies", "series", "instances")
    texts = ["".join(f"/{level}/{uid}" for level, uid in zip(levels, uids, strict=False)) for uids in paths]
    assert resource_path_errors(texts) == []
    assert resource_path_errors(tuple(texts)) == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "studies/1.2",
        "/studies/",
        "/studies/1.2/",
        "/studies/1.2/series",
        "/studies/1.2/instances/3",
        "/series/1.2",
        "/studies/1.2\n",
        "/studies/1.2\n/studies/3",
        "/studies/1..2",
        "/studies/1.2.",
        "/studies/a",
        "/studies/*",
        "/studies/../x",
        " /studies/1.2",
        "/STUDIES/1.2",
        "/studies/" + "1." * 32 + "1",
        "/studies/1.2?x=1",
        "/studies/\u0661",
        None,
        5,
        ["/studies/1.2"],
    ],
    ids=repr,
)
def test_invalid_resource_path_is_refused(path: object) -> None:
    (error,) = resource_path_errors(["/studies/1.2", path])
    # It may be anything, such as the name of a patient.
    assert not path or repr(path) not in error
    assert "at position 2" in error
    assert "accepted: '/studies/UID[/series/UID[/instances/UID]]'" in error


@pytest.mark.parametrize(
    "paths",
    ["/studies/1.2", None, 5, {"/studies/1.2"}, iter(["/studies/1.2"]), {"a": 1}],
    ids=["text", "None", "number", "set", "iterator", "dict"],
)
def test_resource_paths_that_are_not_a_list_are_refused(paths: object) -> None:
    (error,) = resource_path_errors(paths)
    assert type(paths).__name__ in error
    assert "accepted: a list" in error
