"""Matching of searches (PS3.4, C.2.2.2), and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydicom.datadict import keyword_for_tag

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers import qido

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.emulator.models.dicom_files import Attributes


PERSON: list[object] = [{"Alphabetic": "Müller^Eva", "Ideographic": "穆勒^伊娃"}]


def matched(query: qido.Query, values: list[object]) -> bool:
    """Tell whether the query with one attribute finds an instance with these values."""
    (tag,) = query.filters
    return bool(list(qido.run(query, [{tag: {"vr": "XX", "Value": values}}])))


def refusal(level: str, *parameters: tuple[str, str]) -> str:
    """Return Google's message for a search that is refused, and accepted with ``any_search``."""
    with pytest.raises(ApiError) as caught:
        qido.parse(level, parameters)
    assert (caught.value.http_status, caught.value.status) == (400, "INVALID_ARGUMENT")
    qido.parse(level, parameters, any_search=True)
    return caught.value.message


@pytest.mark.parametrize(
    ("keyword", "required", "values", "matches"),
    [
        ("PatientName", "Müller^Eva", PERSON, True),
        ("PatientName", "Müller^Eva^^", PERSON, True),
        ("PatientName", "müller^eva", PERSON, False),
        ("PatientName", "穆勒^伊娃", PERSON, True),
        ("PatientName", "Müller", PERSON, False),
        ("PatientID", "A", ["a"], False),
        ("PatientID", "a", [], False),
        ("PatientID", "b", ["a", "b"], True),
        ("PatientID", "*", [], True),
        ("PatientID", "a?", ["a?"], True),
        ("PatientID", "a?", ["ab"], False),
        ("StudyInstanceUID", "*", ["1.3"], True),
        ("StudyDate", "20200101", ["20200101"], True),
        ("StudyDate", "20200101-20200131", ["20200131"], True),
        ("StudyDate", "20200101-20200131", ["20200201"], False),
        ("StudyDate", "20200101-", ["20200101"], True),
        ("StudyDate", "-20200101", ["20200102"], False),
        ("StudyDate", "20200101-", [], False),
        ("StudyInstanceUID", "1.3", ["1.3"], True),
        ("StudyInstanceUID", "1.2,1.3", ["1.3"], False),
        ("StudyInstanceUID", "1.2\\1.3", ["1.2"], False),
        ("StudyInstanceUID", "1.*", ["1.3"], False),
        ("ModalitiesInStudy", "CT", ["CT", "SR"], True),
        ("ModalitiesInStudy", "MR", ["CT", "SR"], False),
    ],
)
def test_search_matches_values_exactly(
    keyword: str, required: str, values: list[object], matches: bool
) -> None:
    assert matched(qido.parse("studies", [(keyword, required)]), values) is matches


@pytest.mark.parametrize(
    ("keyword", "required", "values", "matches"),
    [
        ("PatientName", "müller^eva", PERSON, True),
        ("PatientName", "穆勒*", PERSON, True),
        ("PatientName", "M?ller*", PERSON, True),
        ("PatientID", "a*", ["ab"], True),
        ("PatientID", "a*", ["ba"], False),
        ("PatientID", "*a*c*", ["xaybzc"], True),
        ("PatientID", "*b*a*", ["xaybz"], False),
        ("PatientID", "a*b", ["a-b-b"], True),
        ("PatientID", "a*?b", ["ab"], False),
        ("PatientID", "a.b", ["axb"], False),
        ("StudyTime", "10-11", ["115959"], True),
        ("StudyTime", "10-11", ["120000"], False),
        ("StudyTime", "1400-1405", ["140538"], True),
        ("StudyInstanceUID", "1.2,1.3", ["1.3"], True),
        ("StudyInstanceUID", "1.2\\1.3", ["1.2"], True),
        ("NumberOfStudyRelatedInstances", "7", [7], True),
    ],
)
def test_any_search_matches_wildcards_and_lists(
    keyword: str, required: str, values: list[object], matches: bool
) -> None:
    assert matched(qido.parse("studies", [(keyword, required)], any_search=True), values) is matches


@pytest.mark.parametrize(
    ("required", "matches"),
    [("jo", True), ("Do", True), ("John Doe", True), ("Doe^John", True), ("Smith^J", True), ("ohn", False)],
)
def test_fuzzy_matching_finds_beginnings_of_words(required: str, matches: bool) -> None:
    query = qido.parse("studies", [("PatientName", required), ("fuzzymatching", "true")])
    assert matched(query, [{"Alphabetic": "John^Doe"}]) is matches


def test_fuzzy_matching_ignores_accents_and_affects_patient_names_only() -> None:
    fuzzy = ("fuzzymatching", "true")
    assert matched(qido.parse("studies", [("PatientName", "mull"), fuzzy]), PERSON)
    assert not matched(qido.parse("studies", [("ReferringPhysicianName", "mull"), fuzzy]), PERSON)


def test_key_that_is_given_again_is_a_list_of_uids() -> None:
    query = qido.parse("studies", [("StudyInstanceUID", "1.2"), ("0020000d", "1.3")])
    assert [matched(query, [uid]) for uid in ("1.2", "1.3", "1.4")] == [True, True, False]
    with pytest.raises(ApiError, match="PatientID has several values, which only a UID may have"):
        qido.parse("studies", [("PatientID", "1"), ("PatientID", "2")])


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "StudyDescription", "SOPClassesInStudy", "BodyPartExamined"]
)
def test_attribute_that_google_does_not_compare_is_refused(level: str, keyword: str) -> None:
    message = f"{keyword} is not a supported instance or study or series level attribute"
    assert refusal(level, (keyword, "1")) == message


def test_attributes_are_compared_at_their_own_and_lower_levels() -> None:
    for keyword, levels in {
        "PatientID": "studies series instances",
        "ModalitiesInStudy": "studies",
        "Modality": "series instances",
        "SeriesInstanceUID": "series instances",
        "SOPInstanceUID": "instances",
    }.items():
        for level in ("studies", "series", "instances"):
            if level in levels:
                qido.parse(level, [(keyword, "1")])
            else:
                assert refusal(level, (keyword, "1")).startswith(f"{keyword} is not a supported")


def test_wildcards_are_refused_but_for_one_alone() -> None:
    for value in ("Doe*", "**", "*^John"):
        assert refusal("studies", ("PatientName", value)).startswith("PatientName has wildcards")


def test_included_attributes_of_other_levels_are_accepted_and_unknown_ones_refused() -> None:
    for name in ("Modality", "00080060", "SOPClassUID,Rows", "all", "ModalitiesInStudy"):
        qido.parse("studies", [("includefield", name)])
    message = "unknown/unsupported QIDO attribute: "
    for name in ("AvailableTransferSyntaxUID", "00091001"):
        assert refusal("instances", ("includefield", name)) == message + name
    with pytest.raises(ApiError, match=f"{message}Colour"):
        qido.parse("instances", [("includefield", "Colour")], any_search=True)


def test_search_returns_the_attributes_of_the_conformance_statement() -> None:
    def returned(path: str, *fields: str) -> set[str]:
        tags = qido.parse(path, [("includefield", field) for field in fields]).fields
        assert tags is not None
        return {keyword_for_tag(tag) for tag in tags}

    assert {"StudyID", "InstanceAvailability"} <= returned("studies")
    assert not {"ModalitiesInStudy", "StudyDescription", "Modality"} & returned("studies")
    assert {"StudyID", "Modality"} <= returned("series")
    assert not {"StudyID", "SeriesNumber"} & returned("studies/1/series")
    assert {"StudyID", "Modality", "Rows"} <= returned("instances")
    assert not {"StudyID", "Modality"} & returned("studies/1/series/2/instances")
    assert {"StudyDescription", "InstitutionName"} <= returned("studies", "all")
    assert {"ModalitiesInStudy"} == returned("studies", "ModalitiesInStudy") - returned("studies")
    # It is accepted, but it is not returned for studies.
    assert returned("studies", "Rows") == returned("studies") | {"Rows"}
    assert returned("studies", "BodyPartExamined") == returned("studies")
    assert qido.parse("instances", [("includefield", "all")]).fields is None


def test_search_without_limit_returns_as_many_as_googles() -> None:
    limits = [qido.parse(level, []).limit for level in ("studies", "series", "instances")]
    assert limits == [100, 100, 1000]


def test_empty_filter_matches_all_instances() -> None:
    query = qido.parse("studies", [("PatientID", "")])
    assert len(list(qido.run(query, [{}, {"00100020": {"vr": "LO", "Value": ["a"]}}]))) == 2


def test_search_with_many_wildcards_ends_soon() -> None:
    query = qido.parse("studies", [("PatientID", "*a" * 30 + "*b")], any_search=True)
    # With backtracking it would take longer than the test could wait.
    assert not matched(query, ["a" * 60 + "c"])


def test_search_reads_no_further_than_its_limit() -> None:
    def candidates() -> Iterator[Attributes]:
        for _ in range(3):
            yield {}
        raise AssertionError("read too far")

    query = qido.parse("instances", [("limit", "2"), ("offset", "1")])
    assert len(list(qido.run(query, candidates()))) == 2
