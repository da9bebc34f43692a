"""The table of scenarios and outcomes that a complete run writes."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from rig.servers import ROOT

if TYPE_CHECKING:
    import pytest

TABLE = ROOT / "docs" / "chaos.md"
_HEAD = """# Failure tests and their results

`make test-chaos` writes this page. It injects failures around running exports of a real Airflow {airflow}
(PostgreSQL, Redis, two Celery workers and two triggerers) against the local Healthcare API. Each test
asserts the task's final state and its result, the number of exports that the API accepted, how they ended,
and the content of the destination. {total}

| test | injected failure | expected | outcome | seconds | Airflow |
| --- | --- | --- | --- | --- | --- |
"""


class Row(NamedTuple):
    """One scenario."""

    name: str
    failure: str
    expected: str
    outcome: str
    seconds: float


class Table:
    """A plugin of pytest that collects the outcomes.

    :param config: configuration of pytest, which shows whether all scenarios run.
    """

    def __init__(self, config: pytest.Config) -> None:
        arguments = {str(argument).rstrip("/") for argument in config.args}
        chosen = config.option.keyword or config.option.markexpr or config.option.lf
        self._is_complete = arguments == {"tests/chaos"} and not chosen
        self._described: dict[str, tuple[str, str]] = {}
        self._rows: list[Row] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Collect the descriptions of the scenarios."""
        for item in items:
            if (marker := item.get_closest_marker("scenario")) is not None:
                failure, expected = marker.args
                self._described[item.nodeid] = (failure, expected)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the outcome of a scenario."""
        if report.when == "call" and report.nodeid in self._described:
            failure, expected = self._described[report.nodeid]
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            outcome = "as expected" if report.passed else f"**{report.outcome}**"
            self._rows.append(Row(name, failure, expected, outcome, report.duration))

    def pytest_sessionfinish(self) -> None:
        """Write the table if all scenarios have an outcome."""
        if not self._is_complete or len(self._rows) < len(self._described):
            return
        as_expected = sum(row.outcome == "as expected" for row in self._rows)
        airflow = version("apache-airflow")
        total = f"{as_expected} of {len(self._rows)} tests ended as expected."
        lines = [
            f"| {row.name} | {row.failure} | {row.expected} | {row.outcome} | {row.seconds:.0f} "
            f"| {airflow} |\n"
            for row in self._rows
        ]
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(_HEAD.format(airflow=airflow, total=total) + "".join(lines))
