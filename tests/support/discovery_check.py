"""Checks responses of the local Healthcare API against Google's discovery document."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from googleapiclient.http import HttpRequest

Json = dict[str, Any]


@cache
def discovery_document() -> Json:
    source = files("googleapiclient") / "discovery_cache" / "documents" / "healthcare.v1.json"
    document: Json = json.loads(source.read_text(encoding="utf-8"))
    return document


def _strict(node: Json) -> Json:
    """Turn a node of the discovery document into a JSON schema without additional properties."""
    if "$ref" in node:
        return {"$ref": f"#/$defs/{node['$ref']}"}
    if node["type"] == "any":
        return {}
    schema: Json = {"type": node["type"]}
    if "enum" in node:
        schema["enum"] = node["enum"]
    if node.get("format") in ("int64", "uint64"):
        # Proto3 leaves zeros out, so that a counter is never "0".
        schema["pattern"] = "^-?[1-9][0-9]*$"
    if node.get("format") == "google-datetime":
        schema["pattern"] = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$"
    if node["type"] == "array":
        schema |= {"items": _strict(node["items"]), "minItems": 1}
    if node["type"] == "object":
        extra = node.get("additionalProperties")
        schema["properties"] = {name: _strict(child) for name, child in node.get("properties", {}).items()}
        schema["additionalProperties"] = _strict(extra) if extra else False
    return schema


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    definitions = {key: _strict(node) for key, node in discovery_document()["schemas"].items()}
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def validate(answer: Json, schema: str) -> None:
    """Validate a response, and the metadata of an Operation, against a schema of the document."""
    _validator(schema).validate(answer)
    operations = [answer] if schema == "Operation" else answer.get("operations", [])
    for operation in operations:
        if "metadata" in operation:
            metadata = dict(operation["metadata"])
            assert metadata.pop("@type") == "type.googleapis.com/google.cloud.healthcare.v1.OperationMetadata"
            _validator("OperationMetadata").validate(metadata)
        assert not ("error" in operation and "response" in operation)
        assert operation.get("done", False) == ("error" in operation or "response" in operation)


@cache
def _response_schemas() -> dict[str, str]:
    def walk(resource: Json) -> Iterator[tuple[str, str]]:
        for method in resource.get("methods", {}).values():
            yield method["id"], method["response"]["$ref"]
        for child in resource.get("resources", {}).values():
            yield from walk(child)

    return dict(walk(discovery_document()))


def execute(request: HttpRequest) -> Json:
    """Send a request of Google's client, and validate the response against the method's schema."""
    answer: Json = request.execute()
    validate(answer, _response_schemas()[request.methodId])
    return answer
