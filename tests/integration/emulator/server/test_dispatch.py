"""Requests that Google's API refuses are refused here, in its words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.support.discovery_check import Json, discovery_document

if TYPE_CHECKING:
    from rig.servers import HealthcareEmulator

BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
ONEOF = "Invalid value at '{}' (oneof), oneof field '{}' is already set. Cannot set '{}'"
BQ_URI = "bq://p.d.t"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def store_url(healthcare: HealthcareEmulator, dicom_store: str) -> str:
    return f"{healthcare.url}/v1/{dicom_store}"


def _error(response: requests.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json; charset=UTF-8"
    assert response.json().keys() == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == response.status_code
    return error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"x": 1}, 'Invalid JSON payload received. Unknown name "x": Cannot find field.'),
        (
            {"gcsDestination": {"x": 1}},
            "Invalid JSON payload received. Unknown name \"x\" at 'gcs_destination': Cannot find field.",
        ),
        (
            {"gcsDestination": {"uriPrefix": 7}},
            "Invalid value at 'gcs_destination.uri_prefix' (TYPE_STRING), 7",
        ),
        (
            {"bigqueryDestination": {"tableUri": BQ_URI, "includeSourceStore": 1}},
            "Invalid value at 'bigquery_destination.include_source_store' (TYPE_BOOL), 1",
        ),
        (
            {"bigqueryDestination": {"tableUri": BQ_URI, "writeDisposition": "WRITE_SOMEHOW"}},
            "Invalid value at 'bigquery_destination.write_disposition' (TYPE_ENUM), \"WRITE_SOMEHOW\"",
        ),
        (
            {"gcsDestination": {"uriPrefix": "gs://b"}, "bigqueryDestination": {"tableUri": BQ_URI}},
            ONEOF.format("bigquery_destination", "destination", "bigqueryDestination"),
        ),
        (
            {"bigqueryDestination": {"tableUri": BQ_URI, "schemaJson": {}, "schemaFlattened": {}}},
            ONEOF.format("bigquery_destination.schema_flattened", "schema", "schemaFlattened"),
        ),
    ],
)
def test_invalid_export_request_gets_googles_message(
    http: requests.Session, store_url: str, body: dict[str, Any], message: str
) -> None:
    error = _error(http.post(f"{store_url}:export", json=body))
    assert (error["status"], error["message"]) == ("INVALID_ARGUMENT", message)
    (detail,) = error["details"]
    assert detail["@type"] == BAD_REQUEST
    assert [violation["description"] for violation in detail["fieldViolations"]] == [message]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"gcsDestination": {}},
        {"gcsDestination": {"uriPrefix": "s3://b"}},
        {"gcsDestination": {"uriPrefix": "gs://b/p", "mimeType": "image/gif"}},
        {"bigqueryDestination": {"tableUri": "bq://p"}},
    ],
)
def test_invalid_export_destination_is_refused(
    http: requests.Session, store_url: str, body: dict[str, Any]
) -> None:
    assert _error(http.post(f"{store_url}:export", json=body))["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_body_that_is_not_a_json_object_is_refused(
    http: requests.Session, store_url: str, body: bytes
) -> None:
    error = _error(http.post(f"{store_url}:export", data=body, headers=JSON))
    assert error["status"] == "INVALID_ARGUMENT"
    assert error["message"].startswith("Invalid JSON payload received. ")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_body_of_another_content_type_is_refused(
    http: requests.Session, healthcare: HealthcareEmulator, store_url: str, kind: str | None
) -> None:
    collection = store_url.rsplit("/", 1)[0]
    for address in (f"{collection}?dicomStoreId=by-a-page", f"{healthcare.url}/_emulator/tokens"):
        response = http.post(address, data=b'{"valid": null}', headers={"Content-Type": kind})
        assert _error(response)["code"] == 400
    for kind in ("application/json", "Application/JSON; charset=UTF-8"):
        body = b'{"gcsDestination": {"uriPrefix": "s3://b"}}'
        error = _error(http.post(f"{store_url}:export", data=body, headers={"Content-Type": kind}))
        assert "s3://b" in error["message"]


@pytest.mark.parametrize(
    "header", [{"Host": "attacker.example"}, {"Origin": "https://attacker.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["/v1/{store}", "/_emulator/settings", "/healthz", "/nothing"])
def test_request_of_a_web_page_is_refused(
    http: requests.Session,
    healthcare: HealthcareEmulator,
    dicom_store: str,
    path: str,
    header: dict[str, str],
) -> None:
    address = healthcare.url + path.format(store=dicom_store)
    error = _error(http.get(address, headers=header))
    assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    for own in ({"Host": "localhost:1"}, {"Origin": "http://localhost:3000"}):
        assert http.get(address, headers=own).status_code != 403


def test_dot_segments_are_refused_as_ids(http: requests.Session, healthcare: HealthcareEmulator) -> None:
    path = "/v1/projects/p/locations/../datasets/d"
    request = http.prepare_request(requests.Request("GET", healthcare.url))
    request.url = healthcare.url + path
    error = _error(http.send(request))
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


def test_snake_case_field_names_are_accepted(http: requests.Session, store_url: str) -> None:
    body = {"gcs_destination": {"uri_prefix": "gs://some-bucket/x"}}
    assert http.post(f"{store_url}:export", json=body).status_code == 200


def test_unknown_query_parameter_gets_googles_message(http: requests.Session, store_url: str) -> None:
    error = _error(http.get(store_url, params={"colour": "red"}))
    assert error["message"] == (
        'Invalid JSON payload received. Unknown name "colour": Cannot bind query parameter. '
        "Field 'colour' could not be found in request message."
    )
    error = _error(http.get(f"{store_url.rsplit('/', 1)[0]}", params={"pageSize": "many"}))
    assert error["message"] == "Invalid value at 'page_size' (TYPE_INT32), \"many\""


def test_standard_query_parameters_are_accepted(http: requests.Session, store_url: str) -> None:
    standard = {"$.xgafv": "2", "alt": "json", "key": "k", "prettyPrint": "false", "quotaUser": "u"}
    whole = http.get(store_url, params=standard)
    assert whole.status_code == 200
    assert http.get(store_url, params={"fields": "labels"}).json() == {}
    assert http.get(store_url, params={"fields": "labels,name"}).json() == whole.json()
    assert _error(http.get(store_url, params={"fields": "name("}))["code"] == 400
    assert _error(http.get(store_url, params={"alt": "proto"}))["code"] == 501
    assert _error(http.get(store_url, params={"alt": "xml"}))["code"] == 400


def test_unknown_methods_and_resources_get_not_found(
    http: requests.Session, healthcare: HealthcareEmulator, store_url: str
) -> None:
    assert _error(http.get(f"{healthcare.url}/v1/nothing"))["status"] == "NOT_FOUND"
    assert _error(http.delete(f"{store_url}:export"))["code"] == 404
    body = {"gcsDestination": {"uriPrefix": "gs://b"}}
    assert _error(http.post(f"{store_url}-missing:export", json=body))["status"] == "NOT_FOUND"
    assert _error(http.get(f"{store_url}-missing/dicomWeb/studies"))["code"] == 404
    assert _error(http.get(f"{store_url}-missing:getDICOMStoreMetrics"))["code"] == 404


def test_json_body_larger_than_the_limit_is_refused(http: requests.Session, store_url: str) -> None:
    for body in (b" " * (10 * 1024 * 1024 + 1), iter([b" " * 1024 * 1024] * 11)):
        error = _error(http.post(f"{store_url}:export", data=body, headers=JSON))
        assert (error["code"], error["message"]) == (
            413,
            "Request payload size exceeds the limit: 10485760 bytes.",
        )


def test_control_endpoint_refuses_unknown_fields_and_values(
    http: requests.Session, healthcare: HealthcareEmulator
) -> None:
    control = f"{healthcare.url}/_emulator"
    assert "colour" in _error(http.patch(f"{control}/settings", json={"colour": 1}))["message"]
    assert _error(http.patch(f"{control}/settings", json={"advance": "never"}))["code"] == 400
    assert _error(http.patch(f"{control}/settings", json=[]))["code"] == 400
    assert _error(http.post(f"{control}/faults", json={"route": "export", "x": 1}))["code"] == 400
    assert _error(http.post(f"{control}/faults", json={"route": "exports", "status": 500}))["code"] == 400
    assert _error(http.post(f"{control}/faults", json={"route": "export"}))["code"] == 400
    assert _error(http.post(f"{control}/step", json={"steps": 1}))["code"] == 400
    assert _error(http.post(f"{control}/step", json={}))["status"] == "FAILED_PRECONDITION"
    assert http.get(f"{control}/settings").json()["advance"] == "time"


def _every_call() -> list[tuple[str, str, str]]:
    """Return verb, path and id of every method of the API that is about DICOM, datasets and operations."""
    location = discovery_document()["resources"]["projects"]["resources"]["locations"]
    datasets = location["resources"]["datasets"]
    found: list[tuple[str, str, str]] = []

    def walk(resource: Json) -> None:
        for method in resource.get("methods", {}).values():
            path = re.sub(r"\{[^}]*\}", "1.2", method["flatPath"])
            found.append((method["httpMethod"], path, method["id"]))
        for child in resource.get("resources", {}).values():
            walk(child)

    for name, resource in datasets["resources"].items():
        if name in ("dicomStores", "operations"):
            walk(resource)
    walk({"methods": datasets["methods"]})
    return found


@pytest.mark.parametrize(("verb", "path", "method"), _every_call())
def test_every_method_of_the_api_responds_with_googles_envelope(
    http: requests.Session, healthcare: HealthcareEmulator, verb: str, path: str, method: str
) -> None:
    response = http.request(verb, f"{healthcare.url}/{path}", data=b"" if verb != "GET" else None)
    if response.ok:
        assert method.rsplit(".", 1)[1] in ("list", "testIamPermissions")
        assert response.json() == {}
        return
    error = _error(response)
    # Nothing of what is asked for exists, or this server says that it does not have the method.
    assert (error["code"], error["status"]) in {
        (400, "INVALID_ARGUMENT"),
        (403, "PERMISSION_DENIED"),
        (501, "UNIMPLEMENTED"),
    }
    assert error["code"] != 501 or method in error["message"]
