"""What is missing after an export: the filter file of a second export, skipped if nothing is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, XComArg

from airflow_provider_dicom.exceptions import DicomExportIncompleteError, DicomExportInvalidRequestError
from airflow_provider_dicom.operators.check import MAX_MISSING_PATHS, DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from rig.dicom_files import Uids, upload_copies
from tests.support.rendering import UpstreamTask, dag, render
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")
FILE = "missing/tonight.txt"


@pytest.fixture
def check(where: dict[str, Any], bucket: str) -> Callable[..., DicomStoreExportCheckOperator]:
    """Builds operators that check an export of the test's DICOM store, and write what is missing."""

    def build(**changes: Any) -> DicomStoreExportCheckOperator:
        arguments: dict[str, Any] = {
            "task_id": "check",
            "destination": f"gs://{bucket}/nightly",
            "missing_uri": f"gs://{bucket}/{FILE}",
            "on_missing": "warn",
        }
        return DicomStoreExportCheckOperator(**(where | arguments | changes))

    return build


def lines(storage: StorageEmulator, bucket: str) -> list[str]:
    """Return the lines of the filter file; none if it is not there."""
    if FILE not in storage.objects(bucket, FILE):
        return []
    return storage.read(bucket, FILE).decode().splitlines()


def test_check_writes_what_is_missing_as_the_filter_file_of_a_second_export(
    operator: ExportOperatorFactory,
    check: Callable[..., DicomStoreExportCheckOperator],
    instances: list[Uids],
    control: Control,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    lost = sorted(one.path for one in instances[:2])
    control.settings(failing_instances=[one.instance for one in instances[:2]])
    TaskRun().run(operator(max_failures=2))
    result = TaskRun().run(check())
    assert (result["missing"], result["missing_paths"]) == (2, lost)
    assert result["missing_uri"] == f"gs://{bucket}/{FILE}"
    assert lines(storage, bucket) == lost

    control.settings(failing_instances=[])
    before = storage.generations(bucket, "nightly/")
    again = TaskRun().run(operator(task_id="again", filter_uri=result["missing_uri"]))
    assert (again["success"], again["failure"]) == (2, 0)
    after = storage.generations(bucket, "nightly/")
    assert before.items() <= after.items(), "what had arrived was exported again"
    complete = TaskRun().run(check(filter_uri=result["missing_uri"], on_missing="fail"))
    assert (complete["expected"], complete["missing"], complete["missing_uri"]) == (2, 0, None)


def test_nothing_is_written_if_nothing_is_missing(
    operator: ExportOperatorFactory,
    check: Callable[..., DicomStoreExportCheckOperator],
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    assert instances
    TaskRun().run(operator())
    assert TaskRun().run(check())["missing_uri"] is None
    assert lines(storage, bucket) == []


def test_check_that_fails_has_written_what_is_missing(
    check: Callable[..., DicomStoreExportCheckOperator],
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    with pytest.raises(DicomExportIncompleteError) as raised:
        TaskRun().run(check(on_missing="fail"))
    assert raised.value.result is not None
    assert raised.value.result["missing_uri"] == f"gs://{bucket}/{FILE}"
    assert lines(storage, bucket) == sorted(one.path for one in instances)


def test_check_without_missing_uri_writes_nothing(
    check: Callable[..., DicomStoreExportCheckOperator],
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    assert instances
    assert TaskRun().run(check(missing_uri=None))["missing_uri"] is None
    assert storage.objects(bucket) == {}


def test_file_lists_all_missing_instances_and_the_result_the_first_few(
    check: Callable[..., DicomStoreExportCheckOperator],
    store: DicomStoreName,
    healthcare: HealthcareEmulator,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    uids = [Uids("1.2.3", "1.2.3.4", f"1.2.3.4.{number}") for number in range(30)]
    upload_copies(healthcare.url, str(store), uids)
    result = TaskRun().run(check())
    paths = sorted(one.path for one in uids)
    assert (result["missing"], result["missing_paths"]) == (30, paths[:MAX_MISSING_PATHS])
    assert lines(storage, bucket) == paths


@pytest.mark.parametrize("filter_level", [None, "instance"])
def test_instance_with_fewer_frames_than_it_has_is_exported_again(
    filter_level: str | None,
    operator: ExportOperatorFactory,
    check: Callable[..., DicomStoreExportCheckOperator],
    thirty_frames: Uids,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    arguments: dict[str, Any] = {}
    if filter_level:
        storage.write(bucket, "filter.txt", f"{thirty_frames.path}\n{instances[0].path}\n".encode())
        arguments = {"filter_uri": f"gs://{bucket}/filter.txt"}
    # Not every instance has pixel data.
    TaskRun().run(operator(mime_type="image/png", max_failures=1.0, **arguments))
    study, series, instance = thirty_frames
    storage.delete(bucket, f"nightly/{study}/{series}/{instance}/7.png")
    result = TaskRun().run(check(**arguments))
    assert thirty_frames.path in lines(storage, bucket)
    again = operator(
        task_id="again", mime_type="image/png", max_failures=1.0, filter_uri=result["missing_uri"]
    )
    assert TaskRun().run(again)["success"] >= 1
    assert thirty_frames.path not in TaskRun().run(check(**arguments))["missing_paths"]


def test_rows_of_missing_instances_are_appended_once(
    operator: ExportOperatorFactory,
    check: Callable[..., DicomStoreExportCheckOperator],
    instances: list[Uids],
    control: Control,
    bigquery: BigQueryEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    bigquery.create_dataset("test-project", "missing")
    table = "bq://test-project.missing.t"
    control.settings(failing_instances=[instances[0].instance])
    TaskRun().run(operator(destination=table, max_failures=1))
    missing_uri = TaskRun().run(check(destination=table))["missing_uri"]
    control.settings(failing_instances=[])
    TaskRun().run(
        operator(task_id="again", destination=table, write_disposition="WRITE_APPEND", filter_uri=missing_uri)
    )
    ((rows,),) = bigquery.query("test-project", "SELECT COUNT(*) FROM missing.t")
    assert int(rows) == 3
    assert TaskRun().run(check(destination=table, on_missing="fail"))["missing"] == 0


def rendered(kind: Any, where: dict[str, Any], missing_uri: object) -> Any:
    """Return a task whose filter is the output of a check, as the worker executes it."""
    with dag():
        filter_uri = XComArg(UpstreamTask(task_id="check"), key="missing_uri")
        task = kind(task_id="next", **where, destination="gs://bucket/nightly", filter_uri=filter_uri)
    return render(task, xcoms={"check": {"missing_uri": missing_uri}})


@pytest.mark.parametrize("kind", [DicomStoreExportOperator, DicomStoreExportCheckOperator])
def test_task_with_the_filter_of_a_check_is_skipped_if_nothing_is_missing(
    kind: Any, where: dict[str, Any]
) -> None:
    task = rendered(kind, where, None)
    with pytest.raises(AirflowSkipException, match="Nothing is missing"):
        task.execute(TaskRun().context)


def test_template_that_reads_missing_uri_skips_the_export_as_well(where: dict[str, Any]) -> None:
    with dag():
        task = DicomStoreExportOperator(
            task_id="next",
            **where,
            destination="gs://bucket/nightly",
            filter_uri="{{ result['missing_uri'] }}",
        )
    with pytest.raises(AirflowSkipException, match="Nothing is missing"):
        render(task, result={"missing_uri": None}).execute(TaskRun().context)


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("kind", [DicomStoreExportOperator, DicomStoreExportCheckOperator])
def test_empty_missing_uri_is_refused(kind: Any, value: str, where: dict[str, Any]) -> None:
    task = rendered(kind, where, value)
    with pytest.raises(DicomExportInvalidRequestError, match="filter_uri="):
        task.execute(TaskRun().context)


@pytest.mark.parametrize("kind", [DicomStoreExportOperator, DicomStoreExportCheckOperator])
def test_none_from_another_source_is_still_refused(kind: Any, where: dict[str, Any]) -> None:
    with dag():
        task = kind(
            task_id="next",
            **where,
            destination="gs://bucket/nightly",
            filter_uri="{{ result['filter_uri'] }}",
        )
    executed = render(task, result={"filter_uri": None})
    with pytest.raises(DicomExportInvalidRequestError, match="filter_uri="):
        executed.execute(TaskRun().context)
