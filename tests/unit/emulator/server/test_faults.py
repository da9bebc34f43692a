"""Which fault affects which request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from airflow_provider_dicom.emulator.server.faults import Fault, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/v1/projects/p/locations/l/datasets/d/dicomStores/s:export"


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"status": 200},
        {"status": 600},
        {"retry_after": 3, "latency_seconds": 1},
        {"status": 503, "retry_after": -1},
        {"status": 503, "retry_after": "soon"},
        {"status": 503, "share": 0},
        {"status": 503, "share": 1.5},
        {"status": 503, "count": 0},
        {"body": "long"},
        {"hold_seconds": 0},
        {"resource": "datasets/d/"},
        {"reset": "sometimes"},
    ],
)
def test_faults_without_effect_or_with_invalid_values_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate({"route": "export", **fault})


def test_first_matching_fault_affects_the_request_and_is_counted() -> None:
    faults = Faults()
    faults.add(Fault(route="export", status=500, count=2))
    faults.add(Fault(route="*", status=503))
    drawn = [faults.draw(route, PATH) for route in ("export", "metrics", "export", "export")]
    assert [fault and fault.status for fault in drawn] == [500, 503, 500, 503]
    assert [report.fired for report in faults.report()] == [2, 2]
    faults.clear()
    assert faults.draw("export", PATH) is None


def test_fault_with_a_resource_affects_only_its_dataset() -> None:
    faults = Faults()
    ours = faults.add(Fault(route="export", resource="datasets/d/", status=500))
    other = PATH.replace("datasets/d/", "datasets/d2/")
    assert faults.draw("export", other) is None
    assert faults.draw("export", PATH) is not None
    faults.add(Fault(route="export", status=503))
    faults.remove(ours)
    faults.remove(ours)
    drawn = faults.draw("export", PATH)
    assert drawn is not None
    assert drawn.status == 503


@pytest.mark.parametrize("remove", [Faults.clear, lambda faults: faults.remove(1)], ids=["all", "one"])
def test_removal_of_a_fault_ends_its_delay(remove: Callable[[Faults], None]) -> None:
    faults = Faults()
    assert faults.add(Fault(route="export", hold_seconds=600)) == 1
    held = faults.draw("export", PATH)
    assert held is not None

    async def delay() -> None:
        asyncio.get_running_loop().call_soon(remove, faults)
        await asyncio.wait_for(held.delay(600), 60)

    asyncio.run(delay())
