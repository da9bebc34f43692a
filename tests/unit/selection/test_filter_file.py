"""The filter file, as far as it is local: each path once, in order, and in memory that does not grow."""

from __future__ import annotations

import base64
import hashlib
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import pytest

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.selection.filter_file import FilterFile, resource_path_errors

MIB = 1024 * 1024


class ManyPaths(Sequence[str]):
    """Paths made when they are asked for, each twice, as a list of XComs hands them out."""

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


def test_paths_are_written_once_and_in_order() -> None:
    paths = ["/studies/2", "/studies/10", "/studies/2", "/studies/1"]
    with FilterFile.of(paths) as file:
        content = Path(file.filename).read_bytes()
    assert content == b"/studies/1\n/studies/10\n/studies/2\n"
    assert file.count == 3
    assert file.md5 == base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    assert not Path(file.filename).exists()


def test_the_digest_tells_other_paths_and_not_another_order() -> None:
    digests = []
    for paths in (["/studies/1", "/studies/2"], ["/studies/2", "/studies/1", "/studies/1"], ["/studies/1"]):
        with FilterFile.of(paths) as file:
            digests.append(file.digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_file_without_paths_is_never_written() -> None:
    with FilterFile.of([]) as file, pytest.raises(DicomExportInvalidRequestError, match="no resource path"):
        file.upload("gs://bucket/f.txt", gcp_conn_id="none", impersonation_chain=None)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_paths() -> None:
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


def test_of_many_mistakes_the_first_few_are_told() -> None:
    *told, more = resource_path_errors(["/studies/x"] * 1000)
    assert len(told) == 5
    assert more == "995 more are refused as well."
