"""Uploaded files that are read at the same time."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file

from airflow_provider_dicom.emulator.models import dicom_files


def test_files_read_at_the_same_time_leave_settings_of_pydicom_unchanged() -> None:
    path = Path(str(get_testdata_file("CT_small.dcm")))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(dicom_files.read, [path] * 64))
    finally:
        sys.setswitchinterval(before)
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN
