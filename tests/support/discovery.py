"""Google's discovery document, against which tests check the requests of this provider."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import googleapiclient
import jsonschema

Json = dict[str, Any]

_MIME_TYPE = re.compile(r"- ([a-z]+/[a-z-]+(?:; transfer-syntax=(?:\*|[0-9.]+[0-9]))?)(?= )")


@functools.cache
def document() -> Json:
    """Return the discovery document that google-api-python-client carries."""
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    loaded: Json = json.loads((folder / "healthcare.v1.json").read_text())
    return loaded


def mime_types() -> list[str]:
    """Return the MIME types that the document lists, in its order."""
    gcs = document()["schemas"]["GoogleCloudHealthcareV1DicomGcsDestination"]
    text = gcs["properties"]["mimeType"]["description"]
    listed = text.partition("the following are supported:")[2].partition("The following extensions")[0]
    return _MIME_TYPE.findall(listed)


def write_dispositions() -> list[str]:
    """Return the write dispositions that the document lists, without the unspecified one."""
    bigquery = document()["schemas"]["GoogleCloudHealthcareV1DicomBigQueryDestination"]
    return [name for name in bigquery["properties"]["writeDisposition"]["enum"] if "UNSPECIFIED" not in name]


def check(instance: object, schema: str) -> None:
    """
    Check a value against one of the document's schemas; unknown fields are refused.

    :param instance: the value.
    :param schema: the name of the schema.
    :raises jsonschema.ValidationError: if the value does not fit.
    """
    validator = jsonschema.Draft202012Validator(
        {
            "$ref": f"#/$defs/{schema}",
            "$defs": {name: _strict(s) for name, s in document()["schemas"].items()},
        }
    )
    validator.validate(instance)


def _strict(schema: Any) -> Any:
    """Turn a schema of the document into a JSON schema without additional properties."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    strict: Json = {}
    if (kind := schema.get("type")) not in (None, "any"):
        strict["type"] = kind
    if "enum" in schema:
        strict["enum"] = schema["enum"]
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    if kind == "object":
        strict["properties"] = {name: _strict(s) for name, s in schema.get("properties", {}).items()}
        strict["additionalProperties"] = _strict(schema.get("additionalProperties", False))
    return strict
