"""No value from a form, a run's configuration or id, or another task is ever a template."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ParamValidationError
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from rig.servers import ROOT
from tests.support.rendering import UpstreamTask, dag, render

ON_DEMAND = runpy.run_path(str(ROOT / "example_dags" / "dicom_on_demand.py"))
PARAMS = ON_DEMAND["PARAMS"]
REQUEST = ON_DEMAND["dag"].get_task("request").python_callable
DEFAULTS = ON_DEMAND["dag"].params.dump()
RUN_ID = "manual__2026-11-24T18:00:00+00:00"
HOSTILE = ["{{ conn.some_db.password }}", "{% print(conn) %}", "{# x #}", "a{{ macros }}", "{"]


class Secret:
    """A variable of the templates that must not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("a value of a form was rendered")

    def __str__(self) -> str:
        raise AssertionError("a value of a form was rendered")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", [name for name in PARAMS if name != "max_failures"])
def test_form_refuses_a_template_in_every_field(name: str, value: str) -> None:
    for hostile in (value, f"{PARAMS[name].value}{value}", [f"/studies/1.2{value}"]):
        with pytest.raises(ParamValidationError):
            PARAMS[name].resolve(hostile)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", [*PARAMS, "run_id"])
def test_task_that_reads_the_form_refuses_a_template_in_every_field(name: str, value: str) -> None:
    for hostile in (value, [value]):
        changes = {} if name == "run_id" else {name: hostile}
        with pytest.raises(AirflowFailException, match=r"holds a '\{'"):
            REQUEST({**DEFAULTS, **changes}, f"manual__{value}" if name == "run_id" else RUN_ID)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", DicomStoreExportOperator.template_fields)
def test_mapped_argument_of_another_task_is_data_in_every_template_field(name: str, native: bool) -> None:
    value: Any = ["/studies/{{ secret }}"] if name == "resource_paths" else "{{ secret }}"
    arguments = {
        "location": "l",
        "dataset_id": "d",
        "dicom_store_id": "s",
        "destination": "gs://bucket/night/",
        "filter_uri": "gs://bucket/f.txt",
        name: value,
    }
    with dag(render_template_as_native_obj=native):
        output = UpstreamTask(task_id="upstream").output
        task = DicomStoreExportOperator.partial(task_id="mapped").expand_kwargs(output)
    rendered = render(task, map_index=0, xcoms={"upstream": [arguments]}, secret=Secret(), conn=Secret())
    assert getattr(rendered, name) == value
    with pytest.raises(DicomExportInvalidRequestError, match=name):
        rendered.execute({})


@given(st.text(alphabet="{}%# abcon.", max_size=30))
def test_mapped_text_is_never_rendered(text: str) -> None:
    with dag():
        task = DicomStoreExportOperator.partial(task_id="mapped").expand_kwargs(
            UpstreamTask(task_id="u").output
        )
    arguments = {
        "location": "l",
        "dataset_id": "d",
        "dicom_store_id": "s",
        "destination": f"gs://bucket/{text}",
    }
    rendered = render(task, map_index=0, xcoms={"u": [arguments]}, conn=Secret(), a=Secret())
    assert rendered.destination == f"gs://bucket/{text}"
