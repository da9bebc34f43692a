"""The check after an export, against the local Healthcare API and the emulators of its destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from airflow_provider_dicom.exceptions import DicomExportIncompleteError, DicomExportNotFoundError
from airflow_provider_dicom.operators.check import MAX_MISSING_PATHS, DicomStoreExportCheckOperator
from rig.dicom_files import Uids, sample_files, upload, upload_copies
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")


class CheckOperatorFactory(Protocol):
    """Builds operators that check an export of the test's DICOM store."""

    def __call__(self, **changes: object) -> DicomStoreExportCheckOperator:
        """Build an operator; ``changes`` are its parameters other than the defaults."""


@pytest.fixture
def check(where: dict[str, Any], bucket: str) -> CheckOperatorFactory:
    """Builds operators that check an export of the test's DICOM store."""

    def build(**changes: object) -> DicomStoreExportCheckOperator:
        arguments: dict[str, Any] = {
            "task_id": "check",
            "destination": f"gs://{bucket}/nightly",
        }
        return DicomStoreExportCheckOperator(**(where | arguments | changes))

    return build


def test_check_passes_after_a_complete_export(
    operator: ExportOperatorFactory, check: CheckOperatorFactory, instances: list[Uids], bucket: str
) -> None:
    TaskRun().run(operator())
    assert TaskRun().run(check()) == {
        "destination": f"gs://{bucket}/nightly",
        "expected": 3,
        "arrived": 3,
        "missing": 0,
        "missing_paths": [],
        "missing_uri": None,
    }


def test_check_names_an_instance_that_failed(
    operator: ExportOperatorFactory, check: CheckOperatorFactory, instances: list[Uids], control: Control
) -> None:
    lost = instances[1]
    control.settings(failing_instances=[lost.instance])
    TaskRun().run(operator(max_failures=1))
    with pytest.raises(DicomExportIncompleteError, match="1 of them are missing; 2 are there") as raised:
        TaskRun().run(check())
    assert lost.path in str(raised.value)
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == [lost.path]


def test_check_with_on_missing_warn_does_not_fail(
    check: CheckOperatorFactory, instances: list[Uids], capsys: pytest.CaptureFixture[str]
) -> None:
    result = TaskRun().run(check(on_missing="warn"))
    assert (result["arrived"], result["missing"]) == (0, 3)
    assert "3 of them are missing" in capsys.readouterr().out


def test_check_expects_only_the_instances_of_the_filter_file(
    operator: ExportOperatorFactory,
    check: CheckOperatorFactory,
    instances: list[Uids],
    store: DicomStoreName,
    healthcare: HealthcareEmulator,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    second, third = Uids("1.2", "1.2.1", "1.2.1.1"), Uids("1.3", "1.3.1", "1.3.1.1")
    upload_copies(healthcare.url, str(store), [second, third])
    first = instances[0]
    paths = [f"/studies/{first.study}", f"/studies/{second.study}/series/{second.series}", third.path]
    filter_uri = f"gs://{bucket}/filter.txt"
    TaskRun().run(operator(filter_uri=filter_uri, resource_paths=paths[:2]))
    assert TaskRun().run(check(filter_uri=filter_uri))["expected"] == 4
    storage.write(bucket, "filter.txt", "\n".join(paths).encode())
    with pytest.raises(DicomExportIncompleteError) as raised:
        TaskRun().run(check(filter_uri=filter_uri))
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == [third.path]
    assert raised.value.result["expected"] == 5


@pytest.mark.parametrize("filter_level", [None, "study", "instance"])
def test_check_needs_all_frames_of_an_instance(
    filter_level: str | None,
    operator: ExportOperatorFactory,
    check: CheckOperatorFactory,
    store: DicomStoreName,
    healthcare: HealthcareEmulator,
    thirty_frames: Uids,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    study, series, instance = thirty_frames
    (one_frame,) = upload(healthcare.url, str(store), [f for f in sample_files() if f.name == "CT_small.dcm"])
    arguments: dict[str, Any] = {}
    if filter_level is not None:
        path = f"/studies/{study}" if filter_level == "study" else thirty_frames.path
        storage.write(bucket, "filter.txt", f"{path}\n{one_frame.path}".encode())
        arguments["filter_uri"] = f"gs://{bucket}/filter.txt"
    TaskRun().run(operator(mime_type="image/png", **arguments))
    result = TaskRun().run(check(**arguments))
    assert (result["expected"], result["arrived"], result["missing"]) == (2, 2, 0)
    storage.delete(bucket, f"nightly/{study}/{series}/{instance}/30.png")
    with pytest.raises(DicomExportIncompleteError, match="1 of them are missing") as raised:
        TaskRun().run(check(**arguments))
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == [thirty_frames.path]


@pytest.mark.parametrize("path", ["/studies/1.2", "/studies/1.2/series/3.4"])
def test_study_or_series_that_is_nowhere_is_missing(
    path: str,
    operator: ExportOperatorFactory,
    check: CheckOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    TaskRun().run(operator())
    storage.write(bucket, "filter.txt", f"{instances[0].path}\n{path}\n".encode())
    with pytest.raises(DicomExportIncompleteError, match="2 instances are expected") as raised:
        TaskRun().run(check(filter_uri=f"gs://{bucket}/filter.txt"))
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == [path]
    # Another study, whose UID begins the same way, does not count.
    storage.write(bucket, "nightly/1.2.3/3.4.5/5.6.dcm", b"")
    assert TaskRun().run(check(filter_uri=f"gs://{bucket}/filter.txt", on_missing="warn"))["missing"] == 1
    storage.write(bucket, "nightly/1.2/3.4/5.6.dcm", b"")
    assert TaskRun().run(check(filter_uri=f"gs://{bucket}/filter.txt"))["missing"] == 0
    assert "1 paths of the filter file are not in the DICOM store any more" in capsys.readouterr().out


def test_check_counts_objects_that_it_ignores(
    operator: ExportOperatorFactory,
    check: CheckOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    TaskRun().run(operator())
    assert "ignored" not in capsys.readouterr().out
    storage.write(bucket, "nightly/2026/1.2/3.4/5.6.dcm", b"")
    TaskRun().run(check())
    assert f"1 objects below gs://{bucket}/nightly were ignored" in capsys.readouterr().out


def test_check_ignores_objects_under_a_longer_prefix(
    operator: ExportOperatorFactory, check: CheckOperatorFactory, instances: list[Uids], bucket: str
) -> None:
    TaskRun().run(operator(destination=f"gs://{bucket}/nightly-2"))
    assert TaskRun().run(check(on_missing="warn"))["arrived"] == 0


def test_check_counts_each_instance_of_a_table_once(
    operator: ExportOperatorFactory,
    check: CheckOperatorFactory,
    instances: list[Uids],
    bigquery: BigQueryEmulator,
    bucket: str,
    storage: StorageEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    bigquery.create_dataset("test-project", "checked")
    table = "bq://test-project.checked.t"
    storage.write(bucket, "filter.txt", f"{instances[0].path}\n{instances[1].path}\n".encode())
    TaskRun().run(operator(destination=table, filter_uri=f"gs://{bucket}/filter.txt"))
    # Appended rows do not make more instances.
    TaskRun().run(
        operator(destination=table, filter_uri=f"gs://{bucket}/filter.txt", write_disposition="WRITE_APPEND")
    )
    assert TaskRun().run(check(destination=table, filter_uri=f"gs://{bucket}/filter.txt"))["arrived"] == 2
    with pytest.raises(DicomExportIncompleteError, match="1 of them are missing") as raised:
        TaskRun().run(check(destination=table))
    assert instances[2].path in str(raised.value)


def test_check_names_only_the_first_of_many_missing_instances(
    check: CheckOperatorFactory, bucket: str, storage: StorageEmulator
) -> None:
    paths = [f"/studies/1/series/2/instances/{number}" for number in range(100, 113)]
    storage.write(bucket, "filter.txt", "\n".join(paths).encode())
    with pytest.raises(DicomExportIncompleteError, match="and 3 more") as raised:
        TaskRun().run(check(filter_uri=f"gs://{bucket}/filter.txt"))
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == paths[:MAX_MISSING_PATHS]


def test_check_names_a_missing_bucket_filter_file_or_table(
    check: CheckOperatorFactory,
    instances: list[Uids],
    bigquery: BigQueryEmulator,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    for parameter, value in (
        ("destination", "gs://no-such-bucket/x"),
        ("filter_uri", f"gs://{bucket}/none.txt"),
        ("destination", "bq://test-project.nowhere.t"),
    ):
        with pytest.raises(DicomExportNotFoundError, match=value.rpartition("/")[0]):
            TaskRun().run(check(**{parameter: value}))
