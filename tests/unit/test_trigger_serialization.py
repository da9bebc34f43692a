"""Triggers as they travel through Airflow's database."""

from __future__ import annotations

import json
import pkgutil
from typing import Any

import pytest
from airflow.models.trigger import Trigger

from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger

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
def test_a_trigger_comes_back_as_it_was(arguments: dict[str, Any]) -> None:
    trigger = DicomStoreExportTrigger(NAME, **arguments)
    classpath, kwargs = trigger.serialize()
    assert classpath == "airflow_provider_dicom.triggers.dicom_store.DicomStoreExportTrigger"
    assert json.loads(json.dumps(kwargs)) == kwargs, "primitives only"
    stored = Trigger.encrypt_kwargs(kwargs)
    copy = pkgutil.resolve_name(classpath)(**Trigger._decrypt_kwargs(stored))
    assert type(copy) is DicomStoreExportTrigger
    assert copy.serialize() == (classpath, kwargs)
    for name in kwargs:
        wanted = arguments.get(name, getattr(trigger, name))
        assert getattr(copy, name) == (list(wanted) if isinstance(wanted, tuple) else wanted)


def test_every_parameter_is_serialized() -> None:
    import inspect

    parameters = list(inspect.signature(DicomStoreExportTrigger).parameters)
    _, kwargs = DicomStoreExportTrigger(NAME).serialize()
    assert list(kwargs) == parameters
