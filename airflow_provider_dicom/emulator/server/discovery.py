"""Google's discovery documents: the methods of the APIs, and the validation of their requests."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_dicom.emulator.messages import Json, JsonObject

#: A node of the discovery document: a resource, a method, a parameter or a schema.
Node: TypeAlias = "dict[str, Any]"

#: The unions of the requests, which the document describes in prose only: schema -> union -> its fields.
UNIONS: dict[str, dict[str, frozenset[str]]] = {
    "ExportDicomDataRequest": {"destination": frozenset({"gcsDestination", "bigqueryDestination"})},
    "GoogleCloudHealthcareV1DicomBigQueryDestination": {
        "schema": frozenset({"schemaFlattened", "schemaJson"})
    },
}


#: The API of Cloud Logging, of which this server has one method.
LOGGING = "logging.v2"


@dataclass(frozen=True)
class Method:
    """One method of the API.

    :param id: such as ``healthcare.projects.locations.datasets.dicomStores.export``.
    :param http_method: such as ``POST``.
    :param path: matches the path of the URL, with a named group for each variable.
    :param query: the nodes of its own query parameters, by name.
    :param request: the name of the schema of its body; None if it has no body.
    """

    id: str
    http_method: str
    path: re.Pattern[str]
    query: Mapping[str, Node]
    request: str | None


@cache
def document(api: str = "healthcare.v1") -> Node:
    """Return a discovery document that google-api-python-client carries.

    :param api: the name and the version of the API.
    """
    source = files("googleapiclient") / "discovery_cache" / "documents" / f"{api}.json"
    loaded: Node = json.loads(source.read_text(encoding="utf-8"))
    return loaded


@cache
def methods() -> dict[str, Method]:
    """Return all methods of the API by their ids, without the leading ``healthcare.projects.locations.``."""
    prefix = "healthcare.projects.locations."
    return {
        node["id"].removeprefix(prefix): _method(node)
        for node in _walk(document())
        if node["id"].startswith(prefix)
    }


def entries_list() -> Method:
    """Return ``entries.list`` of Cloud Logging."""
    return _method(document(LOGGING)["resources"]["entries"]["methods"]["list"])


@cache
def _schemas() -> Mapping[str, Node]:
    return {**document(LOGGING)["schemas"], **document()["schemas"]}


def _walk(resource: Node) -> Iterable[Node]:
    yield from resource.get("methods", {}).values()
    for child in resource.get("resources", {}).values():
        yield from _walk(child)


def _method(node: Node) -> Method:
    parameters: dict[str, Node] = node.get("parameters", {})

    def variable(match: re.Match[str]) -> str:
        pattern: str = parameters[match[1]]["pattern"]
        return f"(?P<{match[1]}>{pattern.removeprefix('^').removesuffix('$')})"

    template = re.sub(r"[.]", r"\\.", node["path"])
    return Method(
        id=node["id"],
        http_method=node["httpMethod"],
        path=re.compile("/" + re.sub(r"\{\+(\w+)\}", variable, template)),
        query={name: p for name, p in parameters.items() if p["location"] == "query"},
        request=node.get("request", {}).get("$ref"),
    )


# ---------------------------------------------------------------------------------------------------------
# Validation of requests


@dataclass(frozen=True)
class _Violation:
    field: str
    description: str


class _Violations(list[_Violation]):
    def unknown(self, name: str, where: str) -> None:
        place = f" at '{where}'" if where else ""
        self.append(_Violation(where, f'Unknown name "{name}"{place}: Cannot find field.'))

    def unbound(self, name: str) -> None:
        self.append(
            _Violation(
                "",
                f'Unknown name "{name}": Cannot bind query parameter. '
                f"Field '{name}' could not be found in request message.",
            )
        )

    def invalid(self, where: str, kind: str, value: Json) -> None:
        self.append(_Violation(where, f"Invalid value at '{where}' ({kind}), {json.dumps(value)}"))

    def raise_any(self, prefix: str = "") -> None:
        """Raise the violations as one error of the API: a line each, and ``BadRequest`` details.

        :param prefix: is put before violations about unknown names.
        """
        if not self:
            return
        lines = [
            f"{prefix}{v.description}" if v.description.startswith("Unknown name") else v.description
            for v in self
        ]
        violations = [
            {"field": v.field, "description": line} if v.field else {"description": line}
            for v, line in zip(self, lines, strict=True)
        ]
        raise ApiError(
            400,
            3,
            "INVALID_ARGUMENT",
            "\n".join(lines),
            [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}],
        )


_BAD_JSON = "Invalid JSON payload received. "


def parse_body(raw: bytes, schema: str) -> JsonObject:
    """Return a request's body, validated against its schema, as Google's servers would write it.

    Field names are in camelCase. As in the JSON form of proto3, fields with their default value are left out;
    so are fields that only the server may set.

    :param raw: the body; an empty one is an empty message.
    :param schema: the name of its schema in the discovery document.
    :raises ApiError: the body is not JSON, or has unknown fields or invalid values.
    """
    if not raw.strip():
        return {}
    try:
        value: Json = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ApiError.invalid_argument(f"{_BAD_JSON}{error}") from error
    if not isinstance(value, dict):
        raise ApiError.invalid_argument(f'{_BAD_JSON}Unknown name "": Root element must be a message.')
    # Google names the field that the body is bound to: none for a request message, else the resource.
    root = "" if schema.endswith("Request") else _snake(schema)
    violations = _Violations()
    checked = _message(value, schema, root, violations)
    violations.raise_any(_BAD_JSON)
    return checked


def check_query(query: Iterable[tuple[str, str]], own: Mapping[str, Node]) -> dict[str, Json]:
    """Return a method's own query parameters, converted to their types.

    :param query: all names and values, decoded; standard parameters are validated and left out.
    :param own: the nodes of the method's parameters, by name.
    :raises ApiError: a parameter is unknown, or its value is invalid.
    """
    standard: Mapping[str, Node] = document()["parameters"]
    violations = _Violations()
    checked: dict[str, Json] = {}
    for given, value in query:
        name = given if given in own or given in standard else _camel(given)
        node = own.get(name) or standard.get(name) or standard.get(name.removeprefix("$"))
        if node is None:
            violations.unbound(given)
            continue
        parsed = _value(value, node, _snake(name), violations)
        if name in own:
            checked[name] = parsed
    violations.raise_any(_BAD_JSON)
    return checked


def without_standard(query: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return query parameters without those of all methods, such as ``alt``, which Google's client sends."""
    standard: Mapping[str, Node] = document()["parameters"]
    return [
        (name, value)
        for name, value in query
        if name not in standard and name.removeprefix("$") not in standard
    ]


def _message(value: JsonObject, schema: str, where: str, violations: _Violations) -> JsonObject:
    properties: Mapping[str, Node] = _schemas()[schema].get("properties", {})
    checked: JsonObject = {}
    for given, item in value.items():
        name = given if given in properties else _camel(given)
        if name not in properties:
            violations.unknown(given, where)
        elif item is not None:
            at = f"{where}.{_snake(name)}" if where else _snake(name)
            _check_union(schema, name, given, checked, at, violations)
            checked[name] = _value(item, properties[name], at, violations)
    return {
        name: item
        for name, item in checked.items()
        if not properties[name].get("readOnly") and not _is_default(item, properties[name])
    }


def _is_default(value: Json, node: Node) -> bool:
    """Tell whether a field has the value of an unset one; a message that is set differs from an unset one."""
    if "$ref" in node or node["type"] == "any":
        return False
    if "enum" in node:
        return bool(value == node["enum"][0])
    return value == "0" if node.get("format") in ("int64", "uint64") else not value


def _check_union(
    schema: str, name: str, given: str, already: JsonObject, where: str, violations: _Violations
) -> None:
    for union, fields in UNIONS.get(schema, {}).items():
        if name in fields and fields & already.keys():
            violations.append(
                _Violation(
                    where,
                    f"Invalid value at '{where}' (oneof), oneof field '{union}' is already set. "
                    f"Cannot set '{given}'",
                )
            )


def _value(value: Json, node: Node, where: str, violations: _Violations) -> Json:
    if "$ref" in node:
        if not isinstance(value, dict):
            violations.invalid(where, f"type.googleapis.com/google.cloud.healthcare.v1.{node['$ref']}", value)
            return {}
        return _message(value, node["$ref"], where, violations)
    if node["type"] == "array":
        return _array(value, node, where, violations)
    if node["type"] == "object":
        return _map(value, node, where, violations)
    if node["type"] == "any":
        return value
    kind, parse = _SCALARS[node.get("format") or ("enum" if "enum" in node else node["type"])]
    parsed = parse(value, node)
    if parsed is None:
        violations.invalid(where, kind, value)
    return parsed


def _array(value: Json, node: Node, where: str, violations: _Violations) -> Json:
    if not isinstance(value, list):
        # check_query sees each value of a repeated parameter by itself.
        value = [value]
    return [_value(item, node["items"], f"{where}[{i}]", violations) for i, item in enumerate(value)]


def _map(value: Json, node: Node, where: str, violations: _Violations) -> Json:
    if not isinstance(value, dict):
        violations.invalid(where, "Map", value)
        return {}
    items: Node = node.get("additionalProperties", {"type": "any"})
    return {key: _value(item, items, f"{where}[{key}]", violations) for key, item in value.items()}


def _string(value: Json, node: Node) -> Json:
    return value if isinstance(value, str) else None


def _boolean(value: Json, node: Node) -> Json:
    if isinstance(value, bool):
        return value
    return (
        {"true": True, "1": True, "false": False, "0": False}.get(value) if isinstance(value, str) else None
    )


def _enum(value: Json, node: Node) -> Json:
    return value if isinstance(value, str) and value in node["enum"] else None


def _integer(bits: int) -> Callable[[Json, Node], Json]:
    def parse(value: Json, node: Node) -> Json:
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        try:
            number = int(value)
        except ValueError:
            return None
        if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
            return None
        return str(number) if bits == 64 else number

    return parse


def _number(value: Json, node: Node) -> Json:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_SCALARS: dict[str, tuple[str, Callable[[Json, Node], Json]]] = {
    "string": ("TYPE_STRING", _string),
    "byte": ("TYPE_BYTES", _string),
    "google-datetime": ("type.googleapis.com/google.protobuf.Timestamp", _string),
    "google-duration": ("type.googleapis.com/google.protobuf.Duration", _string),
    "google-fieldmask": ("type.googleapis.com/google.protobuf.FieldMask", _string),
    "boolean": ("TYPE_BOOL", _boolean),
    "enum": ("TYPE_ENUM", _enum),
    "int32": ("TYPE_INT32", _integer(32)),
    "integer": ("TYPE_INT32", _integer(32)),
    "int64": ("TYPE_INT64", _integer(64)),
    "uint64": ("TYPE_UINT64", _integer(64)),
    "double": ("TYPE_DOUBLE", _number),
    "number": ("TYPE_DOUBLE", _number),
}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?<!_)([A-Z])", r"_\1", name).lower()


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)
