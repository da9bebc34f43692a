"""The example DAGs as users copy them: readable without the emulator, with valid forms and defaults."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import runpy
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import ParamValidationError

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from rig.releases import chosen_release
from rig.servers import ROOT
from tests.support.rendering import render

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text()
DAY = "(ds if ds is defined else dag_run.run_after | ds)"
NIGHT = f"dag_run.partition_key or {DAY}" if chosen_release().line >= (3, 2) else DAY
EXAMPLES = sorted((ROOT / "example_dags").glob("*.py"))

# Packages of the extra `emulator` cannot be imported.
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
    "destination": getattr(export, "partial_kwargs", vars(export)).get("destination"),
}))
"""


def read_dag(path: str, **env: str) -> dict[str, Any]:
    """Read a DAG file in an interpreter of its own."""
    command = [sys.executable, "-c", READ_DAG, path]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dag: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return dag


def example(path: Path) -> Any:
    """A parameter of a test, skipped if the example states that it needs a newer Airflow."""
    marks = [
        pytest.mark.airflow(since, "the example states it")
        for since in re.findall(r"^Needs Airflow (\S+)\.", path.read_text(), re.MULTILINE)
    ]
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", [example(path) for path in EXAMPLES])
def test_example_dag_can_be_read_without_the_emulator(path: Any, tmp_path: Any) -> None:
    dag = read_dag(str(path), AIRFLOW_HOME=str(tmp_path))
    assert dag["dag_id"] == path.stem
    assert dag["catchup"] is False
    assert min(dag["retries"]) > 0


def test_example_dag_takes_its_defaults_from_the_environment(tmp_path: Any) -> None:
    path = str(ROOT / "example_dags" / "dicom_nightly_to_gcs.py")
    dag = read_dag(path, AIRFLOW_HOME=str(tmp_path), DICOM_BUCKET="another-bucket")
    assert dag["params"]["bucket"] == "another-bucket"
    assert dag["destination"] == f"gs://{{{{ params.bucket }}}}/dicom/{{{{ {NIGHT} }}}}/"


def test_every_store_and_every_destination_has_a_high_water_mark_of_its_own() -> None:
    dag = runpy.run_path(str(ROOT / "example_dags" / "dicom_incremental_by_arrival.py"))["dag"]
    select, move_mark = dag.get_task("select"), dag.get_task("move_mark")
    assert move_mark.high_water_mark == select.high_water_mark
    marks = set()
    choices = itertools.product(("p", "q"), ("europe-west3", "us"), ("d", "d.s"), ("s", "s_b"), ("b", "b-c"))
    for project, location, dataset, store, bucket in choices:
        name = f"projects/{project}/locations/{location}/datasets/{dataset}/dicomStores/{store}"
        ti = SimpleNamespace(xcom_pull=lambda *, task_ids, name=name: {"dicom_store": name})
        context: Any = {"ti": ti, "params": {"bucket": bucket}}
        marks.add(select.render_template(select.high_water_mark, context))
    assert len(marks) == 2**5
    assert "dicom_exported_until:projects:p:locations:us:datasets:d:dicomStores:s:b:by_arrival" in marks


#: The outputs of the tasks before the export, by example.
OUTPUTS: dict[str, dict[str, object]] = {
    "dicom_every_store": {"list_stores": ["pacs"]},
    "dicom_incremental_by_arrival": {
        "refresh_table": {"dicom_store": "projects/p/locations/l/datasets/d/dicomStores/s"},
        "select": {"filter_uri": "gs://bucket/filter.txt"},
    },
    "dicom_in_parts": {
        "select": {
            "filter_uri": "gs://bucket/filter.txt",
            "filter_uris": ["gs://bucket/filter-00000-of-00001.txt"],
        },
    },
    "dicom_incremental_by_study_date": {"search": {"filter_uri": "gs://bucket/filter.txt"}},
}
DATED = [path for path in EXAMPLES if path.stem != "dicom_on_demand"]


@pytest.mark.airflow("3.0", "runs without a logical date")
@pytest.mark.parametrize("path", [example(path) for path in DATED])
def test_example_renders_its_day_in_a_run_without_a_logical_date(path: Path) -> None:
    from airflow.sdk.execution_time import macros

    dag = runpy.run_path(str(path))["dag"]
    day = "2026-03-28" if "study_date" in path.stem else "2026-03-29"
    for task in dag.tasks:
        if task.task_type.startswith(("Dicom", "Mapped")) or task.task_id == "export":
            rendered = render(
                task,
                xcoms=OUTPUTS.get(path.stem),
                map_index=0 if task.is_mapped else -1,
                dag_run=SimpleNamespace(
                    run_after=datetime(2026, 3, 29, 2, tzinfo=UTC), partition_key=None, conf={}
                ),
                params=dag.params.dump(),
                macros=macros,
            )
            if task.task_id == "export":
                assert any(form in rendered.destination for form in (day, day.replace("-", "")))


def test_every_choice_of_the_on_demand_form_is_accepted_by_the_operator() -> None:
    dag = runpy.run_path(str(ROOT / "example_dags" / "dicom_on_demand.py"))
    request = dag["dag"].get_task("request").python_callable
    defaults = dag["dag"].params.dump()
    folder, table = ({"destination": destination} for destination in dag["DESTINATIONS"])
    choices = [
        *({**folder, "form": form} for form in dag["FORMS"]),
        *({**table, "write_disposition": one} for one in dag["DISPOSITIONS"]),
        *({**table, "schema": one} for one in dag["SCHEMAS"]),
        {**folder, "studies": ["/studies/1.2/series/3.4"], "max_failures": 3, "folder": "a_folder"},
        {**table, "studies": ["/studies/1.2"]},
    ]
    for choice in choices:
        params = defaults | choice
        for name, param in dag["PARAMS"].items():
            param.resolve(params[name])
        (arguments,) = request(params, "manual__2026-11-24T18:00:00+00:00")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            DicomStoreExportOperator(task_id="export", **arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("destination", "gs://another-bucket/on-demand/"),
        ("destination", ""),
        ("destination", None),
        ("store", "another-store"),
        ("dataset", "another-dataset"),
        ("location", "another-location"),
        ("folder", "a/b"),
        ("folder", ".."),
        ("folder", ""),
        ("form", "text/html"),
        ("write_disposition", "WRITE_OVER"),
        ("studies", ["/patients/7"]),
        ("studies", ["/studies/1.2", "nonsense"]),
        ("max_failures", -1),
        ("max_failures", 0.5),
    ],
)
def test_on_demand_form_refuses_invalid_values(name: str, value: Any) -> None:
    params = runpy.run_path(str(ROOT / "example_dags" / "dicom_on_demand.py"))["PARAMS"]
    with pytest.raises(ParamValidationError):
        params[name].resolve(value)


@pytest.mark.parametrize("path", [example(path) for path in EXAMPLES])
def test_person_who_triggers_an_example_cannot_choose_another_store_bucket_or_table(path: Path) -> None:
    params = runpy.run_path(str(path))["dag"].params
    for name in ("location", "dataset", "store", "bucket", "table", "destination"):
        if name in params:
            with pytest.raises(ParamValidationError):
                params.get_param(name).resolve("of-somebody-else")


def test_form_offers_all_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_STORE", "ct,mr")
    monkeypatch.setenv("DICOM_BUCKET", "first-bucket,second-bucket")
    monkeypatch.setenv("DICOM_TABLE", "p.d.t")
    on_demand = runpy.run_path(str(ROOT / "example_dags" / "dicom_on_demand.py"))
    nightly = runpy.run_path(str(ROOT / "example_dags" / "dicom_nightly_to_gcs.py"))
    for dag in (on_demand["dag"], nightly["dag"]):
        assert dag.params.get_param("store").resolve("mr") == "mr"
    folders = ["gs://first-bucket/on-demand/", "gs://second-bucket/on-demand/"]
    assert on_demand["DESTINATIONS"] == [*folders, "bq://p.d.t"]


@pytest.mark.airflow("3.3", "retry policies")
@pytest.mark.parametrize(
    ("error", "action", "minutes"),
    [
        (exceptions.DicomExportPermissionError, "FAIL", None),
        (exceptions.DicomExportTooManyFailuresError, "FAIL", None),
        (exceptions.DicomExportQuotaExhaustedError, "RETRY", 30),
        (exceptions.DicomExportOperationFailedError, "RETRY", 15),
        (exceptions.DicomExportUnavailableError, "DEFAULT", None),
    ],
)
def test_retry_policy_of_the_example_with_notices(error: Any, action: str, minutes: int | None) -> None:
    dag = runpy.run_path(str(ROOT / "example_dags" / "dicom_nightly_with_notices.py"))["dag"]
    decision = dag.get_task("export").retry_policy.evaluate(error("no"), 1, 3)
    assert decision.action.name == action
    assert decision.retry_delay == (minutes and timedelta(minutes=minutes))


@pytest.mark.airflow("3.3", "retry policies")
@pytest.mark.parametrize(
    ("codes", "action"),
    [([3], "FAIL"), ([5, 12], "FAIL"), ([3, 14], "RETRY"), ([None], "RETRY"), ([], "RETRY")],
)
def test_retry_policy_of_the_example_stops_early_if_no_retry_removes_the_causes(
    codes: list[Any], action: str
) -> None:
    dag = runpy.run_path(str(ROOT / "example_dags" / "dicom_nightly_with_notices.py"))["dag"]
    error = exceptions.DicomExportOperationFailedError("no")
    causes: Any = [{"code": code, "message": "broken", "count": 9, "resource_paths": []} for code in codes]
    error.failures = {"failure": 9, "known": 9, "causes": causes, "more_causes": 0, "failures": []}
    decision = dag.get_task("export").retry_policy.evaluate(error, 1, 3)
    assert (decision.action.name, decision.reason == "9 x broken") == (action, action == "FAIL")


@pytest.mark.airflow("3.0", "airflow.sdk; the README has the import of 2.11")
def test_readme_dag_can_be_read(tmp_path: Any) -> None:
    block, *_ = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    path = tmp_path / "readme.py"
    path.write_text(block)
    dag = read_dag(str(path), AIRFLOW_HOME=str(tmp_path))
    assert dag["destination"] == "gs://my-dicom-exports/{{ dag_run.run_after | ds }}/"


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
