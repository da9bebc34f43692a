"""What exports leave behind in a real Airflow: no key, no token, no patient, in no table and in no log."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydicom
import pytest

from rig.airflow import AirflowStandalone, is_exit_known
from rig.control import Control
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import ROOT, HealthcareEmulator, wait_for
from tests.support.token_server import TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import StorageEmulator

BUCKET = "airflow-secrets"
STORE = "projects/test-project/locations/europe-west3/datasets/radiology/dicomStores/secrets"
PATIENT = "Canary^Quetzal"
BOUND = 180.0


@dataclass(frozen=True)
class Traces:
    """What is left of one export.

    :param trigger: the trigger's arguments, while the task was deferred.
    :param places: all that Airflow and the servers have written, by where it is.
    :param operation_name: the Operation, which has to be found in the same places.
    :param keys: lines of the private key.
    :param tokens: the access tokens that were handed out.
    """

    trigger: str
    places: dict[str, str]
    operation_name: str
    keys: list[str]
    tokens: list[str]

    def of(self, needle: str) -> list[str]:
        """Say where something is to be found."""
        return sorted(place for place, text in self.places.items() if needle in text)


def database(home: Path) -> dict[str, str]:
    """Return all that Airflow's database holds, table by table."""
    with sqlite3.connect(home / "airflow.db") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        found = {
            f"table {name}": str(connection.execute(f"SELECT * FROM {name}").fetchall()) for name in tables
        }
    connection.close()
    return found


def trigger_arguments(home: Path) -> str:
    """Return the arguments of the only trigger in the database."""
    with sqlite3.connect(home / "airflow.db") as connection:
        ((arguments,),) = connection.execute("SELECT kwargs FROM trigger").fetchall()
    connection.close()
    return str(arguments)


def files(*folders: Path) -> dict[str, str]:
    """Return all text that was written below some folders, file by file."""
    return {
        f"file {path}": path.read_text(errors="replace")
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and ".db" not in path.name
    }


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, storage: StorageEmulator) -> Iterator[Traces]:
    """An export of what a search by patient found, with a service account's key, seen from all sides."""
    folder = tmp_path_factory.mktemp("secrets")
    home = folder / "home"
    (folder / "dags").mkdir()
    shutil.copy(ROOT / "tests" / "integration" / "real_airflow" / "dags" / "secrets.py", folder / "dags")
    storage.create_bucket(BUCKET)
    events = folder / "openlineage" / "events.jsonl"
    events.parent.mkdir()
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    # The servers' own logs are not Airflow's.
    with (
        HealthcareEmulator(folder / "healthcare", env={"STORAGE_EMULATOR_HOST": storage.url}) as healthcare,
        TokenServer(prefix=f"canary-{secrets.token_hex(8)}") as token_server,
    ):
        create_store(healthcare.url, STORE)
        upload(healthcare.url, STORE, _files_of(PATIENT, folder / "dicom"))
        control = Control(healthcare.url)
        control.settings(advance="manual")
        key = token_server.keyfile()
        settings = {
            "STORAGE_EMULATOR_HOST": storage.url,
            "SEARCHED_PATIENT": PATIENT,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        }
        with AirflowStandalone(home, folder / "dags", settings) as airflow:
            rest = airflow.rest
            extra = json.dumps({"keyfile_dict": json.dumps(key), "num_retries": 3})
            body = {"connection_id": "keyfile", "conn_type": "google_cloud_platform", "extra": extra}
            rest.call("POST", "connections", json=body)
            conf = {"connection": "keyfile", "endpoint": healthcare.url, "bucket": BUCKET}
            run_id = rest.trigger("secrets", conf)

            def is_deferred() -> bool:
                return is_exit_known(airflow.log_path, "secrets", run_id, "export", 1)

            wait_for("the export to be deferred", is_deferred, timeout=BOUND)
            trigger = trigger_arguments(home)
            places = database(home)
            links = rest.links("secrets", run_id, "export")
            name = rest.xcom("secrets", run_id, "export", "operation_name")
            wait_for("polls", lambda: control.requests()["counts"].get("operations.get"), timeout=BOUND)
            control.step()
            assert rest.wait("secrets", run_id, timeout=BOUND) == "success", rest.log(
                "secrets", run_id, "export"
            )
        ended = {f"{place}, at the end": text for place, text in database(home).items()}
        yield Traces(
            trigger,
            places | ended | files(home, events.parent) | {"links": str(links)},
            name,
            key["private_key"].splitlines()[1:-1],
            token_server.tokens,
        )


def _files_of(patient: str, folder: Path) -> list[Path]:
    folder.mkdir()
    for path in sorted(sample_files(), key=lambda path: (path.stat().st_size, path.name))[:3]:
        dataset = pydicom.dcmread(path)
        dataset.PatientName = patient
        dataset.save_as(folder / path.name)
    return sorted(folder.iterdir())


def test_the_search_finds_what_is_there(traces: Traces) -> None:
    """Otherwise, that it finds no secret would say nothing."""
    found = traces.of(traces.operation_name)
    wanted = ("table xcom", "table trigger", "events.jsonl", "task_id=export", ".trigger.")
    for part in wanted:
        assert any(part in place for place in found), (part, found)


def test_the_account_was_used(traces: Traces) -> None:
    assert len(traces.tokens) >= 2, "one for the worker, one for the triggerer"
    assert len(traces.keys) > 10


def test_no_key_is_left_but_in_the_connection(traces: Traces) -> None:
    assert [traces.of(line) for line in traces.keys] == [[]] * len(traces.keys)
    assert traces.of("PRIVATE KEY") == []


def test_no_token_is_left(traces: Traces) -> None:
    assert [traces.of(token) for token in traces.tokens] == [[]] * len(traces.tokens)
    assert traces.of("Bearer ") == []


def test_no_patient_is_left(traces: Traces) -> None:
    assert [traces.of(part) for part in ("Canary", "Quetzal")] == [[], []]


def test_the_trigger_holds_no_secret(traces: Traces) -> None:
    assert traces.operation_name in traces.trigger
    assert not any(secret in traces.trigger for secret in (*traces.keys, *traces.tokens, "Canary"))


def test_links_hold_no_secret(traces: Traces) -> None:
    assert "https://console.cloud.google.com/" in traces.places["links"]
