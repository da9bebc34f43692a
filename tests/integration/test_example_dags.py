"""The example DAGs as users copy them: importable without the emulator, and set up for every night."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from rig.servers import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "example_dags").glob("*.py"))

# What only the extra `emulator` brings is made impossible to import.
READ_DAG = """
import json, runpy, sys
for name in ("airflow_provider_dicom.emulator", "pydicom", "imagecodecs", "jpeg_ls", "openjpeg", "rle"):
    sys.modules[name] = None
dag = runpy.run_path(sys.argv[1])["dag"]
export = dag.get_task("export")
print(json.dumps({
    "dag_id": dag.dag_id,
    "catchup": dag.catchup,
    "retries": [task.retries for task in dag.tasks],
    "params": dag.params.dump(),
    "destination": getattr(export, "partial_kwargs", vars(export))["destination"],
}))
"""


def read_dag(path: str, **env: str) -> dict[str, Any]:
    """Read a DAG file in an interpreter of its own."""
    command = [sys.executable, "-c", READ_DAG, path]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dag: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return dag


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_needs_no_emulator(path: Any, tmp_path: Any) -> None:
    dag = read_dag(str(path), AIRFLOW_HOME=str(tmp_path))
    assert dag["dag_id"] == path.stem
    assert dag["catchup"] is False
    assert min(dag["retries"]) > 0


def test_example_takes_its_defaults_from_the_environment(tmp_path: Any) -> None:
    path = str(ROOT / "example_dags" / "dicom_nightly_to_gcs.py")
    dag = read_dag(path, AIRFLOW_HOME=str(tmp_path), DICOM_BUCKET="another-bucket")
    assert dag["params"]["bucket"] == "another-bucket"
    assert dag["destination"] == "gs://{{ params.bucket }}/dicom/{{ ds }}/"


def test_readme_dag_can_be_read(tmp_path: Any) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    path = tmp_path / "readme.py"
    path.write_text(block)
    dag = read_dag(str(path), AIRFLOW_HOME=str(tmp_path))
    assert dag["destination"] == "gs://my-dicom-exports/{{ ds }}/"


def test_readme_lists_every_parameter() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    listed = {
        name: row.rsplit("|", 2)[1].strip() == "yes"
        for row in rows
        for name in re.findall(r"`(\w+)(?:=[^`]*)?`", row.split("|")[1])
    }
    arguments = inspect.signature(DicomStoreExportOperator.__init__).parameters
    expected = {
        name: name in DicomStoreExportOperator.template_fields
        for name, argument in arguments.items()
        if argument.kind is argument.KEYWORD_ONLY
    }
    assert {name: listed[name] for name in expected} == expected
