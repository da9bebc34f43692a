"""Uploaded files: read at the same time, and deflated as a whole."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

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


def test_deflated_data_set_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.PixelData = bytes(3_000_000)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "deflated.dcm"
    dcmwrite(path, dataset)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(dicom_files, "MAX_INFLATED_BYTES", 3_500_000)
    assert dicom_files.read(path).instance_uid == dataset.SOPInstanceUID
    monkeypatch.setattr(dicom_files, "MAX_INFLATED_BYTES", 3_000_000)
    with pytest.raises(dicom_files.NotDicomError, match="inflates to more than 3000000 bytes"):
        dicom_files.read(path)
