"""
Selection, split, upload and check of ten million instances on one worker: flat memory, and the time for it.

The rows come from a server that makes them up, because the BigQuery emulator cannot hold so many; the time
for reading them alone is measured, too. ``SCALE_INSTANCES`` chooses other numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rig.servers import ROOT
from tests.support.bigquery_costs import QueryServer
from tests.support.large_archive import CountingStorage

if TYPE_CHECKING:
    from tests.scale.test_ten_thousand import Step

SIZES = [int(size) for size in os.environ.get("SCALE_INSTANCES", "1000000,10000000").split(",")]
PATHS_OF_A_PART = 100_000
MOST_MIB = 300
STEP = ROOT / "tests" / "support" / "scale_step.py"
TABLE = "test-project.archive.dicom_metadata"
READ, SELECT, CHECK = (
    "tests.support.large_archive:TableReader",
    "airflow_provider_dicom.operators.selection:DicomMetadataQueryOperator",
    "airflow_provider_dicom.operators.check:DicomStoreExportCheckOperator",
)


def run_task(operator: str, env: dict[str, str], **arguments: Any) -> Step:
    command = [sys.executable, str(STEP), json.dumps({"operator": operator, "arguments": arguments})]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)} | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    step: Step = json.loads(done.stdout.splitlines()[-1])
    return step


@pytest.mark.parametrize("size", SIZES)
def test_archive_of_any_size_is_selected_split_and_checked_in_flat_memory(size: int) -> None:
    connection = {
        "conn_type": "google_cloud_platform",
        "extra": {"is_anonymous": True, "project": "test-project"},
    }
    with QueryServer(cost=60 * size, instances=size) as bigquery, CountingStorage() as storage:
        env = {
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(connection),
            "AIRFLOW_VAR_MARK": "2026-01-01T00:00:00Z",
            "BIGQUERY_EMULATOR_HOST": bigquery.url,
            "STORAGE_EMULATOR_HOST": storage.url,
            "HEALTHCARE_EMULATOR_HOST": "127.0.0.1:1",
        }
        steps = {
            "reading the rows": run_task(READ, env, table=TABLE),
            "selection in parts": run_task(
                SELECT,
                env,
                table=f"bq://{TABLE}",
                filter_uri="gs://archive/f.txt",
                high_water_mark="mark",
                max_paths_per_file=PATHS_OF_A_PART,
            ),
            "check": run_task(
                CHECK,
                env,
                location="europe-west3",
                dataset_id="radiology",
                dicom_store_id="pacs",
                expected_table=f"bq://{TABLE}",
                destination=f"bq://{TABLE}_exported",
            ),
        }
    print("\n\n| task | instances | seconds | of them CPU | peak MiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, step in steps.items():
        numbers = (step[key] for key in ("seconds", "cpu_seconds", "peak_mib"))
        print(f"| {name} | {size:,} | {' | '.join(f'{number:.0f}' for number in numbers)} |")
    assert steps["reading the rows"]["result"] == size
    parts = -(-size // PATHS_OF_A_PART)
    selection = steps["selection in parts"]["result"]
    assert selection["count"] == size
    assert len(selection["filter_uris"]) == parts
    assert storage.lines.pop("f.txt") == sum(storage.lines.values()) == size
    assert len(storage.lines) == parts
    assert max(storage.lines.values()) <= PATHS_OF_A_PART
    found = steps["check"]["result"]
    assert (found["expected"], found["arrived"], found["missing"]) == (size, size, 0)
    assert max(step["peak_mib"] for step in steps.values()) < MOST_MIB
