"""Uploaded files are read by processes of their own, if there are many."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest

from airflow_provider_dicom.emulator.models import dicom_files
from airflow_provider_dicom.emulator.models.dicom_files import NotDicomError
from airflow_provider_dicom.emulator.models.reading import MANY, Reader
from rig.dicom_files import sample_files

if TYPE_CHECKING:
    from pathlib import Path


def children() -> list[psutil.Process]:
    """Return the processes that this process has started for reading."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_many_files_are_read_by_processes_of_their_own_and_few_are_not(tmp_path: Path) -> None:
    paths = sample_files()[: 2 * MANY]
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no DICOM")
    before = len(children())

    async def read_all() -> None:
        reader = Reader()
        try:
            assert await reader.read(paths[0]) == dicom_files.read(paths[0])
            assert len(children()) == before
            expected = [dicom_files.read(path) for path in paths]
            assert await asyncio.gather(*map(reader.read, paths)) == expected
            assert len(children()) > before
            with pytest.raises(NotDicomError, match="not a readable DICOM Part 10 file"):
                await reader.read(broken)
            for child in children():
                child.kill()
            # A process that was killed is made up for.
            assert await asyncio.gather(*map(reader.read, paths)) == expected
        finally:
            await asyncio.to_thread(reader.close)

    asyncio.run(read_all())
    assert len(children()) == before
