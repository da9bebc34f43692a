"""The check after an export, against the local Healthcare API and the emulators of its destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.exceptions import DicomExportIncompleteError, DicomExportNotFoundError
from airflow_provider_dicom.operators.check import MAX_MISSING_PATHS, DicomStoreExportCheckOperator
from rig.dicom_files import Uids, upload_copies
from tests.support.provider_rig import Run

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def check(where: dict[str, Any], bucket: str) -> Any:
    def build(**changes: Any) -> DicomStoreExportCheckOperator:
        arguments: dict[str, Any] = {
            "task_id": "check",
            "destination": f"gs://{bucket}/nightly",
        }
        return DicomStoreExportCheckOperator(**(where | arguments | changes))

    return build


def test_all_of_the_store_arrived(operator: Any, check: Any, instances: list[Uids], bucket: str) -> None:
    Run()(operator())
    assert Run()(check()) == {
        "destination": f"gs://{bucket}/nightly",
        "expected": 3,
        "arrived": 3,
        "missing": 0,
        "missing_paths": [],
    }


def test_what_failed_is_missing_and_named(
    operator: Any, check: Any, instances: list[Uids], control: Control
) -> None:
    lost = instances[1]
    control.settings(failing_instances=[lost.instance])
    Run()(operator(max_failures=1))
    with pytest.raises(DicomExportIncompleteError, match="1 of them are missing; 2 are there") as raised:
        Run()(check())
    assert lost.path in str(raised.value)
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == [lost.path]


def test_a_warning_does_not_fail(
    check: Any, instances: list[Uids], capsys: pytest.CaptureFixture[str]
) -> None:
    result = Run()(check(on_missing="warn"))
    assert (result["arrived"], result["missing"]) == (0, 3)
    assert "3 of them are missing" in capsys.readouterr().out


def test_only_what_was_filtered_is_expected(
    operator: Any,
    check: Any,
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
    Run()(operator(filter_uri=filter_uri, resource_paths=paths[:2]))
    assert Run()(check(filter_uri=filter_uri))["expected"] == 4
    storage.write(bucket, "filter.txt", "\n".join(paths).encode())
    with pytest.raises(DicomExportIncompleteError) as raised:
        Run()(check(filter_uri=filter_uri))
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == [third.path]
    assert raised.value.result["expected"] == 5


def test_frames_stand_for_their_instance(
    operator: Any, check: Any, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    for uids in instances:
        for frame in (1, 2):
            storage.write(bucket, f"nightly/{uids.study}/{uids.series}/{uids.instance}/{frame}.png", b"png")
    assert Run()(check())["arrived"] == 3


def test_a_neighbouring_prefix_does_not_count(
    operator: Any, check: Any, instances: list[Uids], bucket: str
) -> None:
    Run()(operator(destination=f"gs://{bucket}/nightly-2"))
    assert Run()(check(on_missing="warn"))["arrived"] == 0


def test_rows_of_a_table(
    operator: Any,
    check: Any,
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
    Run()(operator(destination=table, filter_uri=f"gs://{bucket}/filter.txt"))
    # Appended rows do not make more instances.
    Run()(
        operator(destination=table, filter_uri=f"gs://{bucket}/filter.txt", write_disposition="WRITE_APPEND")
    )
    assert Run()(check(destination=table, filter_uri=f"gs://{bucket}/filter.txt"))["arrived"] == 2
    with pytest.raises(DicomExportIncompleteError, match="1 of them are missing") as raised:
        Run()(check(destination=table))
    assert instances[2].path in str(raised.value)


def test_few_are_named_of_many(check: Any, bucket: str, storage: StorageEmulator) -> None:
    paths = [f"/studies/1/series/2/instances/{number}" for number in range(100, 113)]
    storage.write(bucket, "filter.txt", "\n".join(paths).encode())
    with pytest.raises(DicomExportIncompleteError, match="and 3 more") as raised:
        Run()(check(filter_uri=f"gs://{bucket}/filter.txt"))
    assert raised.value.result is not None
    assert raised.value.result["missing_paths"] == paths[:MAX_MISSING_PATHS]


def test_no_such_bucket_filter_or_table(
    check: Any,
    instances: list[Uids],
    bigquery: BigQueryEmulator,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    for changes in (
        {"destination": "gs://no-such-bucket/x"},
        {"filter_uri": f"gs://{bucket}/none.txt"},
        {"destination": "bq://test-project.nowhere.t"},
    ):
        with pytest.raises(DicomExportNotFoundError):
            Run()(check(**changes))
