"""
The demo itself: servers, upload, one run of the nightly DAG, and a check of the bucket.

On a terminal, Airflow stays open for people who try the other examples: these get a pool, BigQuery, a second
DICOM store, and studies of the day before.
"""

from __future__ import annotations

import ast
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import requests

from airflow_provider_dicom.api_types import Counters
from demo.summary import Example, by_study, object_name, phases
from rig.airflow import FINISHED, AirflowStandalone
from rig.control import Control
from rig.dicom_files import Uids, create_store, sample_files, uids_of, upload, upload_copies
from rig.servers import ROOT, BigQueryEmulator, HealthcareEmulator, StorageEmulator, loopback_session

if TYPE_CHECKING:
    from pathlib import Path

    from demo.view import View
    from rig.servers import Server

PROJECT = "demo-project"
LOCATION, DATASET, STORE, BUCKET = "europe-west3", "radiology", "pacs", "dicom-exports"
STORES = f"projects/{PROJECT}/locations/{LOCATION}/datasets/{DATASET}/dicomStores"
STORE_NAME = f"{STORES}/{STORE}"
#: What the other examples need: a second DICOM store, a table, and a pool.
SECOND_STORE, TABLE, POOL = "archive", f"{PROJECT}.{DATASET}.dicom_metadata", "dicom_exports"
EXAMPLES = ROOT / "example_dags"
#: Examples that the demo cannot run: an emulator of Pub/Sub is in no registry of packages, and rows that have
#: just come to the table are too young for a selection in parts.
LEFT_OUT = frozenset({"dicom_on_arrival", "dicom_in_parts"})
DAG_ID, RUN_ID, TASK_ID = "dicom_nightly_to_gcs", "demo", "export"
SECONDS_PER_INSTANCE = 0.1
RUN_TIMEOUT = 120.0


class DemoFailed(Exception):  # noqa: N818 - reads as what happened
    """The demo failed; the message carries the log that explains why."""


class Demo:
    """One demo, from the first server to the check of the bucket.

    :param state: the folder for databases and logs.
    :param view: the terminal output.
    """

    def __init__(self, state: Path, view: View) -> None:
        self._view = view
        self._storage = StorageEmulator(state)
        self._bigquery = BigQueryEmulator(state)
        destinations = {
            "STORAGE_EMULATOR_HOST": self._storage.url,
            "BIGQUERY_EMULATOR_HOST": self._bigquery.url,
        }
        self._healthcare = HealthcareEmulator(state, env=destinations)
        self._airflow = AirflowStandalone(
            state / "airflow",
            _copied_examples(state / "dags"),
            {
                **destinations,
                "HEALTHCARE_EMULATOR_HOST": self._healthcare.url,
                "DICOM_LOCATION": LOCATION,
                "DICOM_DATASET": DATASET,
                "DICOM_STORE": f"{STORE},{SECOND_STORE}",
                "DICOM_BUCKET": BUCKET,
                "DICOM_TABLE": TABLE,
            },
            project_id=PROJECT,
        )
        self.servers: list[Server] = [self._storage, self._healthcare, self._airflow]
        if view.interactive:
            self.servers.insert(0, self._bigquery)
        self.complete = False

    @property
    def airflow_address(self) -> str:
        """The address of the run in Airflow's web interface."""
        return f"{self._airflow.url}/dags/{DAG_ID}/runs/{RUN_ID}"

    @property
    def bucket_address(self) -> str:
        """The address of the list of exported objects."""
        return f"{self._storage.url}/storage/v1/b/{BUCKET}/o"

    @property
    def examples(self) -> list[Example]:
        """The example DAGs, with their addresses in Airflow's web interface."""
        return [
            Example(path.stem, f"{self._airflow.url}/dags/{path.stem}", _first_sentence(path))
            for path in example_files()
        ]

    def run(self) -> None:
        """Run the demo.

        :raises DemoFailed: not every uploaded instance is in the bucket.
        """
        for server in self.servers:
            server.launch()
        with self._view.step("Starting the emulators", "Started Cloud Storage and the Healthcare API"):
            self._storage.wait_until_healthy()
            self._healthcare.wait_until_healthy()
        files = sample_files()
        what = f"{len(files)} DICOM files that come with pydicom"
        with self._view.step(f"Uploading {what}", f"Uploaded {what}"):
            self._prepare(files)
        with self._view.step("Starting Airflow", "Started Airflow"):
            self._airflow.wait_until_healthy()
        now = datetime.now(UTC)
        with self._view.step(f"Triggering the DAG {DAG_ID}", f"Triggered the DAG {DAG_ID}"):
            self._airflow.rest.trigger(DAG_ID, logical_date=now.isoformat(), run_id=RUN_ID)
        counters = self._watch(len(files))
        self._conclude(files, f"dicom/{now:%Y-%m-%d}/", counters)
        if self._view.interactive:
            with self._view.step("Preparing the other examples", "Prepared the other examples"):
                self._prepare_examples(files, now)

    def _prepare(self, files: list[Path]) -> None:
        self._storage.create_bucket(BUCKET)
        create_store(self._healthcare.url, STORE_NAME)
        upload(self._healthcare.url, STORE_NAME, files)
        Control(self._healthcare.url).settings(advance="time", seconds_per_instance=SECONDS_PER_INSTANCE)

    def _prepare_examples(self, files: list[Path], now: datetime) -> None:
        self._airflow.rest.create_pool(POOL, 2, include_deferred=True)
        self._bigquery.wait_until_healthy()
        self._bigquery.create_dataset(*TABLE.split(".")[:2])
        create_store(self._healthcare.url, f"{STORES}/{SECOND_STORE}")
        upload(self._healthcare.url, f"{STORES}/{SECOND_STORE}", files[:20])
        # What the incremental exports find.
        arrived = [Uids("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in range(1, 6)]
        day = now - timedelta(days=1)
        upload_copies(self._healthcare.url, STORE_NAME, arrived, study_date=f"{day:%Y%m%d}")
        for example in self.examples:
            self._airflow.rest.wait_for_dag(example.dag_id)

    def _watch(self, total: int) -> Counters:
        """Show the run's progress until it has ended, and return the Operation's last counters."""
        rest = self._airflow.rest
        counters = Counters()
        operation_name = None
        deadline = time.monotonic() + RUN_TIMEOUT
        with self._view.progress(total) as progress:
            while (state := rest.run_state(DAG_ID, RUN_ID)) not in FINISHED:
                operation_name = operation_name or rest.xcom(DAG_ID, RUN_ID, TASK_ID, "operation_name")
                if operation_name:
                    counters = self._counters(operation_name)
                task_state = rest.task(DAG_ID, RUN_ID, TASK_ID)["state"] or "scheduled"
                progress.show(task_state, counters)
                if task_state == "up_for_retry":
                    raise DemoFailed(self.explained("The export failed."))
                if time.monotonic() > deadline:
                    raise DemoFailed(self.explained(f"The run was not over after {RUN_TIMEOUT:.0f} s."))
                time.sleep(0.3)
        if state != "success":
            raise DemoFailed(self.explained("The run failed."))
        return self._counters(operation_name) if operation_name else counters

    def _counters(self, operation_name: str) -> Counters:
        with loopback_session() as session:
            response = session.get(f"{self._healthcare.url}/v1/{operation_name}", timeout=30)
        response.raise_for_status()
        return Counters.of(response.json())

    def _conclude(self, files: list[Path], prefix: str, counters: Counters) -> None:
        sizes = self._storage.objects(BUCKET, prefix)
        expected = {object_name(prefix, uids) for uids in map(uids_of, files)}
        missing = expected - sizes.keys()
        history = self._airflow.rest.history(DAG_ID, RUN_ID, TASK_ID)
        self._view.summary(by_study(files, sizes, prefix), phases(history), len(missing), counters.failure)
        if missing:
            raise DemoFailed(self.explained(f"{len(missing)} of {len(files)} objects are not in the bucket."))
        self.complete = True

    def explained(self, what: str) -> str:
        """Return an error message followed by the logs of the failed tasks, or else of the servers."""
        try:
            logs = self._task_logs()
        except requests.RequestException:
            logs = []
        servers: list[Server] = [self._healthcare] if logs else self.servers
        logs += [f"End of {server.log_path}:\n{server.log_tail(15)}" for server in servers]
        return "\n\n".join([what, *logs])

    def _task_logs(self) -> list[str]:
        rest = self._airflow.rest
        return [
            f"Log of task {task['task_id']} ({task['state']}):\n"
            + rest.log(DAG_ID, RUN_ID, task["task_id"], task["try_number"])
            for task in rest.tasks(DAG_ID, RUN_ID)
            if task["start_date"] and task["state"] != "success"
        ]


def example_files() -> list[Path]:
    """Return the files of the examples that the demo can run."""
    return [path for path in sorted(EXAMPLES.glob("*.py")) if path.stem not in LEFT_OUT]


def _copied_examples(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in example_files():
        shutil.copy(path, folder)
    return folder


def _first_sentence(path: Path) -> str:
    """Return the first line of a DAG file's description."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
