"""Small parts of the local Healthcare API."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers import qido
from airflow_provider_dicom.emulator.handlers.paging import MAX_PAGE_SIZE, page_size, page_token, position
from airflow_provider_dicom.emulator.names import check_id, dataset_of, is_uid, project_of
from airflow_provider_dicom.emulator.resource_path import ResourcePath
from airflow_provider_dicom.emulator.server import partial_response, routes
from airflow_provider_dicom.emulator.server.faults import Fault, Faults

OPERATION = {
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
def test_partial_responses(expression: str, expected: dict[str, object]) -> None:
    assert partial_response.select(OPERATION, partial_response.parse(expression)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("expression", ["", ",", "a,", "a(", "a(b", "a)", "a//b", "/a", "a(b)c"])
def test_partial_responses_that_make_no_sense(expression: str) -> None:
    with pytest.raises(ApiError):
        partial_response.parse(expression)


def test_page_tokens_come_back() -> None:
    for name in ("projects/p/locations/l/datasets/ä", "17", "a?"):
        assert position({"pageToken": page_token(name)}) == name
    assert position({}) == ""
    for bad in ("%", "====", page_token("é")[:-1] + "*"):
        with pytest.raises(ApiError, match="page_token"):
            position({"pageToken": bad})


def test_page_sizes() -> None:
    assert page_size({}) == page_size({"pageSize": 0}) == 100
    assert page_size({"pageSize": 7}) == 7
    assert page_size({"pageSize": MAX_PAGE_SIZE + 1}) == MAX_PAGE_SIZE
    with pytest.raises(ApiError, match="page_size"):
        page_size({"pageSize": -1})


def test_names() -> None:
    name = "projects/p/locations/l/datasets/d/operations/7"
    assert dataset_of(name) == "projects/p/locations/l/datasets/d"
    assert project_of(name) == "p"
    assert check_id("id", "é-_.1") == "é-_.1"
    for bad in (None, "", "a b", "a/b", "a\n", "x" * 257):
        with pytest.raises(ApiError, match="id"):
            check_id("id", bad)


def test_uids() -> None:
    assert all(is_uid(uid) for uid in ("1", "1.2.840.10008", "1.02", "1" * 64))
    assert not any(is_uid(uid) for uid in ("", ".", "..", "1..2", "1.", ".1", "1.2\n", "a", "1/2", "1" * 65))


def test_resource_paths() -> None:
    for text, path in {
        "studies": ResourcePath(),
        "studies/1": ResourcePath("1"),
        "studies/1/series": ResourcePath("1"),
        "studies/1/series/2": ResourcePath("1", "2"),
        "studies/1/series/2/instances/3": ResourcePath("1", "2", "3"),
        "studies/1/series/2/instances/3/metadata": ResourcePath("1", "2", "3"),
    }.items():
        assert ResourcePath.parse(text) == path
    assert str(ResourcePath("1", "2", "3")) == "/studies/1/series/2/instances/3"
    assert str(ResourcePath("1")) == "/studies/1"


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("GET", "operations/1", "operations.get"),
        ("GET", "operations", "operations.list"),
        ("POST", "operations/1:cancel", "operations.cancel"),
        ("POST", "dicomStores/s:export", "export"),
        ("GET", "dicomStores/s", "stores.get"),
        ("GET", "dicomStores", "stores.list"),
        ("POST", "dicomStores", "stores.create"),
        ("GET", "dicomStores/s:getDICOMStoreMetrics", "metrics"),
        ("POST", "dicomStores/s:testIamPermissions", "testIamPermissions"),
        ("GET", "dicomStores/s/dicomWeb/studies", "search"),
        ("GET", "dicomStores/s/dicomWeb/studies/1/series/2/instances", "search"),
        ("POST", "dicomStores/s/dicomWeb/studies", "store"),
        ("POST", "dicomStores/s/dicomWeb/studies/1", "store"),
        ("GET", "dicomStores/s/dicomWeb/studies/1", "retrieve"),
        ("GET", "dicomStores/s/dicomWeb/studies/1/series/2/instances/3/metadata", "retrieve"),
        ("DELETE", "dicomStores/s/dicomWeb/studies/1", "delete"),
        ("POST", "dicomStores/s:import", "dicomStores.import"),
        (
            "GET",
            "dicomStores/s/dicomWeb/studies/1:getStudyMetrics",
            "dicomStores.dicomWeb.studies.getStudyMetrics",
        ),
    ],
)
def test_routes(verb: str, path: str, name: str) -> None:
    target = routes.find(verb, f"/v1/projects/p/locations/l/datasets/d/{path}")
    assert target is not None
    assert target.route.name == name


def test_no_route() -> None:
    assert routes.find("GET", "/v1/projects/p") is None
    assert routes.find("PUT", "/v1/projects/p/locations/l/datasets/d/dicomStores/s") is None


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"status": 200},
        {"status": 600},
        {"retry_after": 3, "latency_seconds": 1},
        {"status": 503, "retry_after": -1},
        {"status": 503, "retry_after": "soon"},
        {"status": 503, "share": 0},
        {"status": 503, "share": 1.5},
        {"status": 503, "count": 0},
        {"body": "long"},
        {"hold_seconds": 0},
        {"resource": "datasets/d/"},
        {"reset": "sometimes"},
    ],
)
def test_faults_that_make_no_sense(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate({"route": "export", **fault})


PATH = "/v1/projects/p/locations/l/datasets/d/dicomStores/s:export"


def test_the_first_fault_that_fires() -> None:
    faults = Faults()
    faults.add(Fault(route="export", status=500, count=2))
    faults.add(Fault(route="*", status=503))
    drawn = [faults.draw(route, PATH) for route in ("export", "metrics", "export", "export")]
    assert [fault and fault.status for fault in drawn] == [500, 503, 500, 503]
    assert [report.fired for report in faults.report()] == [2, 2]
    faults.clear()
    assert faults.draw("export", PATH) is None


def test_a_fault_of_one_dataset_only() -> None:
    faults = Faults()
    ours = faults.add(Fault(route="export", resource="datasets/d/", status=500))
    other = PATH.replace("datasets/d/", "datasets/d2/")
    assert faults.draw("export", other) is None
    assert faults.draw("export", PATH) is not None
    faults.add(Fault(route="export", status=503))
    faults.remove(ours)
    faults.remove(ours)
    drawn = faults.draw("export", PATH)
    assert drawn is not None
    assert drawn.status == 503


PERSON = [{"Alphabetic": "Müller^Eva", "Ideographic": "穆勒^伊娃"}]


@pytest.mark.parametrize(
    ("keyword", "wanted", "values", "matches"),
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
def test_matching(keyword: str, wanted: str, values: list[object], matches: bool) -> None:
    query = qido.parse("studies", [(keyword, wanted)])
    (tag,) = query.filters
    found = list(qido.run(query, [{tag: {"vr": "XX", "Value": values}}]))
    assert bool(found) is matches


def test_an_empty_filter_matches_everything() -> None:
    query = qido.parse("studies", [("PatientID", "")])
    assert len(list(qido.run(query, [{}, {"00100020": {"vr": "LO", "Value": ["a"]}}]))) == 2


def test_the_limit_ends_the_reading() -> None:
    def candidates() -> object:
        for _ in range(3):
            yield {}
        raise AssertionError("read too far")

    query = qido.parse("instances", [("limit", "2"), ("offset", "1")])
    assert len(list(qido.run(query, candidates()))) == 2  # type: ignore[arg-type]
