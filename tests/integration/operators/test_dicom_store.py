"""The operator, run as Airflow runs it, against the local Healthcare API."""

from __future__ import annotations

import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import retry
from rig.contract import RESULT_KEYS
from rig.servers import free_port, wait_for
from tests.support.around_tasks import execute
from tests.support.provider_rig import Run, StateStore

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator, StorageEmulator

pytestmark = pytest.mark.usefixtures("quick")
MODES = [pytest.param(True, id="deferred"), pytest.param(False, id="on_worker")]


def accepted(control: Control, store: DicomStoreName) -> list[dict[str, Any]]:
    return [o for o in control.exports()["operations"] if o["dicomStore"] == str(store)]


@pytest.mark.parametrize("deferrable", MODES)
def test_the_result_is_the_same_in_every_mode(
    deferrable: bool,
    operator: Any,
    store: DicomStoreName,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    run = Run()
    result = run(operator(deferrable=deferrable))
    assert set(result) == RESULT_KEYS
    name = result["operation_name"]
    assert name.startswith(f"{store.dataset}/operations/")
    assert (result["dicom_store"], result["destination"]) == (str(store), f"gs://{bucket}/nightly")
    assert (result["state"], result["success"], result["failure"], result["pending"]) == (
        "SUCCEEDED",
        3,
        0,
        0,
    )
    assert datetime.fromisoformat(result["create_time"]) <= datetime.fromisoformat(result["end_time"])
    assert result["logs_url"].startswith("https://console.cloud.google.com/logs/query")
    assert run.ti.xcoms["operation_name"] == name
    progress = run.ti.xcoms["progress"]
    assert (progress["state"], progress["success"], progress["end_time"]) == (
        "SUCCEEDED",
        3,
        result["end_time"],
    )
    assert len(storage.objects(bucket, "nightly/")) == len(instances)
    assert len(run.deferrals) == deferrable
    if deferrable:
        (event,) = run.events
        assert (event["status"], event["message"], event["operation"]["name"]) == ("success", None, name)


def test_the_name_is_there_before_the_wait(operator: Any, control: Control, instances: list[Uids]) -> None:
    control.settings(advance="manual")
    run = Run()
    with pytest.raises(TaskDeferred) as deferral:
        operator().execute(run.context)
    assert run.ti.xcoms["operation_name"] == deferral.value.trigger.operation_name
    control.step()


def test_not_waiting_returns_the_name_at_once(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    name = run(operator(wait_for_completion=False))
    (export,) = accepted(control, store)
    assert name == export["name"] == run.ti.xcoms["operation_name"]
    assert run.deferrals == []
    assert "operations.get" not in control.requests()["counts"]
    control.step()


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
def test_rendered_mistakes_are_refused_before_any_request(
    parameter: str, value: str, operator: Any, control: Control
) -> None:
    task = operator(**{parameter: "{{ params.x }}", "destination": "{{ params.destination }}"})
    values = {"params": {"x": value, "destination": value if parameter == "destination" else "gs://bucket"}}
    task.render_template_fields(values)
    with pytest.raises(AirflowFailException) as error:
        Run()(task)
    assert isinstance(error.value, exceptions.DicomExportInvalidRequestError)
    assert f"{parameter}={value!r}" in str(error.value)
    assert control.requests()["counts"] == {}


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize(
    ("max_failures", "state"), [(0, None), (0.3, None), (1, "PARTIAL"), (0.34, "PARTIAL"), (3, "PARTIAL")]
)
def test_failed_instances_count_against_max_failures(
    max_failures: float,
    state: str | None,
    deferrable: bool,
    operator: Any,
    control: Control,
    instances: list[Uids],
) -> None:
    control.settings(failing_instances=[instances[0].instance])
    task = operator(max_failures=max_failures, deferrable=deferrable)
    run = Run()
    if state is None:
        with pytest.raises(exceptions.DicomExportTooManyFailuresError, match="1 failed of 3") as error:
            run(task)
        assert run.ti.xcoms["progress"]["state"] == "FAILED"
        assert error.value.operation_name
        assert error.value.counters
        assert error.value.counters.failure == 1
    else:
        result = run(task)
        assert (result["state"], result["success"], result["failure"]) == (state, 2, 1)
        assert run.ti.xcoms["progress"]["state"] == "PARTIAL"


@pytest.mark.parametrize("deferrable", MODES)
def test_the_operations_error_is_the_tasks(
    deferrable: bool, operator: Any, control: Control, instances: list[Uids], bucket: str
) -> None:
    message = (
        "Healthcare API doesn't have required Cloud Storage permission. See https://x for more information"
    )
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    with pytest.raises(exceptions.DicomExportOperationFailedError, match="internal trouble") as failed:
        Run()(operator(deferrable=deferrable, max_failures=1.0))
    assert failed.value.operation["error"]["code"] == 13
    assert "https://console.cloud.google.com/logs" in str(failed.value)
    control.settings(operation_error={"code": 7, "message": message})
    filtered = {"resource_paths": [f"/studies/{instances[0].study}"], "filter_uri": f"gs://{bucket}/f.txt"}
    with pytest.raises(exceptions.DicomExportPermissionError) as denied:
        Run()(operator(deferrable=deferrable, **filtered))
    assert f"roles/storage.objectAdmin on the bucket {bucket}" in str(denied.value)
    assert f"roles/storage.objectViewer on the bucket {bucket}" in str(denied.value)


FAULTS: list[dict[str, Any]] = [
    *({"status": status} for status in (408, 425, 429, 500, 502, 503, 504)),
    {"reset": "before"},
    {"reset": "after"},
    {"body": "truncated"},
    {"body": "html"},
    {"body": "empty"},
]


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_while_polling_do_not_fail_the_task(
    fault: dict[str, Any],
    deferrable: bool,
    operator: Any,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.fault("operations.get", count=5, **fault)
    control.fault("operations.list", count=5, **fault)
    result = Run()(operator(deferrable=deferrable))
    assert result["success"] == 3
    assert len(accepted(control, store)) == 1


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize("status", [401, 403, 404])
def test_two_refusals_while_polling_do_not_either(
    status: int, deferrable: bool, operator: Any, control: Control, instances: list[Uids]
) -> None:
    control.fault("operations.get", count=2, status=status)
    assert Run()(operator(deferrable=deferrable))["success"] == 3


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, exceptions.DicomExportAuthenticationError),
        (403, exceptions.DicomExportPermissionError),
        (404, exceptions.DicomExportNotFoundError),
    ],
)
def test_a_refusal_that_persists_fails_it_with_the_operations_name(
    status: int,
    kind: type[exceptions.DicomExportError],
    deferrable: bool,
    operator: Any,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    control.fault("operations.get", status=status)
    run = Run()
    with pytest.raises(kind) as error:
        run(operator(deferrable=deferrable))
    (export,) = accepted(control, store)
    assert error.value.operation_name == export["name"]
    assert export["name"] in str(error.value)
    assert control.requests()["counts"]["operations.get"] >= 3
    if status == 403:
        assert "The export itself goes on" in str(error.value)
        assert "datasets add-iam-policy-binding" in str(error.value)
    control.clear_faults()
    control.step()


def test_a_vanished_operation(operator: Any, control: Control, instances: list[Uids]) -> None:
    control.settings(advance="manual")
    control.fault("operations.get", vanish=True, count=1)
    with pytest.raises(exceptions.DicomExportNotFoundError, match="about 30 days"):
        Run()(operator())


@pytest.mark.parametrize("deferrable", MODES)
def test_cancelled_by_somebody_else(
    deferrable: bool,
    operator: Any,
    control: Control,
    instances: list[Uids],
    anonymous: str,
    healthcare: HealthcareEmulator,
) -> None:
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

    control.settings(advance="manual")
    run = Run()

    def cancel() -> None:
        name = wait_for("the submission", lambda: run.ti.xcoms.get("operation_name"), timeout=60)
        control.step(instances=1)
        with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
            hook.cancel_operation(name)

    somebody = threading.Thread(target=cancel)
    somebody.start()
    with pytest.raises(exceptions.DicomExportCancelledError) as error:
        run(operator(deferrable=deferrable))
    somebody.join(60)
    assert error.value.counters
    assert error.value.counters.success == 1
    if deferrable:
        assert run.events[0]["status"] == "cancelled"


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_the_execution_timeout(
    deferrable: bool,
    cancel_on_kill: bool,
    operator: Any,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    timeout = timedelta(seconds=1.5)
    run = Run()
    with pytest.raises(exceptions.DicomExportTimeoutError) as error:
        run(operator(deferrable=deferrable, execution_timeout=timeout, cancel_on_kill=cancel_on_kill))
    assert datetime.now(UTC) - run.ti.start_date >= timeout
    (export,) = accepted(control, store)
    assert error.value.operation_name == export["name"]
    assert ("is cancelled, as the API confirms" in str(error.value)) is cancel_on_kill
    assert ("goes on" in str(error.value)) is not cancel_on_kill
    assert control.requests()["counts"].get("operations.cancel", 0) == cancel_on_kill
    if deferrable:
        assert run.events[0]["status"] == "timeout"
        assert run.deferrals[0].timeout > timeout
    control.step()


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_an_execution_timeout_that_airflow_enforces_itself_cancels(
    cancel_on_kill: bool, operator: Any, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    # Airflow's alarm goes off in the middle of a poll, before the operator looks at its deadline.
    control.fault("operations.get", latency_seconds=3.0, count=1)
    run = Run(start_date=datetime.now(UTC) + timedelta(minutes=1))
    task = operator(deferrable=False, execution_timeout=timedelta(seconds=1), cancel_on_kill=cancel_on_kill)
    with pytest.raises(AirflowTaskTimeout):
        execute(task, run)
    assert control.requests()["counts"].get("operations.cancel", 0) == cancel_on_kill
    control.step()


def test_a_kill_while_waiting_on_the_worker_cancels(
    operator: Any, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    task = operator(deferrable=False)
    # As in Airflow's task runner: the signal's handler calls on_kill, between any two instructions.
    before = signal.signal(signal.SIGUSR1, lambda *_: task.on_kill())

    def kill() -> None:
        wait_for("a poll", lambda: control.requests()["counts"].get("operations.get"), timeout=60)
        signal.raise_signal(signal.SIGUSR1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(exceptions.DicomExportCancelledError):
            run(task)
    finally:
        killer.join(60)
        signal.signal(signal.SIGUSR1, before)
    assert control.requests()["counts"]["operations.cancel"] == 1


def test_a_kill_before_or_after_the_export_cancels_nothing(
    operator: Any, control: Control, instances: list[Uids]
) -> None:
    task = operator(deferrable=False)
    task.on_kill()
    Run()(task)
    task.on_kill()
    assert "operations.cancel" not in control.requests()["counts"]


LOST = [{"reset": "before"}, {"reset": "after"}, {"status": 500}, {"status": 503}, {"body": "html"}]


@pytest.mark.parametrize("fault", LOST, ids=str)
def test_a_lost_reply_is_harmless_for_cloud_storage(
    fault: dict[str, Any],
    operator: Any,
    control: Control,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    control.fault("export", count=2, **fault)
    result = Run()(operator())
    assert result["success"] == 3
    assert len(storage.objects(bucket, "nightly/")) == 3
    assert control.requests()["counts"]["export"] == 3


@pytest.mark.parametrize("num_retries", [0, 2])
def test_submissions_are_repeated_as_often_as_the_connection_says(
    num_retries: int, operator: Any, control: Control, connect: Any, bucket: str
) -> None:
    conn_id = connect(is_anonymous=True, project="test-project", num_retries=num_retries)
    control.fault("export", status=503)
    with pytest.raises(exceptions.DicomExportSubmissionUnknownError):
        Run()(operator(gcp_conn_id=conn_id))
    assert control.requests()["counts"]["export"] == num_retries + 1


def test_a_resubmission_waits_as_long_as_the_server_asks(
    operator: Any, control: Control, instances: list[Uids]
) -> None:
    control.fault("export", count=1, status=503, retry_after=1)
    start = time.monotonic()
    Run()(operator())
    assert time.monotonic() - start >= 0.99


@pytest.mark.usefixtures("bigquery")
@pytest.mark.parametrize("fault", LOST, ids=str)
def test_a_lost_reply_must_not_append_twice(fault: dict[str, Any], operator: Any, control: Control) -> None:
    control.fault("export", count=1, **fault)
    task = operator(destination="bq://test-project.imaging.instances", write_disposition="WRITE_APPEND")
    with pytest.raises(AirflowFailException) as error:
        Run()(task)
    assert isinstance(error.value, exceptions.DicomExportDuplicateRiskError)
    assert control.requests()["counts"]["export"] == 1
    assert "WRITE_APPEND" in str(error.value)
    assert "gcloud healthcare operations list" in str(error.value)


@pytest.mark.usefixtures("bigquery")
@pytest.mark.parametrize("disposition", ["WRITE_TRUNCATE", "WRITE_EMPTY", None])
def test_a_lost_reply_is_harmless_for_other_dispositions(
    disposition: str | None, operator: Any, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", count=1, status=502)
    name = Run()(
        operator(
            destination="bq://test-project.imaging.instances",
            write_disposition=disposition,
            wait_for_completion=False,
        )
    )
    assert [export["name"] for export in accepted(control, store)] == [name]


@pytest.mark.usefixtures("bigquery")
def test_appending_is_repeated_when_certainly_nobody_accepted_it(
    operator: Any, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", count=2, status=429)
    Run()(
        operator(
            destination="bq://test-project.imaging.instances",
            write_disposition="WRITE_APPEND",
            wait_for_completion=False,
        )
    )
    assert len(accepted(control, store)) == 1


@pytest.mark.parametrize(("status", "fails_for_good"), [(400, True), (404, True), (403, False), (401, False)])
def test_what_airflow_retries(status: int, fails_for_good: bool, operator: Any, control: Control) -> None:
    control.fault("export", status=status)
    with pytest.raises(exceptions.DicomExportError) as error:
        Run()(operator())
    assert isinstance(error.value, AirflowFailException) is fails_for_good


def test_a_retry_follows_what_the_first_try_submitted(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    with pytest.raises(TaskDeferred):
        operator().execute(run.context)
    control.settings(advance="time")
    result = run(operator())
    (export,) = accepted(control, store)
    assert result["operation_name"] == export["name"]
    assert isinstance(run.context["task_state_store"], StateStore)


def test_resource_paths_are_written_to_the_filter_file_and_honoured(
    operator: Any, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    first, *_ = instances
    path = f"/studies/{first.study}/series/{first.series}/instances/{first.instance}"
    uri = f"gs://{bucket}/filters/tonight.txt"
    result = Run()(operator(resource_paths=[path, path], filter_uri=uri, destination=f"gs://{bucket}/out"))
    assert result["success"] == 1
    assert storage.read(bucket, "filters/tonight.txt").decode() == f"{path}\n"
    assert list(storage.objects(bucket, "out/")) == [f"out/{first.study}/{first.series}/{first.instance}.dcm"]


def test_a_filter_file_that_cannot_be_written_is_explained(
    operator: Any, instances: list[Uids], control: Control, store: DicomStoreName
) -> None:
    uri = "gs://no-such-bucket/f.txt"
    task = operator(resource_paths=[f"/studies/{instances[0].study}"], filter_uri=uri)
    with pytest.raises(exceptions.DicomExportNotFoundError, match="The bucket must exist") as error:
        Run()(task)
    assert uri in str(error.value)
    assert accepted(control, store) == []


def test_an_empty_filter_file_never_exports_everything(
    operator: Any,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    store: DicomStoreName,
) -> None:
    uri = f"gs://{bucket}/filters/tonight.txt"
    for content in (b"", b"\n \n"):
        storage.write(bucket, "filters/tonight.txt", content)
        with pytest.raises(AirflowSkipException, match=r"tonight.txt is empty: there is nothing to export"):
            Run()(operator(filter_uri=uri))
    assert accepted(control, store) == []
    storage.write(bucket, "filters/tonight.txt", f"/studies/{instances[0].study}\n".encode())
    assert Run()(operator(filter_uri=uri))["success"] >= 1


def test_a_filter_file_that_is_not_there_is_explained(
    operator: Any, bucket: str, control: Control, store: DicomStoreName
) -> None:
    with pytest.raises(exceptions.DicomExportNotFoundError, match="Could not read the filter file"):
        Run()(operator(filter_uri=f"gs://{bucket}/no-such-file.txt"))
    assert accepted(control, store) == []


def test_a_filter_file_that_changed_is_another_export(
    operator: Any,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    store: DicomStoreName,
) -> None:
    name, uri = "filters/tonight.txt", f"gs://{bucket}/filters/tonight.txt"
    run = Run()
    study = f"/studies/{instances[0].study}"
    for path, exports in ((study, 1), (study, 1), (f"{study}/series/{instances[0].series}", 2)):
        storage.write(bucket, name, f"{path}\n".encode())
        run(operator(filter_uri=uri))
        assert len(accepted(control, store)) == exports


@pytest.mark.parametrize("deferrable", MODES)
def test_an_export_waits_its_turn_while_the_quota_is_used_up(
    deferrable: bool,
    operator: Any,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "QUOTA_BACKOFF_INITIAL", 0.05)
    # More refusals than the hook repeats a request for.
    control.fault("export", count=9, status=429)
    run = Run()
    assert run(operator(deferrable=deferrable))["success"] == 3
    assert len(accepted(control, store)) == 1
    waits = [deferral for deferral in run.deferrals if deferral.method_name == "submit_again"]
    assert len(waits) == (2 if deferrable else 0)


@pytest.mark.parametrize("deferrable", MODES)
def test_an_export_does_not_wait_its_turn_longer_than_the_task_may_run(
    deferrable: bool, operator: Any, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", status=429)
    with pytest.raises(exceptions.DicomExportTimeoutError, match="nothing was submitted"):
        Run()(operator(deferrable=deferrable, execution_timeout=timedelta(seconds=20)))
    assert accepted(control, store) == []


def test_the_emulators_host(
    operator: Any, instances: list[Uids], healthcare: HealthcareEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", f"127.0.0.1:{healthcare.port}")
    assert Run()(operator(api_endpoint=None))["success"] == 3


def test_api_endpoint_goes_before_the_emulators_host(
    operator: Any, instances: list[Uids], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    assert Run()(operator())["success"] == 3


def test_an_unknown_mime_type_is_sent_with_a_warning(operator: Any, logged: pytest.LogCaptureFixture) -> None:
    with pytest.warns(UserWarning, match="image/jxl"):
        task = operator(mime_type="image/jxl")
    with pytest.raises(exceptions.DicomExportInvalidRequestError) as error:
        Run()(task)
    assert "400" in str(error.value)
