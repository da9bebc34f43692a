"""The table of scenarios and outcomes that a complete run writes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, NamedTuple

import pytest

from rig.servers import ROOT
from tests.support import distribution

TABLE = ROOT / "docs" / "chaos.md"
_PROPERTY = "scenario"
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
        chosen = config.option.keyword or config.option.markexpr or config.getoption("lf", default=False)
        is_controller = distribution.worker_id(config) is None
        self._is_whole_suite = is_controller and arguments == {"tests/chaos"} and not chosen
        self._rows: dict[int, Row] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Give each scenario its place and its description, which travel with its reports."""
        for place, item in enumerate(items):
            if (marker := item.get_closest_marker("scenario")) is not None:
                item.user_properties.append((_PROPERTY, (place, *marker.args)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the outcome of a scenario."""
        scenario: Any = dict(report.user_properties).get(_PROPERTY)
        if report.when == "call" and scenario is not None:
            place, failure, expected = scenario
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            outcome = "as expected" if report.passed else f"**{report.outcome}**"
            self._rows[place] = Row(name, failure, expected, outcome, report.duration)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the table if the whole suite has run to its end."""
        if not self._is_whole_suite or exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        rows = [self._rows[place] for place in sorted(self._rows)]
        as_expected = sum(row.outcome == "as expected" for row in rows)
        airflow = version("apache-airflow")
        total = f"{as_expected} of {len(rows)} tests ended as expected."
        lines = [
            f"| {row.name} | {row.failure} | {row.expected} | {row.outcome} | {row.seconds:.0f} "
            f"| {airflow} |\n"
            for row in rows
        ]
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(_HEAD.format(airflow=airflow, total=total) + "".join(lines))
