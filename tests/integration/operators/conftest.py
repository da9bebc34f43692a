"""Operators for the test's DICOM store, and a hook to look at its Operations."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import pytest

from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.hooks import dicom_store as hook_module
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from rig.dicom_files import create_store
from tests.support.provider_fixtures import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
    from rig.servers import HealthcareEmulator


_dataset_numbers = itertools.count(1)


class ExportOperatorFactory(Protocol):
    """Builds operators that export the test's DICOM store."""

    def __call__(self, **changes: object) -> DicomStoreExportOperator:
        """Build an operator; ``changes`` are its parameters other than the defaults."""


@pytest.fixture
def store(healthcare: HealthcareEmulator) -> DicomStoreName:
    """An empty DICOM store in a dataset of the test's own: no Operation of another test runs there."""
    dataset = DatasetName("test-project", "europe-west3", f"operators-{next(_dataset_numbers)}")
    store = DicomStoreName(dataset, "pacs")
    create_store(healthcare.url, str(store))
    return store


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
def printed(capsys: pytest.CaptureFixture[str], logged: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns all lines of tasks' logs since its last call; Airflow 3 prints them, Airflow 2 logs them."""

    def read() -> str:
        text = capsys.readouterr().out + logged.text
        logged.clear()
        return text

    return read
