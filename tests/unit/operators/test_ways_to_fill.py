"""Each row of the documentation's tables about the ways to fill a parameter, and about a search's filters."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, XComArg

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.selection.search_filters import search_queries
from rig.servers import ROOT
from tests.support.rendering import UpstreamTask, dag, render
from tests.unit.operators.test_parameters import build

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (ROOT / "docs" / "how-to" / "parameters.md").read_text()
REFUSED, SKIPPED = "refused", "skipped"


def rows(heading: str) -> list[tuple[str, str]]:
    """Return the rows of the table below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [(row[0], row[1]) for row in cells[2:]]


def filled(value: object, *, name: str = "dataset_id", native: bool = False, **variables: Any) -> object:
    """Return what an export's parameter holds when the task runs."""
    output = variables.pop("output", None)
    try:
        with dag(render_template_as_native_obj=native):
            if output is not None:
                value = XComArg(UpstreamTask(task_id="upstream"))
            task = render(
                build(DicomStoreExportOperator, **{name: value}), xcoms={"upstream": output}, **variables
            )
        errors = list(task._validation_errors(frozenset()))
    except DicomExportInvalidRequestError as error:
        errors = [str(error)]
    if errors:
        assert all(name in sentence for sentence in errors), errors
        return REFUSED
    return getattr(task, name)


def storage_path() -> object:
    sdk = pytest.importorskip("airflow.sdk")
    return sdk.ObjectStoragePath("gs://bucket/f.txt")


#: By a row's first cell: its second cell, and what is filled with what.
WAYS: dict[str, tuple[str, Callable[[], list[tuple[object, object]]]]] = {
    "a function, `lambda context, jinja_env: ...`": (
        "what it returns when the task runs",
        lambda: [(filled(lambda context, jinja_env: context["x"], x="ct"), "ct")],
    ),
    "`ObjectStoragePath`": (
        "its URI",
        lambda: [(filled(storage_path(), name="filter_uri"), "gs://bucket/f.txt")],
    ),
    "a whole number": ("its digits", lambda: [(filled(20260329), "20260329"), (filled("", output=7), "7")]),
    "a text in a DAG with `render_template_as_native_obj=True`": (
        "the same text: `1.10` stays `1.10`, and `20260329` a text",
        lambda: [(filled("{{ x }}", native=True, x=text), text) for text in ("1.10", "20260329", "2E3")],
    ),
    'an object in such a DAG, such as `"{{ params.paths }}"`': (
        "the object",
        lambda: [
            (
                filled("{{ params.paths }}", name="resource_paths", native=True, params={"paths": paths}),
                paths,
            )
            for paths in (["/studies/1"], ["/studies/1", "/studies/2"])
        ],
    ),
    'a text for a flag, such as `"False"` or `"{{ params.flag }}"`': (
        "refused: flags are not templated",
        lambda: [
            (filled(text, name=name), REFUSED)
            for text in ("False", "{{ params.flag }}")
            for name in ("deferrable", "durable", "cancel_on_kill", "wait_for_completion")
        ],
    ),
    "a value of another task, with `{{`, `{%` or `{#` in it": (
        "refused: it is data, and is never rendered",
        lambda: [(filled("", output=f"ct{sign}"), REFUSED) for sign in ("{{ x }}", "{% x %}", "{# x #}")],
    ),
}


def sent(value: object, *, name: str = "PatientID", **variables: Any) -> object:
    """Return the text with which a search compares an attribute; the texts of several searches."""
    with dag():
        try:
            task = render(build(DicomStoreSearchOperator, filters={name: value}), **variables)
            queries = list(search_queries(task.filters.reveal()))
        except DicomExportInvalidRequestError:
            return REFUSED
        except AirflowSkipException:
            return SKIPPED
    texts = [text for ((attribute, text),) in queries if attribute == name]
    assert len(texts) == len(queries)
    return texts[0] if len(texts) == 1 else texts


FILTERS: dict[str, tuple[str, Callable[[], list[tuple[object, object]]]]] = {
    "a text": ("the same text", lambda: [(sent("1.10"), "1.10"), (sent("{{ x }}", x="007"), "007")]),
    "a whole number": ("its digits", lambda: [(sent(42), "42")]),
    "a date, or a time for an attribute that is not a DICOM time": (
        "`YYYYMMDD`",
        lambda: [
            (sent(dt.date(2026, 3, 29), name="StudyDate"), "20260329"),
            (sent(dt.datetime(2026, 3, 29, tzinfo=dt.UTC), name="StudyDate"), "20260329"),
            (sent(dt.datetime(2026, 3, 29, tzinfo=dt.UTC), name="StudyTime"), REFUSED),
        ],
    ),
    "a list of UIDs, for an attribute that is a UID": (
        "one UID after another, in searches of their own, because the API compares with one",
        lambda: [
            (sent(["1.2", "1.3"], name="StudyInstanceUID"), ["1.2", "1.3"]),
            (sent(["1.2", "1.3"]), REFUSED),
        ],
    ),
    "an empty list": ("nothing: the task is skipped", lambda: [(sent([], name="StudyInstanceUID"), SKIPPED)]),
    "`*`": ("everything, on purpose", lambda: [(sent("*"), "*"), (sent("*", name="StudyDate"), "*")]),
    "nothing, or a template of which a part is nothing, such as `{{ params.name }}*`": (
        "refused",
        lambda: [
            *[(sent(value), REFUSED) for value in (None, "", " ", "None")],
            *[(sent("{{ params.name }}*", params={"name": name}), REFUSED) for name in (None, "", " ")],
        ],
    ),
    "a text that limits nothing, such as `**`, `?` or `-`": (
        "refused",
        lambda: [(sent(value), REFUSED) for value in ("**", "?", "-", "^", " * ")],
    ),
    "a date of another form, such as `{{ ds }}`": (
        "refused: `{{ ds_nodash }}` is a DICOM date",
        lambda: [
            (sent("{{ ds }}", name="StudyDate", ds="2026-03-29"), REFUSED),
            (sent("{{ ds_nodash }}", name="StudyDate", ds_nodash="20260329"), "20260329"),
        ],
    ),
    "`True`, `False`, other numbers, other objects": (
        "refused",
        lambda: [(sent(value), REFUSED) for value in (True, False, 1.5, b"1", object(), {"a": 1})],
    ),
}


TABLES = {"Ways to fill a parameter": WAYS, "Filters of a search": FILTERS}


@pytest.mark.parametrize("heading", TABLES)
def test_every_row_about_filling_parameters_is_tested(heading: str) -> None:
    assert dict(rows(heading)) == {title: promise for title, (promise, _) in TABLES[heading].items()}


@pytest.mark.parametrize(
    "outcomes",
    [pytest.param(case[1], id=title) for cases in TABLES.values() for title, case in cases.items()],
)
def test_row_about_filling_parameters_is_true(outcomes: Callable[[], list[tuple[object, object]]]) -> None:
    for got, expected in outcomes():
        assert got == expected
