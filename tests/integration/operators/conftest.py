"""Operators for the test's DICOM store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.hooks import dicom_store as hook_module
from rig.dicom_files import sample_files, upload
from tests.support.provider_fixtures import *  # noqa: F403

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator


@pytest.fixture(autouse=True)
def short_confirmation_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check more often than in production, and for as long, whether a cancellation is confirmed."""
    monkeypatch.setattr(hook_module, "CONFIRMATION_PAUSES", (0.05,) * 140)


@pytest.fixture
def thirty_frames(store: DicomStoreName, healthcare: HealthcareEmulator) -> Uids:
    """An instance with 30 frames in ``store``."""
    (path,) = (path for path in sample_files() if path.name == "examples_ybr_color.dcm")
    (uids,) = upload(healthcare.url, str(store), [path])
    return uids
