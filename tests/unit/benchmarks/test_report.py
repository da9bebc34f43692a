"""The benchmark can fail: it notices lost and wrong events, and targets that were missed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.emulator.exports.request import Export
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, Operation, State
from benchmarks import environment, report
from benchmarks.contest import Contest
from benchmarks.results import Results
from benchmarks.server import Apis, Plan, operation_name
from benchmarks.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    with environment.server() as url:
        yield url, environment.variables(url, tmp_path_factory.mktemp("airflow"))


def run_contest(server: tuple[str, dict[str, str]], sabotage: Any, grace: float) -> dict[str, Any]:
    url, env = server
    contest = Contest("one_dataset", 5, url, interval=1, duration=2.0, grace=grace, sabotage=sabotage)
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.contest"],
        input=json.dumps(asdict(contest)),
        env=env,
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    row: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return row


def test_contest_on_a_correct_server_loses_no_event(server: tuple[str, dict[str, str]]) -> None:
    row = run_contest(server, None, grace=120.0)
    assert row["lost"] == 0
    assert row["mistakes"] == []
    assert row["tokens"] == 1
    assert row["requests"] > 0
    assert row["cpu"] > 0
    assert row["delay_max"] >= row["delay_median"] > 0


@pytest.mark.parametrize(
    ("sabotage", "grace", "mistake"),
    [("lost", 3.0, "operation 1: no event"), ("wrong", 120.0, "operation 1: wrong event")],
)
def test_contest_that_loses_events_fails_the_benchmark(
    server: tuple[str, dict[str, str]], sabotage: str, grace: float, mistake: str
) -> None:
    row = run_contest(server, sabotage, grace)
    assert row["lost"] == 1
    assert row["mistakes"][0].startswith(mistake)
    assert Results(1, 2.0, contests=[row]).failures()


def emulator_operation(**state: Any) -> dict[str, Any]:
    operation = Operation(
        id=1,
        name=operation_name(1),
        method=EXPORT_METHOD,
        resource="projects/benchmark/locations/us-central1/datasets/one/dicomStores/store",
        request={},
        create_time="2026-01-02T02:00:00.000000Z",
        **state,
    )
    return json.loads(operation.encoded())  # type: ignore[no-any-return]


def shape(value: Any) -> Any:
    return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else type(value)


@pytest.mark.parametrize(
    ("number", "end", "state"),
    [
        (1, 1e12, {"state": State.RUNNING, "success": 1, "pending": 2}),
        (
            1,
            0.0,
            {
                "state": State.DONE,
                "success": 3,
                "end_time": "2026-01-02T03:00:00.000000Z",
                "response": {"@type": Export.response},
            },
        ),
        (
            10,
            0.0,
            {
                "state": State.DONE,
                "success": 3,
                "end_time": "2026-01-02T03:00:00.000000Z",
                "error": {"code": 13, "message": "broken"},
            },
        ),
    ],
    ids=["running", "ended", "failed"],
)
def test_the_servers_operations_look_like_the_emulators(number: int, end: float, state: Any) -> None:
    apis = Apis()
    apis.plan = Plan(start=-1e12, ends=[end] * 10)
    answer = json.loads(apis._operation(number, operation_name(number)))
    assert shape(answer) == shape(emulator_operation(**state))


def row(contestant: str, size: int = 1000, **numbers: Any) -> dict[str, Any]:
    return {
        "contestant": contestant,
        "size": size,
        "cpu": 1.0,
        "requests": 1,
        "connections": 1,
        "tokens": 1,
        "stall": 0.01,
        "collection": 0.01,
        "delay_median": 1.0,
        "delay_max": 5.0,
        "memory": 1024.0,
        "lost": 0,
        "mistakes": [],
    } | numbers


def results(*contests: dict[str, Any]) -> Results:
    return Results(5, 60.0, "2 CPUs", {"package": "1.0"}, list(contests), {"DICOM store": 0.01, "Peer": 0.2})


GOOD = (
    row("one_dataset", cpu=0.4),
    row("list_forbidden", cpu=2.0),
    row("one_dataset", 10_000, stall=0.05),
    row("databricks", cpu=5.0, requests=10_000, connections=1000),
    row("sleeping", cpu=0.2),
)


def test_good_benchmark_run_reaches_every_target() -> None:
    missed = [verdict for verdict in verdicts(results(*GOOD)) if not verdict.reached]
    assert missed == []


@pytest.mark.parametrize(
    ("index", "worse", "target"),
    [
        (0, {"cpu": 0.51}, "best peer's"),
        (0, {"cpu": 0.61}, "floor's"),
        (0, {"requests": 101}, "requests"),
        (0, {"connections": 11}, "connections"),
        (0, {"memory": 21 * 1024}, "memory"),
        (0, {"delay_max": 6.1}, "detection delay"),
        (1, {"cpu": 3.4}, "list forbidden: CPU"),
        (1, {"connections": 21}, "list forbidden: connections"),
        (2, {"stall": 0.11}, "loop stall"),
    ],
)
def test_worse_benchmark_run_misses_its_target(index: int, worse: dict[str, Any], target: str) -> None:
    contests = [contest | (worse if place == index else {}) for place, contest in enumerate(GOOD)]
    missed = [verdict.target for verdict in verdicts(results(*contests)) if not verdict.reached]
    assert any(target in name for name in missed)


def test_contestant_that_lost_events_is_not_compared_with() -> None:
    cheap = row("cloud_sql", cpu=0.1, mistakes=["operation 1: no event"], lost=1)
    assert all(verdict.reached for verdict in verdicts(results(*GOOD, cheap)))


def test_benchmark_section_is_written_between_the_markers_of_a_page(tmp_path: Path) -> None:
    run = results(*GOOD)
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.update_page(page, report.page_section(run, verdicts(run)))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| Databricks | 1,000 | 5.00 | 10,000 | 1,000 |" in text


def test_benchmark_section_written_twice_is_unchanged(tmp_path: Path) -> None:
    run = results(*GOOD)
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    report.update_page(page, report.page_section(run, verdicts(run)))
    once = page.read_text()
    report.update_page(page, report.page_section(run, verdicts(run)))
    assert page.read_text() == once


def test_readme_section_compares_with_the_best_other_provider() -> None:
    cheaper_but_lost_events = row("bigquery", cpu=0.1, requests=1, mistakes=["operation 1: no event"], lost=1)
    section = report.readme_section(
        results(*GOOD, cheaper_but_lost_events, row("cloud_sql", cpu=9.0, requests=50))
    )
    assert "| 0.40 | 5.00 (Databricks) | 1 : 12 |" in section
    assert "| 1 | 50 (Cloud SQL export) | 1 : 50 |" in section
    assert "| 10 | 200 (Peer) | 1 : 20 |" in section


def test_page_without_markers_gets_no_benchmark_section(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("mine")
    assert not report.update_page(page, "section")
    assert page.read_text() == "mine"


def test_missing_page_is_not_created_for_its_benchmark_section(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    assert not report.update_page(page, "section")
    assert not page.exists()


@pytest.mark.parametrize("number", range(3), ids=["contests", "startup", "targets"])
def test_terminal_shows_every_section_of_the_performance_page(number: int) -> None:
    run = results(*GOOD)
    section = report.sections(run, verdicts(run))[number]
    assert section.terminal().row_count == len(section.rows) > 0
    assert f"## {section.title}\n" in report.page_section(run, verdicts(run))


def test_benchmark_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = results(*GOOD)
    run.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == run
