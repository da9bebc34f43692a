"""The operator's submission: what is refused, how often it is repeated, and where it is sent."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import retry
from rig.ports import free_port
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.task_runs import TaskRun, both_modes

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory
    from tests.support.provider_fixtures import Connect

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("location", "a/b"),
        ("dataset_id", ".."),
        ("destination", "gs://bucket//x"),
        ("mime_type", "png"),
        ("filter_uri", "gs://bucket"),
        ("write_disposition", "WRITE_EMPTY"),
        ("project_id", ""),
    ],
)
def test_invalid_rendered_parameter_is_refused_before_any_request(
    parameter: str, value: str, operator: ExportOperatorFactory, control: Control
) -> None:
    task = operator(**{parameter: "{{ params.x }}", "destination": "{{ params.destination }}"})
    destination = value if parameter == "destination" else "gs://bucket"
    task.render_template_fields({"params": {"x": value, "destination": destination}})
    with pytest.raises(AirflowFailException) as error:
        TaskRun().run(task)
    assert isinstance(error.value, exceptions.DicomExportInvalidRequestError)
    assert f"{parameter}={value!r}" in str(error.value)
    assert request_count(control) == 0


def test_unknown_mime_type_is_sent_with_a_warning(operator: ExportOperatorFactory) -> None:
    with pytest.warns(UserWarning, match="image/jxl"):
        task = operator(mime_type="image/jxl")
    with pytest.raises(exceptions.DicomExportInvalidRequestError) as error:
        TaskRun().run(task)
    assert "400" in str(error.value)


def test_operation_name_is_an_xcom_before_the_task_defers(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    deferral = task_run.run_until_deferred(operator())
    assert task_run.operation_name == deferral.trigger.operation_name
    control.step()


def test_wait_for_completion_false_returns_the_operation_name_at_once(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    name = task_run.run(operator(wait_for_completion=False))
    assert accepted_exports(control, store) == [name]
    assert task_run.operation_name == name
    assert task_run.deferrals == []
    assert request_count(control, "operations.get") == 0
    control.step()


@pytest.mark.parametrize("num_retries", [0, 2])
def test_num_retries_of_the_connection_limits_repeated_submissions(
    num_retries: int, operator: ExportOperatorFactory, control: Control, connect: Connect
) -> None:
    conn_id = connect(is_anonymous=True, project="test-project", num_retries=num_retries)
    control.fault("export", status=503)
    with pytest.raises(exceptions.DicomExportSubmissionUnknownError):
        TaskRun().run(operator(gcp_conn_id=conn_id))
    assert request_count(control, "export") == num_retries + 1


def test_pause_before_a_repeated_submission_is_not_shorter_than_retry_after(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.fault("export", count=1, status=503, retry_after=1)
    start = time.monotonic()
    TaskRun().run(operator())
    assert time.monotonic() - start >= 0.99


@pytest.mark.parametrize(("status", "fails_for_good"), [(400, True), (404, True), (403, False), (401, False)])
def test_airflow_retries_a_refused_submission_unless_the_request_is_at_fault(
    status: int, fails_for_good: bool, operator: ExportOperatorFactory, control: Control
) -> None:
    control.fault("export", status=status)
    with pytest.raises(exceptions.DicomExportError) as error:
        TaskRun().run(operator())
    assert isinstance(error.value, AirflowFailException) is fails_for_good


@both_modes
def test_submission_pauses_while_the_quota_is_exhausted(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Airflow's own trigger sleeps in steps of a second, unless the pause is over when it starts.
    monkeypatch.setattr(retry, "QUOTA_BACKOFF_INITIAL", 0.001)
    # The hook repeats a request three times: eight refusals make two submissions fail.
    control.fault("export", count=9, status=429)
    task_run = TaskRun()
    assert task_run.run(operator(deferrable=deferrable))["success"] == 3
    assert len(accepted_exports(control, store)) == 1
    assert request_count(control, "export") == 10
    pauses = [deferral for deferral in task_run.deferrals if deferral.method_name == "submit_again"]
    assert [(pause.kwargs or {})["turn"] for pause in pauses] == ([1, 2] if deferrable else [])


@both_modes
def test_exhausted_quota_fails_the_task_if_the_pause_exceeds_its_deadline(
    deferrable: bool, operator: ExportOperatorFactory, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", status=429)
    with pytest.raises(exceptions.DicomExportTimeoutError, match="nothing was submitted"):
        TaskRun().run(operator(deferrable=deferrable, execution_timeout=timedelta(seconds=20)))
    assert accepted_exports(control, store) == []


def test_emulator_host_of_the_environment_is_used(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    healthcare: HealthcareEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", f"127.0.0.1:{healthcare.port}")
    assert TaskRun().run(operator(api_endpoint=None))["success"] == 3


def test_api_endpoint_parameter_has_precedence_over_the_emulator_host(
    operator: ExportOperatorFactory, instances: list[Uids], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    assert TaskRun().run(operator())["success"] == 3
