"""The tables of the documentation about parameters, compared with the code."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.validation import Kind
from rig.servers import ROOT
from tests.support.parameter_table import OPERATORS, TITLES, kind_table
from tests.support.rendering import dag, render
from tests.unit.operators.test_parameters import VALID

PAGE = (ROOT / "docs" / "how-to" / "parameters.md").read_text()
BEHAVIOUR = {
    cells[0]: cells[1:]
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("| ").split(" | ")]) == 4
    and cells[0] in TITLES.values()
}
NOTHING: Any = None


def test_table_of_the_documentation_lists_every_parameter_with_its_kind() -> None:
    assert kind_table() in PAGE, f"docs/how-to/parameters.md needs this table:\n{kind_table()}"


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_every_parameter_has_a_kind(operator: Any) -> None:
    parameters = inspect.signature(inspect.unwrap(operator.__init__)).parameters
    named = {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    assert set(operator.PARAMETERS) == named


def outcome(operator: Any, name: str, *, mapped: bool) -> str:
    try:
        with dag():
            if mapped:
                arguments = {key: value for key, value in VALID[operator].items() if key != name}
                task = render(
                    operator.partial(task_id="task", **arguments).expand(**{name: [NOTHING]}), map_index=0
                )
            else:
                task = render(operator(task_id="task", **(VALID[operator] | {name: NOTHING})))
        if errors := list(task._validation_errors(frozenset())):
            raise DicomExportInvalidRequestError(" ".join(errors))
    except DicomExportInvalidRequestError as error:
        return "refused" if f"{name}=" in str(error) or f"{name} is" in str(error) else str(error)
    return "as if left out"


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_every_parameter_behaves_as_the_table_says(kind: Kind) -> None:
    _, literal, elsewhere = BEHAVIOUR[TITLES[kind]]
    for operator in OPERATORS:
        for name in (name for name, its_kind in operator.PARAMETERS.items() if its_kind is kind):
            assert outcome(operator, name, mapped=False) == literal, name
            assert outcome(operator, name, mapped=True) == elsewhere, name
