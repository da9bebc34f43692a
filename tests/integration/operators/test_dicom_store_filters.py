"""Filter files of an export: written from resource paths, read back, and never empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom import exceptions
from tests.support.healthcare_requests import accepted_exports
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator, StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")
FILTER_FILE = "filters/tonight.txt"


def test_resource_paths_are_written_to_the_filter_file_and_limit_the_export(
    operator: ExportOperatorFactory, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    first, *_ = instances
    uri, destination = f"gs://{bucket}/{FILTER_FILE}", f"gs://{bucket}/out"
    task = operator(resource_paths=[first.path, first.path], filter_uri=uri, destination=destination)
    assert TaskRun().run(task)["success"] == 1
    assert storage.read(bucket, FILTER_FILE).decode() == f"{first.path}\n"
    assert list(storage.objects(bucket, "out/")) == [f"out/{first.study}/{first.series}/{first.instance}.dcm"]


def test_error_of_an_unwritable_filter_file_names_it_and_nothing_is_submitted(
    operator: ExportOperatorFactory, instances: list[Uids], control: Control, store: DicomStoreName
) -> None:
    uri = "gs://no-such-bucket/f.txt"
    task = operator(resource_paths=[f"/studies/{instances[0].study}"], filter_uri=uri)
    with pytest.raises(exceptions.DicomExportNotFoundError, match="The bucket must exist") as error:
        TaskRun().run(task)
    assert uri in str(error.value)
    assert accepted_exports(control, store) == []


def test_empty_filter_file_skips_the_task_and_never_exports_the_whole_store(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    store: DicomStoreName,
) -> None:
    uri = f"gs://{bucket}/{FILTER_FILE}"
    # The last one is larger than what is read at a time.
    for content in (b"", b"\n \n", b" \r\n" * 2_000, b"\n" * 300_000):
        storage.write(bucket, FILTER_FILE, content)
        with pytest.raises(AirflowSkipException, match=r"tonight.txt is empty: there is nothing to export"):
            TaskRun().run(operator(filter_uri=uri))
    assert accepted_exports(control, store) == []
    for blank in ("", "\n" * 300_000):
        storage.write(bucket, FILTER_FILE, f"{blank}{instances[0].path}\n".encode())
        assert TaskRun().run(operator(filter_uri=uri))["success"] == 1


def test_missing_filter_file_is_reported_and_nothing_is_submitted(
    operator: ExportOperatorFactory, bucket: str, control: Control, store: DicomStoreName
) -> None:
    with pytest.raises(exceptions.DicomExportNotFoundError, match="Could not read the filter file"):
        TaskRun().run(operator(filter_uri=f"gs://{bucket}/no-such-file.txt"))
    assert accepted_exports(control, store) == []


def test_later_try_submits_again_only_if_the_content_of_the_filter_file_has_changed(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    store: DicomStoreName,
) -> None:
    task_run = TaskRun()
    study = f"/studies/{instances[0].study}"
    for path, exports in ((study, 1), (study, 1), (f"{study}/series/{instances[0].series}", 2)):
        storage.write(bucket, FILTER_FILE, f"{path}\n".encode())
        task_run.run(operator(filter_uri=f"gs://{bucket}/{FILTER_FILE}"), delivers=False)
        assert len(accepted_exports(control, store)) == exports


def test_selection_that_has_grown_between_two_tries_is_not_appended(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    store: DicomStoreName,
    bigquery: BigQueryEmulator,
) -> None:
    bigquery.create_dataset("test-project", "grown")
    append = {"destination": "bq://test-project.grown.instances", "write_disposition": "WRITE_APPEND"}
    filter_uri = f"gs://{bucket}/{FILTER_FILE}"
    task_run = TaskRun()
    storage.write(bucket, FILTER_FILE, f"{instances[0].path}\n".encode())
    task_run.run(operator(filter_uri=filter_uri, **append))
    for delivered in (True, False):
        task_run.begin_next_try()
        if not delivered:
            task_run.change_record(state="submitted")
        storage.write(bucket, FILTER_FILE, "".join(f"{each.path}\n" for each in instances).encode())
        with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="another request for the same"):
            task_run.run(operator(filter_uri=filter_uri, **append))
    assert len(accepted_exports(control, store)) == 1
