"""The command line fills the servers that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from airflow_provider_dicom.emulator.__main__ import main
from rig.control import Control
from rig.dicom_files import sample_files, uids_of
from tests.support.processes import wait_for_end

if TYPE_CHECKING:
    from pathlib import Path

    import requests

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
COMMAND = (sys.executable, "-m", "airflow_provider_dicom.emulator")


def test_one_command_starts_both_servers_filled(tmp_path: Path, http: requests.Session) -> None:
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    first, second = sample_files()[:2]
    (folder / "a.dcm").write_bytes(first.read_bytes())
    (folder / "deep" / "b").write_bytes(second.read_bytes())
    (folder / "notes.txt").write_text("no DICOM")
    command = [
        *(*COMMAND, "--port", "0", "--storage-port", "0"),
        *("--bucket", "one", "--bucket", "two", "--store", STORE, "--load", str(folder)),
    ]
    env = {name: value for name, value in os.environ.items() if name != "STORAGE_EMULATOR_HOST"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            address = process.stdout.readline().removeprefix("Local Healthcare API on ").strip()
            storage = process.stdout.readline().removeprefix("Cloud Storage on ").strip()
            assert process.stderr.readline() == (
                f"Loaded 2 DICOM files from {folder} into {STORE}; skipped 1\n"
            )
            assert process.stderr.readline().startswith(f"  {folder}/notes.txt: not a readable DICOM")
            found = http.get(f"{address}/v1/{STORE}/dicomWeb/instances").json()
            assert {instance["00080018"]["Value"][0] for instance in found} == {
                uids_of(path).instance for path in (first, second)
            }
            body = {"gcsDestination": {"uriPrefix": "gs://two/out"}}
            Control(address).settings(advance="immediate")
            name = http.post(f"{address}/v1/{STORE}:export", json=body).json()["name"]
            assert http.get(f"{address}/v1/{name}").json()["metadata"]["counter"] == {"success": "2"}
            assert len(http.get(f"{storage}/storage/v1/b/two/o").json()["items"]) == 2
            (child,) = psutil.Process(process.pid).children()
        finally:
            process.kill()
        # However the server ends, the Cloud Storage emulator ends with it.
        wait_for_end([child])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bucket", "b"], "--bucket needs --storage-port"),
        (["--store", "pacs"], "'pacs' is not of the form projects/P/locations/L/datasets/D/dicomStores/S"),
        (["--load", "."], "--load needs one --store"),
        (["--store", STORE, "--load", "missing"], "--load: missing is not a folder"),
    ],
)
def test_contradictory_options_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(options)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
