"""Matching of searches (PS3.4, C.2.2.2), and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.emulator.handlers import qido

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.emulator.models.dicom_files import Attributes


PERSON = [{"Alphabetic": "Müller^Eva", "Ideographic": "穆勒^伊娃"}]


@pytest.mark.parametrize(
    ("keyword", "required", "values", "matches"),
    [
        ("PatientName", "müller^eva", PERSON, True),
        ("PatientName", "Müller^Eva^^", PERSON, True),
        ("PatientName", "穆勒*", PERSON, True),
        ("PatientName", "Müller", PERSON, False),
        ("PatientName", "M?ller*", PERSON, True),
        ("PatientID", "a*", ["ab"], True),
        ("PatientID", "a*", ["ba"], False),
        ("PatientID", "A", ["a"], False),
        ("PatientID", "a.b", ["axb"], False),
        ("PatientID", "a", [], False),
        ("PatientID", "b", ["a", "b"], True),
        ("StudyDate", "20200101", ["20200101"], True),
        ("StudyDate", "20200101-20200131", ["20200131"], True),
        ("StudyDate", "20200101-20200131", ["20200201"], False),
        ("StudyDate", "20200101-", ["20200101"], True),
        ("StudyDate", "-20200101", ["20200102"], False),
        ("StudyDate", "20200101-", [], False),
        ("StudyTime", "10-11", ["115959"], True),
        ("StudyTime", "10-11", ["120000"], False),
        ("StudyTime", "1400-1405", ["140538"], True),
        ("StudyInstanceUID", "1.2,1.3", ["1.3"], True),
        ("StudyInstanceUID", "1.2\\1.3", ["1.2"], True),
        ("StudyInstanceUID", "1.*", ["1.3"], False),
        ("NumberOfStudyRelatedInstances", "7", [7], True),
    ],
)
def test_search_matches_values(keyword: str, required: str, values: list[object], matches: bool) -> None:
    query = qido.parse("studies", [(keyword, required)])
    (tag,) = query.filters
    found = list(qido.run(query, [{tag: {"vr": "XX", "Value": values}}]))
    assert bool(found) is matches


def test_empty_filter_matches_all_instances() -> None:
    query = qido.parse("studies", [("PatientID", "")])
    assert len(list(qido.run(query, [{}, {"00100020": {"vr": "LO", "Value": ["a"]}}]))) == 2


def test_search_reads_no_further_than_its_limit() -> None:
    def candidates() -> Iterator[Attributes]:
        for _ in range(3):
            yield {}
        raise AssertionError("read too far")

    query = qido.parse("instances", [("limit", "2"), ("offset", "1")])
    assert len(list(qido.run(query, candidates()))) == 2
