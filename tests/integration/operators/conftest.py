"""Operators for the test's DICOM store, and a hook to look at its Operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from airflow_provider_dicom.hooks import dicom_store as hook_module
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from rig.dicom_files import sample_files, upload
from tests.support.provider_fixtures import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator


class ExportOperatorFactory(Protocol):
    """Builds operators that export the test's DICOM store."""

    def __call__(self, **changes: object) -> DicomStoreExportOperator:
        """Build an operator; ``changes`` are its parameters other than the defaults."""


@pytest.fixture
def hook(anonymous: str, healthcare: HealthcareEmulator) -> Iterator[DicomStoreHook]:
    """A hook with the test's connection."""
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        yield hook


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
