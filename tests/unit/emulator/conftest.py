"""Fixtures of the local Healthcare API's unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.emulator.models.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An empty data directory."""
    archive = Archive.open(tmp_path)
    yield archive
    archive.close()
