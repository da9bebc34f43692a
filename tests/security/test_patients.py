"""No patient's name or birth date gets into logs, errors, Airflow's database or pages, or OpenLineage."""

from __future__ import annotations

import json
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, XComArg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportError, DicomExportInvalidRequestError
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.selection.filter_file import read_filter
from tests.support.echoing_server import ANSWERS, EchoingServer
from tests.support.rendering import UpstreamTask, dag, render

if TYPE_CHECKING:
    from rig.servers import StorageEmulator
    from tests.support.provider_fixtures import Connect

pytestmark = pytest.mark.usefixtures("quick")
#: Parts of values that name a patient; nothing that anybody can read may hold one.
CANARIES = ("Zanzibar", "19620229", "MRN-4711")
FILTERS = {"PatientName": "Zanzibar^Zoe", "PatientBirthDate": "19620229", "PatientID": "MRN-4711"}
STORE: dict[str, Any] = {
    "task_id": "search",
    "location": "l",
    "dataset_id": "d",
    "dicom_store_id": "s",
    "filter_uri": "gs://bucket/f.txt",
}


def leaks(text: object) -> list[str]:
    return [canary for canary in CANARIES if canary in str(text)]


def texts_of(caplog: pytest.LogCaptureFixture) -> str:
    """Return all log lines as a handler writes them, and what is attached to them."""
    formatter = logging.Formatter("%(name)s %(message)s")
    return "\n".join(f"{formatter.format(record)} {vars(record)}" for record in caplog.records)


def search(**changes: Any) -> DicomStoreSearchOperator:
    return DicomStoreSearchOperator(**(STORE | {"filters": FILTERS} | changes))


@pytest.fixture
def everything_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """All lines of all loggers; google-auth logs its requests as well."""
    monkeypatch.setenv("GOOGLE_SDK_PYTHON_LOGGING_SCOPE", "google")
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "google", "google.auth", "requests", "airflow"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


# urllib3 leaves the socket of a broken answer to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("credentials", ["anonymous", "keyfile"])
def test_answer_that_echoes_a_search_is_not_repeated_in_errors_and_logs(
    answer: str,
    credentials: str,
    connect: Connect,
    request: pytest.FixtureRequest,
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    connection = request.getfixturevalue(credentials)
    with EchoingServer(answer) as server:
        task = search(gcp_conn_id=connection, api_endpoint=server.url, project_id="p")
        with pytest.raises((DicomExportError, AirflowSkipException)) as error:
            task.execute({})
    shown = "".join(traceback.format_exception(error.value))
    assert not leaks(shown)
    logged = texts_of(everything_logged)
    assert not leaks(logged)
    if answer == "page":
        # The library did log the request.
        assert '/dicomWeb/... HTTP/1.1" 502' in logged


def test_search_without_a_server_does_not_quote_its_values(
    anonymous: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    with EchoingServer("hang-up") as server:
        url = server.url
    with pytest.raises(DicomExportError) as error:
        search(gcp_conn_id=anonymous, api_endpoint=url).execute({})
    assert not leaks("".join(traceback.format_exception(error.value)))
    assert not leaks(texts_of(everything_logged))


def tasks_with_filters() -> list[Any]:
    """Return tasks that get their filters in all ways, as the worker executes them."""
    values = dict(FILTERS)
    arguments = {name: value for name, value in STORE.items() if name != "task_id"}
    with dag("private"):
        upstream = UpstreamTask(task_id="upstream")
        literal = DicomStoreSearchOperator(task_id="literal", **arguments, filters=values)
        rendered = DicomStoreSearchOperator(
            task_id="rendered", **arguments, filters={"PatientName": "{{ x }}"}
        )
        output: Any = search(task_id="output", filters=XComArg(upstream))
        partial = DicomStoreSearchOperator.partial(task_id="partial", filters=values, level="series")
        mapped = partial.expand_kwargs([arguments])
        expanded = DicomStoreSearchOperator.partial(task_id="expanded", **arguments).expand(
            filters=[values, {"PatientName": "{{ x }}"}]
        )
        in_kwargs = DicomStoreSearchOperator.partial(task_id="in_kwargs").expand_kwargs(
            [{**arguments, "filters": values}]
        )
    return [literal, rendered, output, mapped, expanded, in_kwargs]


def test_stored_dag_holds_no_values_of_filters() -> None:
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization  # type: ignore
    stored = json.dumps(Serialization.to_dict(tasks_with_filters()[0].dag))
    assert "of private values: PatientName" in stored
    assert not leaks(stored)


def test_rendered_fields_and_openlineage_show_no_values_of_filters() -> None:
    from airflow.providers.openlineage.utils.utils import TaskInfoComplete
    from airflow.serialization.helpers import serialize_template_field

    for task in tasks_with_filters():
        executed = render(task, map_index=0, x="Zanzibar^Zoe", xcoms={"upstream": FILTERS})
        shown = [serialize_template_field(getattr(executed, name), name) for name in executed.template_fields]
        assert "of private values: PatientName" in str(shown)
        assert not leaks(shown)
        assert not leaks(repr(dict(TaskInfoComplete(executed))))
        assert not leaks(vars(executed))


def test_template_that_cannot_be_rendered_logs_no_values(everything_logged: pytest.LogCaptureFixture) -> None:
    with dag("broken"):
        task = search(filters={**FILTERS, "StudyDate": "{{ no.such.variable }}"})
    with pytest.raises(Exception, match="no") as error:
        render(task)
    assert not leaks("".join(traceback.format_exception(error.value)))
    assert not leaks(texts_of(everything_logged))


@pytest.mark.parametrize(
    "value",
    ["", None, True, 1.5, b"Zanzibar", {"Zanzibar": 1}, ["Zanzibar"], "{{ Zanzibar", "None", "-", "**"],
    ids=repr,
)
def test_refused_filter_names_the_attribute_and_not_the_value(value: object) -> None:
    with dag("refused"):
        task = search(filters={**FILTERS, "PatientComments": XComArg(UpstreamTask(task_id="upstream"))})
    with pytest.raises(DicomExportInvalidRequestError, match=r"filters\['PatientComments'\]") as error:
        render(task, xcoms={"upstream": value}).execute({})
    assert not leaks(error.value)


@given(
    st.one_of(st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.text()), st.binary(), st.floats())
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_is_quoted_whatever_its_type(value: Any) -> None:
    marked: Any = f"{value}Zanzibar" if isinstance(value, str) else [value, "Zanzibar"]
    for filters in (marked, {"StudyDate": marked}, {"StudyInstanceUID": marked}, {f"?{marked}": 1}):
        with pytest.raises(DicomExportInvalidRequestError) as error:
            search(filters=filters)
        assert not leaks(error.value)


def test_refused_resource_paths_are_not_quoted() -> None:
    export = {name: value for name, value in STORE.items() if name != "task_id"}
    for paths in (["/studies/1.2", "Zanzibar^Zoe"], "Zanzibar^Zoe", {"Zanzibar": 1}, [{"Zanzibar": 1}]):
        with pytest.raises(DicomExportInvalidRequestError, match="resource_paths") as error:
            DicomStoreExportOperator(
                task_id="export",
                **export,
                destination="gs://bucket/night/",
                resource_paths=paths,  # type: ignore[arg-type]
            )
        assert not leaks(error.value)


def test_refused_line_of_a_filter_file_is_not_quoted(
    anonymous: str, bucket: str, storage: StorageEmulator
) -> None:
    storage.write(bucket, "names.txt", b"/studies/1.2\nZanzibar^Zoe,19620229\n" * 100)
    with pytest.raises(DicomExportInvalidRequestError, match="holds in line 2 a text of 21 bytes") as error:
        list(read_filter(f"gs://{bucket}/names.txt", gcp_conn_id=anonymous, impersonation_chain=None))
    assert not leaks(error.value)
    assert len(str(error.value)) < 300
