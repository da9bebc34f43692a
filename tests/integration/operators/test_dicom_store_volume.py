"""How much an export reads, said before it: at most one request more, and never a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.api import retry
from airflow_provider_dicom.longrunning.progress import progress_of
from tests.support.healthcare_requests import request_count
from tests.support.task_runs import TaskRun, both_modes

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")


def test_size_of_the_store_is_said_before_the_submission_and_shown_before_the_first_counts(
    operator: ExportOperatorFactory, instances: list[Uids], control: Control, printed: Callable[[], str]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    said = printed()
    assert "Exporting 3 instances, 2.2 KiB of projects/" in said
    assert said.index("Exporting 3 instances") < said.index("Submitted the request")
    assert request_count(control, "metrics") == 1
    progress = task_run.ti.xcoms["progress"]
    assert (progress["expected"], progress["state"], progress["success"]) == (3, "RUNNING", 0)
    assert "expected" not in progress_of({"name": task_run.operation_name})
    control.step()


@both_modes
@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_metrics_that_cannot_be_had_cost_one_request_and_no_failure(
    status: int,
    deferrable: bool,
    operator: ExportOperatorFactory,
    instances: list[Uids],
    control: Control,
    printed: Callable[[], str],
) -> None:
    control.fault("metrics", status=status)
    assert TaskRun().run(operator(deferrable=deferrable))["success"] == 3
    assert request_count(control, "metrics") == 1
    assert "is not known before the export" in printed()


def test_later_submission_of_the_same_task_does_not_ask_again(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "QUOTA_BACKOFF_INITIAL", 0.02)
    # The hook itself repeats a submission three times.
    control.fault("export", status=429, count=5)
    assert TaskRun().run(operator())["success"] == 3
    assert request_count(control, "metrics") == 1


def test_export_with_a_filter_says_what_the_filter_selects(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
    control: Control,
    printed: Callable[[], str],
) -> None:
    paths = [uids.path for uids in instances[:2]]
    TaskRun().run(operator(filter_uri=f"gs://{bucket}/f.txt", resource_paths=paths))
    assert "Exporting 2 resource paths of projects/" in printed()
    assert request_count(control, "metrics") == 0


def test_file_that_somebody_else_wrote_is_exported_without_a_word_about_its_size(
    operator: ExportOperatorFactory,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
    control: Control,
    printed: Callable[[], str],
) -> None:
    storage.write(bucket, "f.txt", instances[0].path.encode())
    TaskRun().run(operator(filter_uri=f"gs://{bucket}/f.txt"))
    assert "Exporting" not in printed()
    assert request_count(control, "metrics") == 0
