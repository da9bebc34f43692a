"""What a task tells of the instances that its export could not write: log, error, XComs and record."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.exceptions import (
    DicomExportCancelledError,
    DicomExportOperationFailedError,
    DicomExportTooManyFailuresError,
)
from airflow_provider_dicom.longrunning import failures as failures_module
from airflow_provider_dicom.operators import _failures as module
from rig.dicom_files import Uids, upload_copies
from tests.support.task_runs import TaskRun, both_modes

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick", "short_pauses")
SYNTAX, BROKEN = "transfer syntax not supported", "pixel data of {} is broken"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read entries more often than in production."""
    monkeypatch.setattr(failures_module, "PAUSE_INITIAL", 0.01)
    monkeypatch.setattr(failures_module, "PAUSE_MAX", 0.05)


@pytest.fixture
def failing(store: DicomStoreName, healthcare: HealthcareEmulator, control: Control) -> list[Uids]:
    """Eight instances, of which six fail: five for one reason, and one for another."""
    uids = [Uids("1.2.3", "1.2.3.4", f"1.2.3.4.{number}") for number in range(10, 18)]
    upload_copies(healthcare.url, str(store), uids)
    messages = {one.instance: SYNTAX for one in uids[:5]}
    last = uids[5].instance
    control.settings(failing_instances=messages | {last: BROKEN.format(last)})
    return uids[:6]


def reads(control: Control) -> int:
    """Return how often Cloud Logging was asked."""
    return int(control.requests()["counts"].get("entries.list", 0))


@both_modes
def test_partial_export_names_causes_and_instances(
    deferrable: bool, operator: ExportOperatorFactory, failing: list[Uids], printed: Callable[[], str]
) -> None:
    run = TaskRun()
    result = run.run(operator(max_failures=6, deferrable=deferrable))
    assert (result["state"], result["failure"]) == ("PARTIAL", 6)
    log = printed()
    assert "Cloud Logging lists 6 of the 6 failed instances." in log
    first = ", ".join(one.path for one in failing[:3])
    assert f"5 x {SYNTAX} (code 3): {first}, and 2 more" in log
    assert f"1 x pixel data of ... is broken (code 3): {failing[5].path}" in log
    assert run.ti.xcoms["failures"] == [
        {
            "resource_path": one.path,
            "code": 3,
            "message": SYNTAX if number < 5 else BROKEN.format(one.instance),
        }
        for number, one in enumerate(failing)
    ]
    progress = run.ti.xcoms["progress"]
    assert (progress["state"], progress["known"], progress["more_causes"]) == ("PARTIAL", 6, 0)
    assert [(cause["message"], cause["count"]) for cause in progress["causes"]] == [
        (SYNTAX, 5),
        ("pixel data of ... is broken", 1),
    ]


@both_modes
@pytest.mark.parametrize("form", ["response", "error", "both"])
def test_error_of_a_failed_export_names_the_causes(
    form: str, deferrable: bool, operator: ExportOperatorFactory, failing: list[Uids], control: Control
) -> None:
    control.settings(partial_failure=form)
    run = TaskRun()
    kind = DicomExportTooManyFailuresError if form == "response" else DicomExportOperationFailedError
    with pytest.raises(kind) as raised:
        run.run(operator(max_failures=1, deferrable=deferrable))
    causes = f"6 of the 6 failed instances: 5 x {SYNTAX}; 1 x pixel data of ... is broken."
    assert str(raised.value).endswith(causes)
    assert raised.value.message == str(raised.value)
    assert raised.value.failures is not None
    assert raised.value.failures["known"] == 6
    assert len(run.ti.xcoms["failures"]) == 6
    assert run.ti.xcoms["progress"]["state"] == "FAILED"
    assert run.ti.xcoms["progress"]["causes"][0]["count"] == 5


def test_cancelled_export_names_the_causes_of_what_had_failed(
    operator: ExportOperatorFactory, failing: list[Uids], control: Control, hook: DicomStoreHook
) -> None:
    assert failing
    control.settings(advance="manual")
    run, task = TaskRun(), operator()
    deferral = run.run_until_deferred(task)
    control.step(run.operation_name, 5)
    hook.cancel_operation(run.operation_name)
    operation = hook.get_operation(run.operation_name)
    with pytest.raises(DicomExportCancelledError, match=f"5 x {SYNTAX}"):
        run.resume(task, deferral, {"status": "cancelled", "operation": operation, "message": "cancelled"})
    assert run.ti.xcoms["progress"]["state"] == "CANCELLED"
    assert run.ti.xcoms["progress"]["known"] == 5


def test_export_without_failed_instances_does_not_ask_cloud_logging(
    operator: ExportOperatorFactory, instances: list[Uids], control: Control
) -> None:
    assert instances
    run = TaskRun()
    run.run(operator())
    assert reads(control) == 0
    assert "failures" not in run.ti.xcoms
    assert "causes" not in run.ti.xcoms["progress"]


def test_list_failures_can_be_turned_off(
    operator: ExportOperatorFactory, failing: list[Uids], control: Control, printed: Callable[[], str]
) -> None:
    assert failing
    run = TaskRun()
    assert run.run(operator(max_failures=6, list_failures=False))["failure"] == 6
    assert reads(control) == 0
    assert "Cloud Logging" not in printed()
    assert "failures" not in run.ti.xcoms


def test_entries_that_arrive_late_are_waited_for(
    operator: ExportOperatorFactory, failing: list[Uids], control: Control
) -> None:
    control.settings(log_lag_seconds=0.5)
    run = TaskRun()
    run.run(operator(max_failures=6))
    assert len(run.ti.xcoms["failures"]) == len(failing)
    assert reads(control) > 1


def test_wait_for_entries_is_limited_and_says_how_many_are_known(
    operator: ExportOperatorFactory,
    failing: list[Uids],
    control: Control,
    printed: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failing
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    control.settings(max_log_entries=2)
    run = TaskRun()
    assert run.run(operator(max_failures=6))["failure"] == 6
    assert (
        "Cloud Logging lists 2 of the 6 failed instances; entries arrive late, and are limited" in printed()
    )
    assert len(run.ti.xcoms["failures"]) == run.ti.xcoms["progress"]["known"] == 2


@pytest.mark.parametrize("max_failures", [1, 6])
def test_missing_permission_is_one_line_and_changes_nothing_else(
    max_failures: int,
    operator: ExportOperatorFactory,
    failing: list[Uids],
    control: Control,
    printed: Callable[[], str],
) -> None:
    assert failing
    control.settings(denied_permissions=["logging.logEntries.list"])
    run, task = TaskRun(), operator(max_failures=max_failures)
    if max_failures == 6:
        assert run.run(task)["failure"] == 6
    else:
        with pytest.raises(DicomExportTooManyFailuresError) as raised:
            run.run(task)
        assert raised.value.failures is None
        assert "Cloud Logging" not in str(raised.value)
    lines = [line for line in printed().splitlines() if "logging" in line.lower()]
    assert len(lines) == 1
    assert "The causes of the failed instances are not known" in lines[0]
    assert "roles/logging.viewer (it has logging.logEntries.list)" in lines[0]
    assert "gcloud projects add-iam-policy-binding test-project" in lines[0]
    assert reads(control) == 1
    assert "failures" not in run.ti.xcoms
    assert "causes" not in run.ti.xcoms["progress"]


# urllib3 leaves the socket of a broken answer to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 429},
        {"status": 404},
        {"status": 400, "message": "bad"},
        {"reset": "before"},
        {"reset": "after"},
        {"body": "html"},
        {"body": "truncated"},
        {"body": "empty"},
    ],
    ids=lambda fault: json.dumps(fault),
)
def test_cloud_logging_that_fails_changes_no_outcome(
    fault: dict[str, Any],
    operator: ExportOperatorFactory,
    failing: list[Uids],
    control: Control,
    printed: Callable[[], str],
) -> None:
    assert failing
    control.fault("entries.list", **fault)
    run = TaskRun()
    assert run.run(operator(max_failures=6))["failure"] == 6
    assert len(re.findall("The causes of the failed instances are not known", printed())) == 1
    assert run.ti.xcoms["progress"]["state"] == "PARTIAL"


def test_cloud_logging_that_recovers_is_read(
    operator: ExportOperatorFactory, failing: list[Uids], control: Control
) -> None:
    control.fault("entries.list", status=503, count=2)
    run = TaskRun()
    run.run(operator(max_failures=6))
    assert len(run.ti.xcoms["failures"]) == len(failing)


def test_cloud_logging_is_not_read_shortly_before_the_deadline(
    operator: ExportOperatorFactory, failing: list[Uids], control: Control, printed: Callable[[], str]
) -> None:
    assert failing
    control.settings(advance="immediate")
    started = datetime.now(UTC) - timedelta(seconds=40)
    run = TaskRun(start_date=started)
    task = operator(max_failures=6, execution_timeout=timedelta(seconds=40 + module.RESERVE - 5))
    assert run.run(task)["failure"] == 6
    assert "the deadline of the task leaves no time to read Cloud Logging" in printed()
    assert reads(control) == 0


def test_xcom_that_cannot_be_stored_does_not_fail_the_task(
    operator: ExportOperatorFactory,
    failing: list[Uids],
    printed: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failing
    run = TaskRun()
    push = run.ti.xcom_push

    def refuse(key: str, value: object) -> None:
        if key == "failures":
            raise RuntimeError("no database")
        push(key, value)

    monkeypatch.setattr(run.ti, "xcom_push", refuse)
    assert run.run(operator(max_failures=6))["failure"] == 6
    assert "Airflow did not store the XCom with the failed instances: no database" in printed()
    assert run.ti.xcoms["progress"]["known"] == 6


def test_first_failures_are_said_once_while_the_export_runs(
    operator: ExportOperatorFactory, failing: list[Uids], control: Control, printed: Callable[[], str]
) -> None:
    assert failing
    control.settings(advance="time", seconds_per_instance=0.2)
    TaskRun().run(operator(max_failures=6, deferrable=False))
    warnings = re.findall(r"The first \d of 8 instances have failed; .*https://console\S+", printed())
    assert len(warnings) == 1


def test_hook_lists_failures_for_the_code_of_dags(
    operator: ExportOperatorFactory,
    failing: list[Uids],
    hook: DicomStoreHook,
    store: DicomStoreName,
    control: Control,
) -> None:
    run = TaskRun()
    run.run(operator(max_failures=6, list_failures=False))
    operation = hook.get_operation(run.operation_name)
    found = hook.list_failures(operation, store)
    assert [one["resource_path"] for one in found["failures"]] == [one.path for one in failing]
    assert hook.list_failures(operation)["causes"] == found["causes"]
    # An Operation of another DICOM store, or of another time, has other entries.
    control.settings(max_log_entries=0)
    assert hook.list_failures(operation, store, wait_seconds=0)["known"] == 0
