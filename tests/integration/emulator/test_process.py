"""The process: what it prints, and what survives its end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rig.control import Control
from rig.dicom_files import create_store, sample_files, upload
from rig.ports import free_port
from rig.servers import HealthcareEmulator, wait_for
from tests.support.discovery_check import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import requests

    from rig.servers import BigQueryEmulator, StorageEmulator

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
COUNT = 6


@pytest.fixture
def start(tmp_path: Path, storage: StorageEmulator) -> Iterator[Callable[[], HealthcareEmulator]]:
    """Start a server of the test's own on the same data each time."""
    servers: list[HealthcareEmulator] = []

    def start_server() -> HealthcareEmulator:
        server = HealthcareEmulator(
            tmp_path, data=tmp_path / "data", env={"STORAGE_EMULATOR_HOST": storage.url}
        ).start()
        servers.append(server)
        return server

    yield start_server
    for server in servers:
        server.stop()


def _get(server: HealthcareEmulator, name: str, http: requests.Session) -> dict[str, Any]:
    response = http.get(f"{server.url}/v1/{name}")
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    validate(answer, "Operation")
    return answer


def _finished(server: HealthcareEmulator, name: str, http: requests.Session) -> dict[str, Any]:
    wait_for(f"{name} is done", lambda: _get(server, name, http).get("done"), timeout=60)
    return _get(server, name, http)


def _export(server: HealthcareEmulator, bucket: str, http: requests.Session) -> str:
    body = {"gcsDestination": {"uriPrefix": f"gs://{bucket}/out"}}
    response = http.post(f"{server.url}/v1/{STORE}:export", json=body)
    response.raise_for_status()
    return str(response.json()["name"])


def test_stored_data_and_operations_survive_a_kill(
    start: Callable[[], HealthcareEmulator], http: requests.Session, storage: StorageEmulator, bucket: str
) -> None:
    server = start()
    create_store(server.url, STORE)
    upload(server.url, STORE, sample_files()[:COUNT])
    before = http.get(f"{server.url}/v1/{STORE}/dicomWeb/instances?includefield=all").json()
    (created,) = http.get(f"{server.url}/v1/{STORE.rsplit('/', 2)[0]}/operations").json()["operations"]
    control = Control(server.url)
    control.settings(advance="manual")
    ended, halted, cancelled, queued = (_export(server, bucket, http) for _ in range(4))
    control.step(ended)
    control.step(halted, 2)
    control.step(cancelled, 1)
    http.post(f"{server.url}/v1/{cancelled}:cancel", json={}).raise_for_status()
    answers = {name: _finished(server, name, http) for name in (ended, cancelled)}
    assert answers[cancelled]["error"]["code"] == 1
    written = storage.objects(bucket)
    server.kill()

    server = start()
    found = http.get(f"{server.url}/v1/{STORE}/dicomWeb/instances?includefield=all").json()
    assert found == before
    for name, answer in answers.items():
        assert _get(server, name, http) == answer
    for name in (halted, queued):
        assert _finished(server, name, http)["metadata"]["counter"] == {"success": str(COUNT)}
    assert storage.objects(bucket) == written
    listed = http.get(f"{server.url}/v1/{STORE.rsplit('/', 2)[0]}/operations").json()
    validate(listed, "ListOperationsResponse")
    names = {operation["name"] for operation in listed["operations"]}
    assert names == {created["name"], ended, halted, cancelled, queued}
    assert _export(server, bucket, http) > queued


def test_exports_survive_repeated_kills(
    start: Callable[[], HealthcareEmulator], http: requests.Session, storage: StorageEmulator, bucket: str
) -> None:
    server = start()
    create_store(server.url, STORE)
    uploaded = upload(server.url, STORE, sample_files()[:COUNT])
    Control(server.url).settings(seconds_per_instance=0.05, max_running_exports=3)
    names = [_export(server, bucket, http) for _ in range(8)]
    for _ in range(3):
        wait_for(
            "some instances are written",
            lambda server=server: any(
                "success" in _get(server, name, http)["metadata"].get("counter", {}) for name in names
            ),
            timeout=60,
        )
        server.kill()
        server = start()
    for name in names:
        assert _finished(server, name, http)["metadata"]["counter"] == {"success": str(COUNT)}
    assert storage.objects(bucket).keys() == {f"out/{'/'.join(uids)}.dcm" for uids in uploaded}
    assert Control(server.url).exports()["accepted"] == len(names)


def test_cancellation_survives_a_kill(
    start: Callable[[], HealthcareEmulator], http: requests.Session, bucket: str
) -> None:
    server = start()
    create_store(server.url, STORE)
    Control(server.url).settings(advance="manual")
    name = _export(server, bucket, http)
    http.post(f"{server.url}/v1/{name}:cancel", json={}).raise_for_status()
    server.kill()
    assert _finished(start(), name, http)["error"]["code"] == 1


def test_interrupted_upload_leaves_no_file(
    start: Callable[[], HealthcareEmulator], http: requests.Session, tmp_path: Path
) -> None:
    server = start()
    create_store(server.url, STORE)
    incoming = tmp_path / "data" / "incoming"
    head = (
        f"POST /v1/{STORE}/dicomWeb/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n"
        'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n\r\n--b\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + bytes(2_000_000))
        wait_for("the upload has begun", lambda: list(incoming.iterdir()), timeout=60)
    wait_for("the upload is gone", lambda: not list(incoming.iterdir()), timeout=60)
    assert http.get(f"{server.url}/v1/{STORE}/dicomWeb/instances").status_code == 204
    assert "Traceback" not in server.log_tail()


def test_export_survives_an_orderly_shutdown(
    start: Callable[[], HealthcareEmulator], http: requests.Session, bucket: str
) -> None:
    server = start()
    create_store(server.url, STORE)
    upload(server.url, STORE, sample_files()[:COUNT])
    Control(server.url).settings(seconds_per_instance=3600)
    name = _export(server, bucket, http)
    server.stop()
    assert "Traceback" not in server.log_tail()
    assert _finished(start(), name, http)["metadata"]["counter"] == {"success": str(COUNT)}


def test_second_server_on_the_same_data_is_refused(
    start: Callable[[], HealthcareEmulator], tmp_path: Path
) -> None:
    start()
    second = _run("--port", "0", "--data", str(tmp_path / "data"))
    assert second.returncode != 0
    assert second.stderr.endswith("is in use by another process\n")


def test_port_in_use_is_reported(start: Callable[[], HealthcareEmulator]) -> None:
    taken = _run("--port", str(start().port))
    assert taken.returncode != 0
    assert taken.stderr.startswith("cannot listen on 127.0.0.1:")


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow_provider_dicom.emulator", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_server_announces_its_address_and_removes_its_temporary_data(
    tmp_path: Path, http: requests.Session, host: str, warned: bool
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "airflow_provider_dicom.emulator", "--host", host, "--port", str(port)]
    with (
        (tmp_path / "errors").open("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={"TMPDIR": str(tmp_path)}
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.fullmatch(rf"Local Healthcare API on (http://\S+:{port})\n", line)
        assert address is not None
        # Connections are taken as soon as the line is there.
        assert http.get(f"{address[1]}/healthz", timeout=60).json() == {"status": "ok"}
        # Beyond loopback, the server cannot know its names.
        foreign = http.get(f"{address[1]}/healthz", headers={"Host": "emulator.example"})
        assert foreign.status_code == (200 if warned else 403)
        assert [path for path in tmp_path.iterdir() if path.is_dir()]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == ""
    text = (tmp_path / "errors").read_text()
    assert ("WARNING" in text and "no authentication" in text) == warned
    assert warned or text == ""
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_upload_larger_than_the_limit_is_refused(tmp_path: Path, http: requests.Session) -> None:
    command = [sys.executable, "-m", "airflow_provider_dicom.emulator", "--port", "0", "--max-upload-mb", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            create_store(url, STORE)
            headers = {"Content-Type": "application/dicom"}
            small = next(path for path in sample_files() if path.name == "CT_small.dcm").read_bytes()
            assert http.post(f"{url}/v1/{STORE}/dicomWeb/studies", data=small, headers=headers).ok
            for body in (small + bytes(1024 * 1024), iter([small, bytes(1024 * 1024)])):
                response = http.post(f"{url}/v1/{STORE}/dicomWeb/studies", data=body, headers=headers)
                assert response.status_code == 413
                assert response.json()["error"]["code"] == 413
            assert len(http.get(f"{url}/v1/{STORE}/dicomWeb/instances").json()) == 1
        finally:
            process.terminate()


def test_lenient_server_creates_missing_datasets_and_takes_any_search(http: requests.Session) -> None:
    command = [sys.executable, "-m", "airflow_provider_dicom.emulator", "--port", "0", "--lenient"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            dataset, _, store = STORE.rpartition("/dicomStores/")
            assert http.get(f"{url}/v1/{dataset}").status_code == 404
            assert http.post(f"{url}/v1/{dataset}/dicomStores?dicomStoreId={store}").status_code == 200
            searched = http.get(f"{url}/v1/{STORE}/dicomWeb/instances?SOPClassUID=1.2&PatientName=A*")
            assert searched.status_code == 204
        finally:
            process.terminate()


def test_address_of_an_emulator_without_a_scheme_ends_the_start() -> None:
    command = [sys.executable, "-m", "airflow_provider_dicom.emulator", "--port", "0"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"STORAGE_EMULATOR_HOST": "127.0.0.1:9023"}
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("STORAGE_EMULATOR_HOST=127.0.0.1:9023 has no scheme; set ")


def test_rows_are_not_duplicated_by_a_kill(
    tmp_path: Path, http: requests.Session, bigquery: BigQueryEmulator
) -> None:
    def start() -> HealthcareEmulator:
        return HealthcareEmulator(
            tmp_path, data=tmp_path / "data", env={"BIGQUERY_EMULATOR_HOST": bigquery.url}
        ).start()

    bigquery.create_dataset("test-project", "after_kill")
    server = start()
    try:
        create_store(server.url, STORE)
        uploaded = upload(server.url, STORE, sample_files()[:COUNT])
        control = Control(server.url)
        control.settings(advance="manual")
        destination = {
            "tableUri": "bq://test-project.after_kill.instances",
            "writeDisposition": "WRITE_APPEND",
        }
        response = http.post(f"{server.url}/v1/{STORE}:export", json={"bigqueryDestination": destination})
        name = response.json()["name"]
        control.step(name, COUNT - 1)
        server.kill()
        server = start()
        done = _finished(server, name, http)
        assert done["metadata"]["counter"] == {"success": str(COUNT)}, done
        rows = bigquery.query("test-project", "SELECT SOPInstanceUID FROM after_kill.instances")
        assert sorted(row[0] for row in rows) == sorted(uids.instance for uids in uploaded)
    finally:
        server.stop()
