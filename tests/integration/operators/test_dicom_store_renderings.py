"""Templates that render differently on a resume: the first rendering decides, nothing widens an export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import retry
from tests.support.healthcare_requests import accepted_exports
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import TaskDeferred

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")
FILTER_FILE = "filters/tonight.txt"
WAYS = ["after-a-quota", "after-a-cancelled-reattachment", "after-a-predecessor"]


class Resumption:
    """A task that is deferred before a submission, and resumes with other renderings of its templates."""

    def __init__(
        self,
        way: str,
        *,
        operator: ExportOperatorFactory,
        control: Control,
        hook: DicomStoreHook,
        store: DicomStoreName,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.way, self._operator, self._control, self._hook = way, operator, control, hook
        self._store = store
        self.task_run = TaskRun()
        monkeypatch.setattr(retry, "QUOTA_BACKOFF_INITIAL", 0.001)

    def defer(self, **fields: Any) -> TaskDeferred:
        """Run until the task is deferred; all submissions before are over then."""
        if self.way == "after-a-quota":
            self._control.fault("export", count=4, status=429)
            return self.task_run.run_until_deferred(self.task(**fields))
        self._control.settings(advance="manual")
        if self.way == "after-a-predecessor":
            self.task_run.run_until_deferred(self.task(**fields, mime_type="application/dicom"))
            name = self.task_run.operation_name
            self.task_run.begin_next_try()
            self._control.fault("operations.cancel", count=4, status=503)
            deferral = self.task_run.run_until_deferred(self.task(**fields))
            assert deferral.method_name == "submit_again"
        else:
            self.task_run.run_until_deferred(self.task(**fields))
            name = self.task_run.operation_name
            self.task_run.begin_next_try()
            deferral = self.task_run.run_until_deferred(self.task(**fields))
            assert (deferral.kwargs or {})["reattached"] is True
        self._control.clear_faults()
        self._hook.cancel_operation(name)
        self._control.settings(advance="time")
        return deferral

    def resume(self, deferral: TaskDeferred, **fields: Any) -> Any:
        """Resume the task with other renderings, and run it to its end."""
        event: Any = None
        if self.way != "after-a-quota":
            operation = self._hook.get_operation(accepted_exports(self._control, self._store)[0])
            event = {"status": "cancelled", "operation": operation, "message": "cancelled"}
        return self.task_run.resume(self.task(**fields), deferral, event)

    def task(self, **fields: Any) -> DicomStoreExportOperator:
        """Build a task whose templates have rendered."""
        task = self._operator(**{name: f"{{{{ params.{name} }}}}" for name in fields})
        for name, value in fields.items():
            setattr(task, name, value)
        return task


@pytest.fixture(params=WAYS)
def resumption(
    request: pytest.FixtureRequest,
    operator: ExportOperatorFactory,
    control: Control,
    hook: DicomStoreHook,
    store: DicomStoreName,
    monkeypatch: pytest.MonkeyPatch,
) -> Resumption:
    """A task that is deferred before a submission, in each way."""
    return Resumption(
        request.param, operator=operator, control=control, hook=hook, store=store, monkeypatch=monkeypatch
    )


@pytest.fixture
def filter_uri(bucket: str, storage: StorageEmulator, instances: list[Uids]) -> str:
    """A filter file that selects one of three instances."""
    storage.write(bucket, FILTER_FILE, f"{instances[0].path}\n".encode())
    return f"gs://{bucket}/{FILTER_FILE}"


def without_decision(deferral: TaskDeferred) -> TaskDeferred:
    """Return the deferral as the first version stored it."""
    deferral.kwargs = {name: value for name, value in (deferral.kwargs or {}).items() if name != "submission"}
    return deferral


def test_filter_that_renders_to_none_on_a_resume_changes_nothing(
    resumption: Resumption, filter_uri: str, bucket: str
) -> None:
    destination = f"gs://{bucket}/nightly"
    deferral = resumption.defer(filter_uri=filter_uri, destination=destination)
    result = resumption.resume(deferral, filter_uri=None, destination="gs://elsewhere")
    assert result["success"] == 1
    assert result["destination"] == destination


def test_filter_that_renders_to_none_is_refused_if_the_deferral_is_of_the_first_version(
    resumption: Resumption, filter_uri: str, control: Control, store: DicomStoreName
) -> None:
    deferral = without_decision(resumption.defer(filter_uri=filter_uri))
    before = accepted_exports(control, store)
    with pytest.raises(exceptions.DicomExportInvalidRequestError, match="filter_uri=None"):
        resumption.resume(deferral, filter_uri=None)
    assert accepted_exports(control, store) == before


@pytest.mark.parametrize("paths", [None, []], ids=["none", "empty"])
def test_paths_that_render_to_nothing_on_a_resume_change_nothing(
    paths: list[str] | None, resumption: Resumption, instances: list[Uids], bucket: str
) -> None:
    fields = {"filter_uri": f"gs://{bucket}/{FILTER_FILE}", "resource_paths": [instances[0].path]}
    deferral = resumption.defer(**fields)
    assert resumption.resume(deferral, filter_uri=None, resource_paths=paths)["success"] == 1


@pytest.mark.parametrize(
    ("paths", "error"),
    [(None, exceptions.DicomExportInvalidRequestError), ([], AirflowSkipException)],
    ids=["none", "empty"],
)
def test_paths_that_render_to_nothing_are_refused_if_the_deferral_is_of_the_first_version(
    paths: list[str] | None,
    error: type[Exception],
    resumption: Resumption,
    instances: list[Uids],
    bucket: str,
    control: Control,
    store: DicomStoreName,
) -> None:
    fields = {"filter_uri": f"gs://{bucket}/{FILTER_FILE}", "resource_paths": [instances[0].path]}
    deferral = without_decision(resumption.defer(**fields))
    before = accepted_exports(control, store)
    with pytest.raises(error):
        resumption.resume(deferral, **{**fields, "resource_paths": paths})
    assert accepted_exports(control, store) == before


@pytest.mark.parametrize("content", [b"", b"/studies/1.2.3\n"], ids=["empty", "other"])
def test_filter_file_of_the_task_that_another_process_has_changed_is_refused(
    content: bytes,
    resumption: Resumption,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    store: DicomStoreName,
) -> None:
    fields = {"filter_uri": f"gs://{bucket}/{FILTER_FILE}", "resource_paths": [instances[0].path]}
    deferral = resumption.defer(**fields)
    before = accepted_exports(control, store)
    storage.write(bucket, FILTER_FILE, content)
    with pytest.raises(exceptions.DicomExportUnavailableError, match="has changed since this task wrote it"):
        resumption.resume(deferral, **fields)
    assert accepted_exports(control, store) == before


def test_filter_file_that_was_emptied_meanwhile_skips_the_task(
    resumption: Resumption, filter_uri: str, bucket: str, storage: StorageEmulator
) -> None:
    deferral = resumption.defer(filter_uri=filter_uri)
    storage.write(bucket, FILTER_FILE, b"")
    with pytest.raises(AirflowSkipException):
        resumption.resume(deferral, filter_uri=filter_uri)


@pytest.mark.parametrize(
    ("name", "rendered"),
    [("gcp_conn_id", ""), ("impersonation_chain", None)],
    ids=["gcp_conn_id", "impersonation_chain"],
)
def test_connection_is_validated_on_every_resume(
    name: str,
    rendered: object,
    resumption: Resumption,
    filter_uri: str,
    control: Control,
    store: DicomStoreName,
) -> None:
    deferral = resumption.defer(filter_uri=filter_uri)
    before = accepted_exports(control, store)
    with pytest.raises(exceptions.DicomExportInvalidRequestError, match=name):
        resumption.resume(deferral, **{name: rendered})
    assert accepted_exports(control, store) == before
