"""The export's result on the events of the assets that a task updates."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_dicom.operators._base import set_outlet_extra
from tests.support.recorded_log import RecordedLog

pytestmark = pytest.mark.airflow("3.1", "references to assets")

RESULT = {"destination": "gs://bucket/nightly", "state": "SUCCEEDED", "success": 3}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The outlet events of a task in an Airflow that knows one asset."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import AssetResult, GetAssetByName
    from airflow.sdk.execution_time.context import OutletEventAccessors

    class Supervisor:
        def send(self, message: object) -> AssetResult:
            assert isinstance(message, GetAssetByName)
            if message.name != "nights":
                raise RuntimeError("no such asset")
            return AssetResult(name="nights", uri="gs://bucket/nights", group="asset")

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
    return OutletEventAccessors()


def test_asset_and_reference_to_an_asset_get_the_result(events: Any) -> None:
    asset, reference = Asset("gs://bucket/other"), Asset.ref(name="nights")
    set_outlet_extra({"outlet_events": events}, [asset, reference, "a path"], RESULT, log=RecordedLog())
    assert events[asset].extra == RESULT
    assert events[reference].extra == RESULT
    assert len(events) == 2


@pytest.mark.parametrize(
    ("destination", "uri"),
    [
        ("gs://bucket/nightly", "gs://bucket/nightly"),
        ("bq://warehouse.imaging.instances", "bigquery://warehouse/imaging/instances"),
    ],
)
def test_alias_gets_an_event_of_the_destination_with_the_result(
    destination: str, uri: str, events: Any
) -> None:
    alias = AssetAlias("exports")
    result = {**RESULT, "destination": destination}
    set_outlet_extra({"outlet_events": events}, [alias], result, log=RecordedLog())
    (event,) = events[alias].asset_alias_events
    assert (event.dest_asset_key.uri, event.extra) == (uri, result)


def test_reference_to_an_unknown_asset_is_logged_and_fails_nothing(events: Any) -> None:
    log = RecordedLog()
    known = Asset("gs://bucket/other")
    set_outlet_extra({"outlet_events": events}, [Asset.ref(name="unknown"), known], RESULT, log=log)
    assert events[known].extra == RESULT
    (warning,) = log.warnings
    assert "no such asset" in warning
