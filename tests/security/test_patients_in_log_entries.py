"""Of the entries in Cloud Logging, only UIDs and Google's error texts get anywhere."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from airflow_provider_dicom.exceptions import DicomExportTooManyFailuresError
from airflow_provider_dicom.longrunning import failures as failures_module
from airflow_provider_dicom.operators import _failures as module
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from tests.security.test_patients import CANARIES, leaks, texts_of
from tests.support.raw_server import RawServer, answer, responder
from tests.support.task_runs import TaskRun

NAME = "Zanzibar^Zoe"
DATASET = "projects/p/locations/l/datasets/d"
PATH = "/studies/1.2/series/1.2.3/instances/1.2.3.4"
OPERATION: Any = {
    "name": f"{DATASET}/operations/7",
    "done": True,
    "response": {},
    "metadata": {"counter": {"success": "1", "failure": "2"}, "createTime": "2026-01-01T00:00:00Z"},
}
ENTRY: dict[str, Any] = {
    "insertId": "1",
    "logName": "projects/p/logs/healthcare.googleapis.com%2Fdicom_export",
    "timestamp": "2026-01-01T00:00:01Z",
    "resource": {"type": "healthcare_dicom_store", "labels": {"project_id": "p"}},
    "jsonPayload": {
        "resourceName": f"{DATASET}/dicomStores/s/dicomWeb{PATH}",
        "error": {"code": 3, "message": "transfer syntax not supported"},
    },
}


def payload(**changes: Any) -> dict[str, Any]:
    return {"jsonPayload": ENTRY["jsonPayload"] | changes}


#: Entries that hold patient attributes where the provider has no business.
HOSTILE: dict[str, dict[str, Any]] = {
    "fields beside the error": payload(PatientName=NAME, PatientBirthDate="19620229", source=CANARIES[2]),
    "resource name": payload(resourceName=f"{DATASET}/dicomStores/s/dicomWeb/studies/{NAME}"),
    "end of the resource name": payload(resourceName=f"{DATASET}/dicomStores/s/dicomWeb{PATH}/{NAME}"),
    "details of the error": payload(error={"code": 3, "message": "no", "details": [{"name": NAME}]}),
    "quoted values": payload(
        error={"code": 3, "message": f"invalid '{NAME}' or \"19620229\" or 'MRN-4711' or `Zanzibar`"}
    ),
    "person name": payload(error={"code": 3, "message": f"PatientName={NAME} is invalid"}),
    "another type of message": payload(error={"code": 3, "message": {NAME: 1}}),
    "another type of error": payload(error=NAME),
    "text": {"jsonPayload": None, "textPayload": NAME},
    "labels": {"labels": {"patient": NAME}, "resource": {"type": NAME, "labels": {"name": NAME}}},
    "trace and request": {"trace": NAME, "spanId": NAME, "httpRequest": {"requestUrl": f"/?{NAME}"}},
    "no time": {"timestamp": NAME},
    "no log": {"logName": NAME},
    "no entry": {"jsonPayload": [NAME], "logName": None},
}


def everything_shown(body: bytes, conn_id: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return all that a task with failed instances shows anywhere."""
    run = TaskRun()
    with RawServer(responder(answer(body))) as server:
        task = DicomStoreExportOperator(
            task_id="export",
            location="l",
            dataset_id="d",
            dicom_store_id="s",
            destination="gs://bucket/night/",
            gcp_conn_id=conn_id,
            api_endpoint=server.url,
        )
        event: Any = {"status": "success", "operation": OPERATION, "message": None}
        with pytest.raises(DicomExportTooManyFailuresError) as error:
            task.execute_complete(run.context, event)
    shown = "".join(traceback.format_exception(error.value))
    return f"{shown} {vars(error.value)} {run.ti.xcoms} {texts_of(caplog)}"


@pytest.fixture
def debugged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """All lines of all loggers; google-auth logs its requests and their answers as well."""
    monkeypatch.setenv("GOOGLE_SDK_PYTHON_LOGGING_SCOPE", "google")
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "google", "google.auth", "google.cloud", "requests", "airflow"):
        caplog.set_level(logging.DEBUG, logger=name)
    # The wait is over after two reads.
    monkeypatch.setattr(failures_module, "PAUSE_INITIAL", 0.01)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    return caplog


@pytest.mark.parametrize("credentials", ["anonymous", "keyfile"])
@pytest.mark.parametrize("place", HOSTILE)
def test_patient_attribute_in_a_log_entry_gets_nowhere(
    place: str,
    credentials: str,
    request: pytest.FixtureRequest,
    debugged: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    body = json.dumps({"entries": [ENTRY | HOSTILE[place]]}).encode()
    shown = everything_shown(body, request.getfixturevalue(credentials), debugged) + capsys.readouterr().out
    assert "Cloud Logging" in shown
    assert not leaks(shown)


@pytest.mark.parametrize(
    "body",
    [f"<html>{NAME}</html>".encode(), f'["{NAME}"]'.encode(), f'{{"entries": "{NAME}"}}'.encode(), b"\xff"],
    ids=["page", "list", "text", "bytes"],
)
def test_unreadable_answer_of_cloud_logging_is_not_quoted(
    body: bytes, anonymous: str, debugged: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = everything_shown(body, anonymous, debugged) + capsys.readouterr().out
    assert "The causes of the failed instances are not known" in shown
    assert not leaks(shown)


def test_uids_and_google_s_text_are_shown(
    anonymous: str, debugged: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    body = json.dumps({"entries": [ENTRY]}).encode()
    shown = everything_shown(body, anonymous, debugged) + capsys.readouterr().out
    assert f"1 x transfer syntax not supported (code 3): {PATH}" in shown
