"""Apache Beam's dicomio: its transforms upload and search, also by what notifications hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pytest
import requests
from apache_beam.io.gcp.healthcare.dicomclient import DicomApiHttpClient
from apache_beam.io.gcp.healthcare.dicomio import DicomSearch, FormatToQido, UploadToDicomStore
from apache_beam.testing.util import assert_that

from rig.control import Control
from rig.dicom_files import sample_files, uids_of
from rig.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig.servers import HealthcareEmulator
    from tests.support.pubsub_stand_in import PubsubStandIn

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Beam leaves its thread pools to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TOPIC = "projects/test-project/topics/arrivals"
CT = next(path for path in sample_files() if path.name == "CT_small.dcm")
MR = next(path for path in sample_files() if path.name == "MR_small.dcm")


@pytest.fixture
def client(healthcare: HealthcareEmulator) -> DicomApiHttpClient:
    """Beam's own client, without credentials."""
    client = DicomApiHttpClient()
    client.healthcare_base_url = f"{healthcare.url}/v1"
    client.session = requests.Session()
    return client


@pytest.fixture
def target(dicom_store: str) -> dict[str, str]:
    _, project, _, region, _, dataset, _, store = dicom_store.split("/")
    return {"project_id": project, "region": region, "dataset_id": dataset, "dicom_store_id": store}


@pytest.fixture
def pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner="DirectRunner")


def summary(results: list[dict[str, Any]]) -> list[tuple[bool, Any, list[str]]]:
    """Return success, status and the instances found of each result."""
    return [
        (
            one["success"],
            one.get("status"),
            [found["00080018"]["Value"][0] for found in one.get("result", []) if "00080018" in found],
        )
        for one in results
    ]


def is_summary(*expected: tuple[bool, Any, list[str]]) -> Callable[[list[dict[str, Any]]], None]:
    """Return a matcher for ``assert_that``."""

    def check(results: list[dict[str, Any]]) -> None:
        if sorted(summary(results), key=str) != sorted(expected, key=str):
            raise AssertionError(results)

    return check


def test_uploaded_files_are_found_by_a_search(
    client: DicomApiHttpClient, target: dict[str, str], pipeline: beam.Pipeline
) -> None:
    files = [CT.read_bytes(), MR.read_bytes(), b"no DICOM"]
    with pipeline:
        uploaded = pipeline | beam.Create(files) | UploadToDicomStore(target, "bytes", client=client)
        assert_that(uploaded, is_summary((True, 200, []), (True, 200, []), (False, 409, [])))
    searches = [
        {**target, "search_type": "instances", "params": {"PatientID": "1CT1"}},
        {**target, "search_type": "instances", "params": {"StudyDate": "19970424-19970424", "limit": "1"}},
        {**target, "search_type": "studies", "params": {"AccessionNumber": "nothing"}},
        {**target, "search_type": "instances", "dicom_store_id": "missing"},
    ]
    with beam.Pipeline(runner="DirectRunner") as search:
        found = search | beam.Create(searches) | DicomSearch(client=client)
        ct = uids_of(CT).instance
        # Beam takes a page without matches, 204, for a failure.
        assert_that(
            found,
            is_summary((True, 200, [ct]), (False, 204, []), (False, 204, []), (False, 404, [])),
        )


def test_instance_of_a_notification_is_found(
    healthcare: HealthcareEmulator,
    pubsub: PubsubStandIn,
    client: DicomApiHttpClient,
    target: dict[str, str],
    dicom_store: str,
    http: requests.Session,
    pipeline: beam.Pipeline,
) -> None:
    body = {"notificationConfigs": [{"pubsubTopic": TOPIC}]}
    url = f"{healthcare.url}/v1/{dicom_store}"
    http.patch(f"{url}?updateMask=notificationConfigs", json=body).raise_for_status()
    before = len(pubsub.published)
    headers = {"Content-Type": "application/dicom"}
    http.post(f"{url}/dicomWeb/studies", data=CT.read_bytes(), headers=headers).raise_for_status()
    control = Control(healthcare.url)
    wait_for("all is delivered", lambda: not control.deliveries()["pending"], timeout=60, pause=0.05)
    (message,) = pubsub.published[before:]
    with pipeline:
        queries = pipeline | beam.Create([message.data.decode()]) | FormatToQido()
        found = queries | beam.Map(lambda converted: converted["result"]) | DicomSearch(client=client)
        assert_that(found, is_summary((True, 200, [uids_of(CT).instance])))
