"""The trigger's serialization, as Airflow's database stores it."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from rig.triggers import through_the_database

NAME = "projects/p/locations/l/datasets/d/operations/77"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {
            "gcp_conn_id": "other",
            "api_endpoint": "https://host.example",
            "poll_interval": 5,
            "deadline": 1.7e9,
        },
        {"impersonation_chain": "sa@p.iam.gserviceaccount.com", "cancel_on_kill": False},
        {"impersonation_chain": ["a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com"]},
        {"impersonation_chain": ("a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com")},
    ],
)
def test_trigger_survives_serialization(arguments: dict[str, Any]) -> None:
    trigger = DicomStoreExportTrigger(NAME, **arguments)
    classpath, kwargs = trigger.serialize()
    assert classpath == "airflow_provider_dicom.triggers.dicom_store.DicomStoreExportTrigger"
    assert json.loads(json.dumps(kwargs)) == kwargs, "primitives only"
    copy = through_the_database(trigger)
    assert type(copy) is DicomStoreExportTrigger
    assert copy.serialize() == (classpath, kwargs)
    for name in kwargs:
        wanted = arguments.get(name, getattr(trigger, name))
        assert getattr(copy, name) == (list(wanted) if isinstance(wanted, tuple) else wanted)


def test_every_parameter_of_the_trigger_is_serialized() -> None:
    every = inspect.signature(DicomStoreExportTrigger).parameters.values()
    parameters = [parameter.name for parameter in every if parameter.kind is not parameter.VAR_KEYWORD]
    _, kwargs = DicomStoreExportTrigger(NAME).serialize()
    assert list(kwargs) == parameters


def test_arguments_of_a_newer_version_are_ignored_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    _, kwargs = DicomStoreExportTrigger(NAME, deadline=1.7e9).serialize()
    copy = DicomStoreExportTrigger(**kwargs, invented_later=1)  # type: ignore[arg-type]
    assert copy.serialize()[1] == kwargs
    assert "invented_later" in capsys.readouterr().out


@pytest.mark.parametrize(
    "missing", sorted(set(DicomStoreExportTrigger(NAME).serialize()[1]) - {"operation_name"})
)
def test_arguments_that_an_older_version_lacks_get_their_defaults(missing: str) -> None:
    _, kwargs = DicomStoreExportTrigger(NAME, deadline=1.7e9).serialize()
    del kwargs[missing]
    defaults = DicomStoreExportTrigger(NAME).serialize()[1]
    assert DicomStoreExportTrigger(**kwargs).serialize()[1] == {**kwargs, missing: defaults[missing]}  # type: ignore[arg-type]
