"""What is left behind, and who can read it: filter files, the local API's data, the plugin's refusals."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from airflow_provider_dicom.plugins import dicom_store as plugin
from airflow_provider_dicom.selection.filter_file import FilterFile
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import ROOT, HealthcareEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from rig.servers import StorageEmulator

UID = "1.2.826.0.1.3680043.4711"
#: More paths than SQLite keeps in memory.
HOLD_A_FILTER_FILE = f"""
import sys
from airflow_provider_dicom.selection.filter_file import FilterFile
with FilterFile.of(f"/studies/{UID}.{{number}}" for number in range(200_000)) as file:
    print(file.count, flush=True)
    sys.stdin.read()
"""


def test_filter_file_does_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path), "SQLITE_TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_A_FILTER_FILE], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"200000\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_filter_file_without_a_name_is_uploaded_as_a_whole_and_again(
    anonymous: str, bucket: str, storage: StorageEmulator
) -> None:
    paths = [f"/studies/{UID}.{number}" for number in range(1000)]
    with FilterFile.of(paths) as file:
        for name in ("first.txt", "second.txt"):
            file.upload(f"gs://{bucket}/{name}", gcp_conn_id=anonymous, impersonation_chain=None)
            assert storage.read(bucket, name).decode().split() == sorted(paths)


def test_data_directory_of_the_local_api_is_for_its_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    old = data / "files"
    old.mkdir(parents=True, mode=0o755)
    with HealthcareEmulator(tmp_path, data=data) as server:
        create_store(server.url, "projects/p/locations/l/datasets/d/dicomStores/s")
        upload(server.url, "projects/p/locations/l/datasets/d/dicomStores/s", sample_files()[:1])
        private = [path for path in data.iterdir() if not stat.S_IMODE(path.stat().st_mode) & 0o077]
        assert sorted(private) == sorted(data.iterdir())
    assert len(list(data.rglob("*"))) > 3


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "nothing", 404), ("GET", "..%2fx", 404), ("POST", "", 405), ("PUT", "x", 405)],
)
def test_refusals_of_the_plugins_page_have_its_security_headers(method: str, path: str, status: int) -> None:
    client = TestClient(Starlette(routes=[Mount(plugin.URL_PREFIX, plugin.ProgressPage())]))
    answer = client.request(method, f"{plugin.URL_PREFIX}/{path}")
    assert answer.status_code == status
    for name, value in plugin._HEADERS.items():
        assert answer.headers[name] == value
