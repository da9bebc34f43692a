"""Exports to follow, and triggers that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.hooks import dicom_store as hook_module
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from tests.support.provider_fixtures import *  # noqa: F403
from tests.support.trigger_runs import patch_task_state, set_task_instance

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator


class ExportSubmitter(Protocol):
    """Submits exports of the test's DICOM store."""

    def __call__(self) -> str:
        """Submit an export, and return the Operation's name."""


class TriggerFactory(Protocol):
    """Builds triggers with the test's connection."""

    def __call__(self, operation_name: str, **changes: object) -> DicomStoreExportTrigger:
        """Build a trigger; ``changes`` are its parameters other than the defaults."""


class TaskTriggerFactory(Protocol):
    """Builds triggers of a task whose state and XCom Airflow knows."""

    def __call__(
        self, operation_name: str, *, state: str, xcom: str | None = None, **changes: object
    ) -> DicomStoreExportTrigger:
        """Build a trigger; ``xcom`` is the Operation's name in the XCom of the task."""


@pytest.fixture(autouse=True)
def short_confirmation_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check more often than in production, and for as long, whether a cancellation is confirmed."""
    monkeypatch.setattr(hook_module, "CONFIRMATION_PAUSES", (0.05,) * 140)


@pytest.fixture
def submit(
    hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids], bucket: str
) -> ExportSubmitter:
    """Submits exports of three instances."""
    return lambda: hook.export(store, ExportRequest(destination=f"gs://{bucket}/out"))["name"]


@pytest.fixture
def trigger(anonymous: str, healthcare: HealthcareEmulator) -> TriggerFactory:
    """Builds triggers with the test's connection."""

    def build(operation_name: str, **changes: object) -> DicomStoreExportTrigger:
        arguments: dict[str, Any] = {
            "gcp_conn_id": anonymous,
            "api_endpoint": healthcare.url,
            "poll_interval": 0.05,
        }
        return DicomStoreExportTrigger(operation_name, **(arguments | changes))

    return build


@pytest.fixture
def task_trigger(trigger: TriggerFactory, monkeypatch: pytest.MonkeyPatch) -> TaskTriggerFactory:
    """Builds triggers of a task whose state and XCom Airflow knows."""

    def build(
        operation_name: str, *, state: str, xcom: str | None = None, **changes: object
    ) -> DicomStoreExportTrigger:
        built = trigger(operation_name, **changes)
        set_task_instance(built, patch_task_state(monkeypatch, state, xcom))
        return built

    return build
