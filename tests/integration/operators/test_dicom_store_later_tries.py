"""The table of docs/how-it-works.md: what the next try does, by event and destination, cell by cell."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import exceptions
from rig.servers import ROOT
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.signalled_task import WorkerGone, signal_during_a_poll
from tests.support.task_runs import TaskRun
from tests.support.trigger_runs import patch_task_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick", "bigquery_dataset")
BIGQUERY_DATASET = "later_tries"
#: How long an export that has to run on waits before it begins, in seconds.
START_DELAY = 0.6


@pytest.fixture(scope="module")
def bigquery_dataset(bigquery: BigQueryEmulator) -> None:
    """The dataset of all tables."""
    bigquery.create_dataset("test-project", BIGQUERY_DATASET)


class Tries:
    """
    The tries of one export to one destination.

    :param destination: the head of the table's column.
    """

    def __init__(
        self,
        destination: str,
        *,
        operator: ExportOperatorFactory,
        control: Control,
        store: DicomStoreName,
        hook: DicomStoreHook,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.control, self.hook, self.store, self.monkeypatch = control, hook, store, monkeypatch
        self._operator = operator
        self.task_run = TaskRun()
        self.earlier_result: Any = None
        #: Changes of the parameters in the try that counts, and how it is run.
        self.changes: dict[str, Any] = {}
        self.run_task: Callable[[DicomStoreExportOperator], Any] = self.task_run.run
        table = f"bq://test-project.{BIGQUERY_DATASET}.{store.dataset.dataset_id.replace('-', '_')}"
        self.options: dict[str, Any] = {"destination": table, "write_disposition": destination.strip("`")}
        self.other_body: dict[str, Any] = {"include_source_store": True}
        if destination == "Cloud Storage":
            self.options = {"destination": f"gs://{bucket}/nightly"}
            self.other_body = {"mime_type": "application/dicom"}

    def task(self, **changes: Any) -> DicomStoreExportOperator:
        """Build the task of a try."""
        return self._operator(**{**self.options, **changes})

    def submit(self) -> None:
        """Run a try until it waits for its export, and let the next one begin before the export does."""
        self.control.settings(start_delay_seconds=START_DELAY)
        self.task_run.run_until_deferred(self.task())
        self.control.settings(start_delay_seconds=0)
        self.task_run.begin_next_try()

    def run(self, *, delivers: bool = True) -> None:
        """Run a whole try."""
        self.earlier_result = self.task_run.run(self.task(), delivers=delivers)
        self.task_run.begin_next_try()

    def run_that_fails(self, kind: type[exceptions.DicomExportError]) -> None:
        """Run a whole try that fails."""
        with pytest.raises(kind):
            self.task_run.run(self.task())
        self.task_run.begin_next_try()

    def run_signalled(self, task: DicomStoreExportOperator, *, state: str, dies: bool = False) -> Any:
        """Run a try that gets a signal while it polls on its worker; Airflow says that it is in a state."""
        patch_task_state(self.monkeypatch, state, None)
        with signal_during_a_poll(task, self.control, dies=dies):
            return self.task_run.run(task)

    def accepted(self) -> list[str]:
        """Return the exports that the API has accepted."""
        return accepted_exports(self.control, self.store)


def _runs(tries: Tries) -> None:
    tries.submit()


def _is_not_read(tries: Tries) -> None:
    tries.submit()
    tries.control.fault("operations.get", count=1, status=503)


def _succeeded(tries: Tries) -> None:
    tries.run(delivers=False)


def _failed(tries: Tries) -> None:
    tries.control.settings(operation_error={"code": 13, "message": "internal trouble"})
    tries.run_that_fails(exceptions.DicomExportOperationFailedError)
    tries.control.settings(operation_error=None)


def _is_forgotten_by_the_api(tries: Tries) -> None:
    _failed(tries)
    tries.control.fault("operations.get", vanish=True, count=1)


def _refused(tries: Tries) -> None:
    tries.control.fault("export", count=1, status=403)
    tries.run_that_fails(exceptions.DicomExportPermissionError)


def _ended_before(tries: Tries) -> None:
    task = tries.task()
    task.location = ""
    with pytest.raises(exceptions.DicomExportInvalidRequestError):
        tries.task_run.run(task)
    tries.task_run.begin_next_try()


def _died_before_the_name(tries: Tries) -> None:
    tries.submit()
    tries.task_run.change_record(operation_name=None, state="intent")


def _is_forgotten_by_airflow(tries: Tries) -> None:
    tries.control.settings(operation_error={"code": 13, "message": "internal trouble"})
    tries.run_that_fails(exceptions.DicomExportOperationFailedError)
    tries.control.settings(operation_error=None)
    tries.task_run.context["task_state_store"].values.clear()


def _lost_reply(tries: Tries) -> None:
    # The first export is accepted; its end shows whether the second one waited for it.
    tries.control.settings(start_delay_seconds=START_DELAY)
    tries.control.fault("export", count=1, reset="after")


def _delivered(tries: Tries) -> None:
    tries.run()


def _changed(tries: Tries) -> None:
    tries.submit()
    tries.changes = tries.other_body


def _delivered_and_changed(tries: Tries) -> None:
    tries.run()
    tries.changes = tries.other_body


def _other_destination(tries: Tries) -> None:
    tries.submit()
    tries.changes = {"destination": f"{tries.options['destination']}_elsewhere"}


def _not_durable(tries: Tries) -> None:
    tries.submit()
    tries.changes = {"durable": False}


def _no_task_state(tries: Tries) -> None:
    del tries.task_run.context["task_state_store"]
    tries.submit()


def _cancelled_with_its_try(tries: Tries) -> None:
    tries.control.settings(advance="manual")
    tries.task_run.run_until_deferred(tries.task())
    # As the trigger does that Airflow tells of the end of its task.
    tries.hook.cancel_and_confirm(tries.task_run.operation_name)
    tries.control.settings(advance="time")
    tries.task_run.begin_next_try()


def _killed(tries: Tries) -> None:
    tries.control.settings(advance="manual")
    tries.changes = {"deferrable": False}
    tries.run_task = functools.partial(tries.run_signalled, state="failed")


def _timed_out(tries: Tries) -> None:
    tries.control.settings(advance="manual")
    tries.task_run.run_until_deferred(tries.task())
    tries.run_task = functools.partial(tries.task_run.end_deferral, timed_out=True)


def _evicted(tries: Tries) -> None:
    tries.control.settings(advance="manual")
    with pytest.raises(WorkerGone):
        tries.run_signalled(tries.task(deferrable=False), state="running", dies=True)
    assert request_count(tries.control, "operations.cancel") == 0
    tries.control.settings(advance="time")
    tries.task_run.begin_next_try()


SCENARIOS: dict[str, Callable[[Tries], None]] = {
    "retry; the operation runs": _runs,
    "retry; the operation runs, and the API does not answer at the moment": _is_not_read,
    "retry; the operation has succeeded, its result is not delivered": _succeeded,
    "retry; the operation failed": _failed,
    "retry; the API has forgotten the operation": _is_forgotten_by_the_api,
    "retry; the API had refused the submission": _refused,
    "retry; the earlier try ended before it submitted": _ended_before,
    "retry; the earlier try died before it knew the operation's name": _died_before_the_name,
    "retry; Airflow has forgotten the task's records": _is_forgotten_by_airflow,
    "the reply to the submission was lost (same try)": _lost_reply,
    "kill: a user ends the task; the operation runs": _killed,
    "the `execution_timeout` passes; the operation runs": _timed_out,
    "retry after the eviction of the worker; the operation runs": _evicted,
    "clear; the operation was cancelled with the earlier try": _cancelled_with_its_try,
    "clear after the result was delivered": _delivered,
    "clear with a changed request; the operation runs": _changed,
    "clear with a changed request, after the result was delivered": _delivered_and_changed,
    "clear with another destination; the operation runs": _other_destination,
    "retry with `durable=False`": _not_durable,
    "retry, before Airflow 3.3": _no_task_state,
}


def rows_of_the_table() -> list[list[str]]:
    """Return the rows of the table, the head first."""
    lines = (ROOT / "docs" / "how-it-works.md").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| event | Cloud Storage |"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


(_, *DESTINATIONS), *ROWS = rows_of_the_table()
CELLS = [
    pytest.param(event, destination, cell, id=f"{event}-{destination}")
    for event, *cells in ROWS
    for destination, cell in zip(DESTINATIONS, cells, strict=True)
]


def test_every_row_of_the_table_has_a_scenario() -> None:
    assert [event for event, *_ in ROWS] == list(SCENARIOS)


@pytest.mark.parametrize(("event", "destination", "cell"), CELLS)
def test_cell_of_the_table(
    event: str,
    destination: str,
    cell: str,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    hook: DicomStoreHook,
    bucket: str,
    instances: list[Uids],
    printed: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = Tries(
        destination,
        operator=operator,
        control=control,
        store=store,
        hook=hook,
        bucket=bucket,
        monkeypatch=monkeypatch,
    )
    SCENARIOS[event](tries)
    before = tries.accepted()
    control.reset_requests()
    what = cell.split(", ")
    result: Any = None
    error: exceptions.DicomExportError | None = None
    try:
        result = tries.run_task(tries.task(**tries.changes))
    except exceptions.DicomExportError as caught:
        error = caught
    new = [name for name in tries.accepted() if name not in before]
    is_lost = "reply" in event
    assert (request_count(control, "operations.cancel") > 0) is ("cancels" in what)
    if what == ["refuses"]:
        assert isinstance(error, exceptions.DicomExportDuplicateRiskError)
        assert len(new) == is_lost, "no second submission"
    elif what == ["cancels"]:
        assert isinstance(error, (exceptions.DicomExportCancelledError, exceptions.DicomExportTimeoutError))
        (name,) = before + new
        assert control.operation_state(name) == "CANCELLED"
    elif what == ["re-attaches"]:
        assert (result["operation_name"], new) == (before[0], [])
        assert request_count(control, "export") == 0
    elif what == ["returns the earlier result"]:
        assert (result, new) == (tries.earlier_result, [])
        assert control.requests()["counts"] == {}
        assert "To export again on purpose" in printed()
    else:
        assert what[-1] in ("submits", "submits again")
        assert len(new) == 1 + is_lost
        assert (what[-1] == "submits again") is (bool(before) or is_lost) or "destination" in event
        if error is None:
            assert result["operation_name"] == new[-1]
        else:
            # Only WRITE_EMPTY is refused by BigQuery, because the first export has filled the table.
            assert "Already Exists" in str(error)
            assert destination == "`WRITE_EMPTY`"
            is_explained = isinstance(error, exceptions.DicomExportDestinationNotEmptyError)
            assert is_explained is ("waits" in what and "cancels" not in what)
        if "waits" in what:
            created = hook.get_operation(new[-1])["metadata"]["createTime"]
            ends = [hook.get_operation(name)["metadata"]["endTime"] for name in (before + new)[:-1]]
            assert max(ends) <= created
