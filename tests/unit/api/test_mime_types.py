"""MIME types: known, unknown but well-formed, and nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.api import export_request
from tests.support import discovery

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,20}", fullmatch=True)
SPACES = st.sampled_from(["", " ", "  ", "\t"])


def test_the_document_lists_24_forms() -> None:
    assert len(discovery.mime_forms()) == 24


def test_the_documented_forms_are_exactly_those_of_the_discovery_document() -> None:
    assert sorted(export_request.DOCUMENTED_MIME_TYPES) == sorted(discovery.mime_forms())


@pytest.mark.parametrize(
    "form",
    [*discovery.mime_forms(), "application/dicom", "application/octet-stream", "image/jpeg", "image/png"],
)
@given(SPACES, SPACES)
def test_listed_and_bare_forms_are_known_whatever_the_spaces(form: str, before: str, after: str) -> None:
    spaced = form.replace("; ", f"{before};{after}")
    assert export_request.is_mime_type(spaced)
    assert export_request.is_known_mime_type(spaced)


@given(NAMES, NAMES, st.lists(st.tuples(NAMES, NAMES), max_size=3))
def test_unknown_forms_are_well_formed(kind: str, subtype: str, parameters: list[tuple[str, str]]) -> None:
    form = f"x{kind}/{subtype}" + "".join(f"; {name}={value}" for name, value in parameters)
    assert export_request.is_mime_type(form)
    assert not export_request.is_known_mime_type(form)


@pytest.mark.parametrize(
    "form", ['multipart/related; type="application/dicom"; transfer-syntax=*', "image/jp2", "image/svg+xml"]
)
def test_forms_that_the_api_may_learn_are_well_formed(form: str) -> None:
    assert export_request.is_mime_type(form)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "dicom",
        "/",
        "image/",
        "/png",
        "image/png;",
        "image//png",
        "image/png; x",
        "image/png; =y",
        "image/png; x=",
        "image/png, image/jpeg",
        " image/png",
        "image/png ",
        "image/png\n",
        'image/png; x="a',
        "application/dicom;\n transfer-syntax=*",
        "application/dicom;\r\nX-Header: 1",
        "image/pñg",
        "image/png\x00",
    ],
    ids=repr,
)
def test_nonsense_is_not_well_formed(text: str) -> None:
    assert not export_request.is_mime_type(text)
