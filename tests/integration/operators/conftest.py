"""Operators for the test's DICOM store."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.hooks import dicom_store as hook_module
from tests.support.provider_fixtures import *  # noqa: F403


@pytest.fixture(autouse=True)
def short_confirmation_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check more often than in production, and for as long, whether a cancellation is confirmed."""
    monkeypatch.setattr(hook_module, "CONFIRMATION_PAUSES", (0.05,) * 140)
