"""Entries of Cloud Logging: the instance and the error, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dicom.api.foreign_text import without_values
from airflow_provider_dicom.api.log_entries import MAX_MESSAGE, FailedInstance, failed_instance

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
PATH = "/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5"


def payload(**changes: Any) -> dict[str, Any]:
    return {"resourceName": f"{STORE}/dicomWeb{PATH}", "error": {"code": 3, "message": "no."}} | changes


def test_entry_names_the_instance_the_code_and_the_message() -> None:
    assert failed_instance(payload()) == FailedInstance(PATH, 3, "no")


@pytest.mark.parametrize(
    ("resource_name", "path"),
    [
        (f"{STORE}/dicomWeb{PATH}/frames/2", PATH),
        (PATH, PATH),
        (f"{STORE}/dicomWeb/studies/1.2.3", "/studies/1.2.3"),
        (f"{STORE}/dicomWeb/studies/Zanzibar", None),
        (f"{STORE}/dicomWeb{PATH}/Zanzibar", None),
        ("Zanzibar", None),
        ("", None),
        (None, None),
        ({"Zanzibar": 1}, None),
    ],
)
def test_resource_name_is_kept_only_if_it_is_a_resource_path(resource_name: object, path: str | None) -> None:
    found = failed_instance(payload(resourceName=resource_name))
    assert found is not None
    assert found.resource_path == path


def test_resource_name_is_read_in_both_spellings() -> None:
    assert failed_instance({"resource_name": PATH, "error": {}}) == FailedInstance(PATH, None, "no message")


@pytest.mark.parametrize("value", [None, "text", [], {}, {"error": None}, {"error": "Zanzibar"}], ids=repr)
def test_entry_without_an_error_is_none_of_an_instance(value: object) -> None:
    assert failed_instance(value) is None


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({}, None, "no message"),
        ({"code": "3", "message": 7}, None, "no message"),
        ({"code": 5.0, "message": " "}, 5, "no message"),
        ({"code": 3, "message": "two\nlines"}, 3, "two lines"),
        ({"code": 3, "message": "x" * 1000}, 3, "x" * (MAX_MESSAGE - 3) + "..."),
    ],
)
def test_error_of_any_shape_is_one_line(error: dict[str, Any], code: int | None, message: str) -> None:
    assert failed_instance(payload(error=error)) == FailedInstance(PATH, code, message)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("transfer syntax 1.2.840.10008.1.2.4.90 is not supported", None),
        ("HTTP 404", None),
        (f"cannot read {STORE}/dicomWeb{PATH}", f"cannot read {STORE}/dicomWeb..."),
        ("instance 1.2.3.4.5 of series 1.2.3.4 of 1.2.3", "instance ... of series ... of ..."),
        ("1.2.3.4.56 is another", None),
        ("frame of 157286401 bytes is too large", "frame of ... bytes is too large"),
    ],
)
def test_cause_leaves_out_what_differs_from_instance_to_instance(message: str, cause: str | None) -> None:
    assert FailedInstance(PATH, 3, message).cause == (cause or message)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("invalid value 'Zanzibar^Zoe' of (0010,0010)", "invalid value '...' of (0010,0010)"),
        ('invalid value "19620229"', 'invalid value "..."'),
        ("PatientName=Zanzibar^Zoe is too long", "PatientName=... is too long"),
        ("name Zanzibar^Zoe^^Dr.", "name ..."),
        ("the API doesn't have what it can't have", None),
        ("no decoder for '1.2.840.10008.1.2.4.90'", None),
        ("cannot write 'gs://bucket/a b'", "cannot write '...'"),
        ("cannot write 'gs://bucket/a'", None),
        ("'application/dicom; transfer-syntax=1.2.840.10008.1.2.1' is not supported", None),
        ("line one\nline two", "line one line two"),
    ],
)
def test_values_of_attributes_are_removed_from_an_error_text(text: str, shown: str | None) -> None:
    assert without_values(text) == (shown or text)
