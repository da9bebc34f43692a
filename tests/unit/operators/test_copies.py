"""Copies and pickles of operators and triggers: Airflow and users copy tasks."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.operators._parameters import reveal
from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import (
    DicomHighWaterMarkOperator,
    DicomMetadataQueryOperator,
    DicomStoreSearchOperator,
)
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

STORE: dict[str, Any] = {"location": "{{ params.location }}", "dataset_id": "d", "dicom_store_id": "s"}
NAME = "projects/p/locations/l/datasets/d/operations/77"
TASKS: list[tuple[Any, dict[str, Any]]] = [
    (
        DicomStoreExportOperator,
        {**STORE, "destination": "gs://bucket/{{ ds }}/", "filter_uri": "gs://bucket/f", "max_failures": 0.1},
    ),
    (DicomStoreExportCheckOperator, {**STORE, "destination": "bq://p.d.t", "filter_uri": "gs://bucket/f"}),
    (
        DicomStoreSearchOperator,
        {**STORE, "filter_uri": "gs://bucket/f", "filters": {"StudyDate": "{{ ds }}"}},
    ),
    (
        DicomMetadataQueryOperator,
        {
            "table": "bq://p.d.t",
            "filter_uri": "gs://bucket/f",
            "high_water_mark": "mark",
            "until": "{{ ts }}",
        },
    ),
    (DicomHighWaterMarkOperator, {"high_water_mark": "mark", "selection": "{{ params.selection }}"}),
    (DicomStoreExportSensor, {"operation_name": NAME, "max_failures": 3}),
]
copied_every_way = pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)


@copied_every_way
@pytest.mark.parametrize(("operator", "arguments"), TASKS, ids=[operator.__name__ for operator, _ in TASKS])
def test_copy_of_a_task_has_all_its_parameters(
    operator: Any, arguments: dict[str, Any], copied: Callable[[Any], Any]
) -> None:
    task = operator(task_id="task", **arguments)
    twin = copied(task)
    assert type(twin) is operator
    assert twin is not task
    for name in {*arguments, *operator.template_fields}:
        assert getattr(twin, name) == getattr(task, name)


def test_part_of_a_dag_has_tasks_with_all_their_parameters() -> None:
    with DAG("copied", schedule=None) as dag:
        for number, (operator, arguments) in enumerate(TASKS):
            operator(task_id=f"task_{number}", **arguments)
    part = dag.partial_subset([f"task_{number}" for number in range(len(TASKS))])
    for number, (operator, arguments) in enumerate(TASKS):
        twin = part.get_task(f"task_{number}")
        assert twin is not dag.get_task(f"task_{number}")
        assert {name: reveal(getattr(twin, name)) for name in arguments} == arguments, operator


@copied_every_way
def test_copy_of_a_trigger_is_serialized_the_same_way(copied: Callable[[Any], Any]) -> None:
    trigger = DicomStoreExportTrigger(NAME, impersonation_chain=["a@b.example"], deadline=1.7e9)
    assert copied(trigger).serialize() == trigger.serialize()
