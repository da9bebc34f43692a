"""Operators for the test's DICOM store, in a dataset of its own, and what their tasks log."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.hooks import dicom_store as hook_module
from rig.dicom_files import create_store, sample_files, upload
from tests.support.provider_fixtures import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator

_dataset_numbers = itertools.count(1)


@pytest.fixture
def dicom_store(healthcare: HealthcareEmulator) -> str:
    """An empty DICOM store in a dataset of the test's own: no Operation of another test runs there."""
    dataset = f"projects/test-project/locations/europe-west3/datasets/operators-{next(_dataset_numbers)}"
    name = f"{dataset}/dicomStores/pacs"
    create_store(healthcare.url, name)
    return name


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], logged: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns all lines of tasks' logs since its last call; Airflow 3 prints them, Airflow 2 logs them."""

    def read() -> str:
        text = capsys.readouterr().out or logged.text
        logged.clear()
        return text

    return read


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
