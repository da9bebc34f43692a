"""How much data an export reads: in the log, and in the metadata of a filter file."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.selection.filter_file import FilterFile
from airflow_provider_dicom.selection.filter_lines import SelectedPath
from airflow_provider_dicom.selection.filter_parts import part_uri
from airflow_provider_dicom.selection.volume import Volume, describe_bytes

MIB = 1024**2
PRICED = "of it in COLDLINE or ARCHIVE, whose reading is priced"


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        (Volume(), ""),
        (Volume(3), "3 resource paths"),
        (Volume(None, 1200, 5 * MIB), "1,200 instances, 5.0 MiB"),
        (Volume(2, 2, 5 * MIB, 0), "2 instances, 5.0 MiB, nothing of it in COLDLINE or ARCHIVE"),
        (
            Volume(1, 40, 5 * MIB, MIB),
            f"1 resource paths, 40 instances, 5.0 MiB, 1.0 MiB {PRICED}",
        ),
    ],
)
def test_volume_says_what_is_known(volume: Volume, text: str) -> None:
    assert volume.describe() == text
    assert bool(volume) == bool(text)
    assert Volume.of_metadata(volume.as_metadata()) == volume


def test_metadata_of_others_is_not_believed() -> None:
    metadata = {
        "dicom-export-paths": "-3",
        "dicom-export-size": "1e9",
        "dicom-export-priced": "٣",
        "instances": "9",
    }
    assert Volume.of_metadata(metadata) == Volume()
    assert Volume.of_metadata(None) == Volume()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**60, "1024.0 PiB")],
)
def test_bytes_have_a_unit_that_people_can_read(count: int, text: str) -> None:
    assert describe_bytes(count) == text


def selected(number: int, size: int | None = 10) -> SelectedPath:
    return SelectedPath(f"/studies/{number}", Volume(None, 2, size, None if size is None else size // 2))


def test_file_has_the_volume_of_its_paths_and_each_path_counts_once() -> None:
    with FilterFile.of([selected(1), selected(2, 30), selected(1)]) as file:
        assert file.volume == Volume(2, 4, 40, 20)
        assert file.parts == []
    with FilterFile.of([selected(1), selected(2, None)]) as file:
        assert file.volume == Volume(2, 4, None, None)
    with FilterFile.of([selected(1), "/studies/2"]) as file:
        assert file.volume == Volume(2, None, None, None)


@pytest.mark.parametrize(
    ("count", "max_paths", "sizes"),
    [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 3, [2]), (3, 1, [1, 1, 1]), (0, 3, [])],
)
def test_file_is_split_in_order(count: int, max_paths: int, sizes: list[int]) -> None:
    numbers = sorted(range(count), key=str)
    with FilterFile.of((selected(number) for number in numbers), max_paths_per_part=max_paths) as file:
        contents, volumes = [], []
        for part in file.parts:
            with file.part(part) as part_file:
                part_file.file.seek(0)
                contents.append(part_file.file.read().decode().split())
                volumes.append(part_file.volume)
                with FilterFile.of(contents[-1]) as same:
                    assert (part_file.md5, part_file.digest) == (same.md5, same.digest)
        file.file.seek(0)
        assert [path for paths in contents for path in paths] == file.file.read().decode().split()
    assert [len(paths) for paths in contents] == sizes
    assert volumes == [Volume(size, 2 * size, 10 * size, 5 * size) for size in sizes]


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("gs://b/f.txt", "gs://b/f-00002-of-00007.txt"),
        ("gs://b.c/a.b/2026-03-29", "gs://b.c/a.b/2026-03-29-00002-of-00007"),
        ("gs://b/x/.txt", "gs://b/x/.txt-00002-of-00007"),
        ("gs://b/a.b.txt", "gs://b/a.b-00002-of-00007.txt"),
    ],
)
def test_part_has_its_number_before_the_extension(uri: str, part: str) -> None:
    assert part_uri(uri, 2, 7) == part
