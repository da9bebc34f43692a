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
from benchmarks.contestants import Job
from benchmarks.results import Results
from benchmarks.server import Apis, Plan, operation_name
from benchmarks.targets import verdicts
from benchmarks.triggerer import compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


def results(*contests: dict[str, Any], triggerers: Iterable[dict[str, Any]] = ()) -> Results:
    versions, imports = {"package": "1.0"}, {"DICOM store": 0.01, "Peer": 0.2}
    return Results(
        5, 60.0, "2 CPUs", versions, list(contests), imports,
        triggerers=list(triggerers), triggerer_interval=30, triggerer_duration=150.0,
    )  # fmt: skip


def in_triggerer(contestant: str, supervisor: float, size: int = 1000, **numbers: Any) -> dict[str, Any]:
    return {
        "contestant": contestant,
        "size": size,
        "supervisor": supervisor,
        "runner": 1.0,
        "database": 1.0,
        "requests": 10,
        "xcoms": 20,
        "log": 2**20,
        "memory": 2048.0,
        "delay_median": 15.0,
        "delay_max": 31.0,
        "lost": 0,
        "mistakes": [],
    } | numbers


IN_TRIGGERER = (
    in_triggerer("sleeping", 6.0),
    in_triggerer("databricks", 25.0),
    in_triggerer("one_dataset", 11.0),
    in_triggerer("list_forbidden", 12.0),
)


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


def test_good_run_in_a_triggerer_reaches_every_target() -> None:
    judged = verdicts(results(triggerers=IN_TRIGGERER))
    assert len([verdict for verdict in judged if "in a triggerer" in verdict.target]) == 9
    assert [verdict for verdict in judged if not verdict.reached] == []


@pytest.mark.parametrize(
    ("index", "worse", "target"),
    [
        (2, {"runner": 5.0}, "one dataset: CPU in all, of the sleeping floor's"),
        (3, {"database": 9.0}, "list forbidden: CPU in all, of the sleeping floor's"),
        (3, {"runner": 6.0}, "of Databricks'"),
        (2, {"supervisor": 12.1}, "one dataset: supervisor's CPU"),
        (3, {"delay_max": 62.1}, "list forbidden: delay until scheduled"),
        (2, {"log": 2.1 * 2**20}, "one dataset: log lines"),
    ],
)
def test_worse_run_in_a_triggerer_misses_its_target(index: int, worse: dict[str, Any], target: str) -> None:
    rows = [row | (worse if place == index else {}) for place, row in enumerate(IN_TRIGGERER)]
    missed = [verdict.target for verdict in verdicts(results(triggerers=rows)) if not verdict.reached]
    assert any(target in name for name in missed)


def test_event_lost_in_a_triggerer_fails_the_benchmark() -> None:
    lost = in_triggerer("one_dataset", 11.0, mistakes=["operation 1: no event"], lost=1)
    assert results(triggerers=[lost]).failures() == ["DICOM, one dataset, 1,000: operation 1: no event"]


def test_missing_wrong_and_early_events_of_a_triggerer_are_mistakes() -> None:
    jobs = [Job(number, 100.0, 30, "url") for number in (1, 2, 3, 4, 10)]
    right = {"number": "1", "failed": False}
    scheduled = {
        "1": [131.5, right],
        "2": [101.0, right],
        "3": [99.0, {"number": "3", "failed": False}],
        "10": [105.0, {"number": "10", "failed": True}],
    }
    delays, mistakes = compare({"scheduled": scheduled}, jobs, "sleeping")
    assert delays == [31.5, 5.0]
    assert [mistake.partition(" {")[0] for mistake in mistakes] == [
        "operation 2: wrong event",
        "operation 3: event 1.000 s before its end",
        "operation 4: no event",
    ]


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


@pytest.mark.parametrize("number", range(4), ids=["contests", "triggerer", "startup", "targets"])
def test_terminal_shows_every_section_of_the_performance_page(number: int) -> None:
    run = results(*GOOD, triggerers=IN_TRIGGERER)
    section = report.sections(run, verdicts(run))[number]
    assert section.terminal().row_count == len(section.rows) > 0
    assert f"## {section.title}\n" in report.page_section(run, verdicts(run))


def test_benchmark_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = results(*GOOD)
    run.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == run
