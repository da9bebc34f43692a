"""The server uses all cores, and little memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pydicom.data
import pytest
from pydicom import dcmread

from rig.control import Control
from rig.dicom_files import Uids, create_store, upload_copies
from rig.servers import HealthcareEmulator
from tests.support.processes import wait_for_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from rig.servers import StorageEmulator

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
FILES = Path(pydicom.data.__file__).parent / "test_files"


@pytest.fixture
def server(tmp_path: Path, storage: StorageEmulator) -> Iterator[HealthcareEmulator]:
    """A server of the test's own, with a DICOM store."""
    with HealthcareEmulator(tmp_path, env={"STORAGE_EMULATOR_HOST": storage.url}) as server:
        create_store(server.url, STORE)
        yield server


def test_large_instance_does_not_fill_the_memory(
    tmp_path: Path, http: requests.Session, server: HealthcareEmulator, bucket: str
) -> None:
    size = 64 * 1024 * 1024
    dataset = dcmread(FILES / "CT_small.dcm")
    dataset.PixelData = bytes(size)
    dataset.Rows = dataset.Columns = 4096
    dataset.NumberOfFrames = size // (2 * 4096 * 4096)
    dataset.save_as(tmp_path / "large.dcm")
    create_store(server.url, f"{STORE}-copy")
    control = Control(server.url)
    control.settings(advance="immediate")

    def store(path: Path) -> None:
        with path.open("rb") as file:
            headers = {"Content-Type": "application/dicom"}
            url = f"{server.url}/v1/{STORE}/dicomWeb/studies"
            http.post(url, data=file, headers=headers).raise_for_status()

    def export_and_import() -> None:
        body = {"gcsDestination": {"uriPrefix": f"gs://{bucket}/out"}}
        http.post(f"{server.url}/v1/{STORE}:export", json=body).raise_for_status()
        source = {"gcsSource": {"uri": f"gs://{bucket}/out/**.dcm"}}
        http.post(f"{server.url}/v1/{STORE}-copy:import", json=source).raise_for_status()

    # A small one first: the modules that it needs stay in memory.
    store(FILES / "MR_small.dcm")
    export_and_import()
    before = _peak_memory(server.pid)
    store(tmp_path / "large.dcm")
    export_and_import()
    path = f"dicomWeb/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    url = f"{server.url}/v1/{STORE}-copy/{path}/instances/{dataset.SOPInstanceUID}"
    for accept in ("application/dicom", 'multipart/related; type="application/dicom"'):
        headers = {"Accept": f"{accept}; transfer-syntax=*"}
        with http.get(url, headers=headers, stream=True) as response:
            received = sum(len(chunk) for chunk in response.iter_content(1024 * 1024))
        assert received > size
    assert _peak_memory(server.pid) - before < size * 3 / 4


def _peak_memory(pid: int) -> int:
    """Return the largest memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def test_upload_of_many_files_is_read_by_processes_of_their_own(
    server: HealthcareEmulator,
) -> None:
    dataset = dcmread(FILES / "CT_small.dcm")
    uids = [Uids(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, f"1.2.3.{n}") for n in range(200)]
    upload_copies(server.url, STORE, uids)
    reading = [
        child
        for child in psutil.Process(server.pid).children()
        if "spawn_main" in " ".join(child.cmdline()) and child.cpu_times().user > 0
    ]
    assert len(reading) > 1
    server.kill()
    wait_for_end(reading)
