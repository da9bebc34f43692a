"""Partial responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.server.dispatch import parse_fields, select_fields

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import Json

OPERATION: Json = {
    "name": "n",
    "done": True,
    "metadata": {"counter": {"success": "1", "failure": "2"}, "createTime": "t"},
    "list": [{"a": 1, "b": 2}, {"b": 3}],
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("name", {"name": "n"}),
        ("name,done", {"name": "n", "done": True}),
        ("metadata/counter/success", {"metadata": {"counter": {"success": "1"}}}),
        (
            "metadata(counter(failure),createTime)",
            {"metadata": {"counter": {"failure": "2"}, "createTime": "t"}},
        ),
        (
            "metadata/createTime,metadata/counter/failure",
            {"metadata": {"counter": {"failure": "2"}, "createTime": "t"}},
        ),
        ("list/b", {"list": [{"b": 2}, {"b": 3}]}),
        ("*/createTime", {"name": "n", "done": True, "metadata": {"createTime": "t"}, "list": [{}, {}]}),
        ("nothing", {}),
    ],
)
def test_fields_select_a_part_of_the_response(expression: str, expected: dict[str, object]) -> None:
    assert select_fields(OPERATION, parse_fields(expression)) == expected


@pytest.mark.parametrize("expression", ["", ",", "a,", "a(", "a(b", "a)", "a//b", "/a", "a(b)c"])
def test_fields_with_invalid_syntax_are_refused(expression: str) -> None:
    with pytest.raises(ApiError):
        parse_fields(expression)
