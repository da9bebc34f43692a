"""Partial responses: the standard query parameter ``fields``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.server.discovery import Json

#: Wanted fields by name (``*`` for any); an empty selection below a field means all of it.
Selection: TypeAlias = "dict[str, Selection]"


def parse(expression: str) -> Selection:
    """Read ``fields``: names separated by commas, with ``a/b`` and ``a(b,c)`` for what is inside.

    :raises ApiError: it is not of that form.
    """
    tokens = re.findall(r"[^,()/\s]+|[,()/]", expression)
    selection = _list(tokens)
    if tokens:
        raise ApiError.invalid_argument(f"Invalid field selection {expression}")
    return selection


def _list(tokens: list[str]) -> Selection:
    selection: Selection = {}
    while True:
        _item(tokens, selection)
        if not tokens or tokens[0] != ",":
            return selection
        tokens.pop(0)


def _item(tokens: list[str], selection: Selection) -> None:
    if not tokens or tokens[0] in ",()/":
        raise ApiError.invalid_argument("Invalid field selection")
    inner = selection.setdefault(tokens.pop(0), {})
    if tokens and tokens[0] == "/":
        tokens.pop(0)
        _item(tokens, inner)
    elif tokens and tokens[0] == "(":
        tokens.pop(0)
        inner.update(_list(tokens))
        if not tokens or tokens.pop(0) != ")":
            raise ApiError.invalid_argument("Invalid field selection")


def select(value: Json, selection: Selection) -> Json:
    """Return the wanted part of an answer."""
    if not selection:
        return value
    if isinstance(value, list):
        return [select(item, selection) for item in value]
    if not isinstance(value, dict):
        return value
    everywhere = selection.get("*")
    return {
        name: select(item, selection.get(name, everywhere or {}))
        for name, item in value.items()
        if name in selection or everywhere is not None
    }


def select_body(content: bytes, expression: str) -> bytes:
    """Return the wanted part of an answer's body.

    :raises ApiError: the expression is not one.
    """
    return json.dumps(
        select(json.loads(content), parse(expression)), ensure_ascii=False, separators=(",", ":")
    ).encode()
