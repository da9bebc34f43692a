"""The log lines about a polled Operation."""

from __future__ import annotations

from airflow_provider_dicom.longrunning.polling import LineLimit
from tests.support.polled_operation import NAME, PolledOperation, running, unavailable


def test_log_gets_a_line_with_each_tenth_of_the_instances() -> None:
    polled = PolledOperation()
    polled.clock.seconds += 12
    polled.watch.record_response(running(pending=1000))
    (line,) = polled.log.infos
    assert "running for 12 s" in line
    assert "0 exported, 0 failed, 1000 pending" in line
    assert "0% done" in line
    assert f"Operation: {NAME}" in line
    for done in range(1, 1001):
        polled.clock.seconds += 0.1
        polled.watch.record_response(running(success=done, pending=1000 - done))
    assert len(polled.log.infos) == 11
    assert "500 exported, 0 failed, 500 pending, 50% done" in polled.log.infos[5]
    assert "100% done" in polled.log.infos[-1]


def test_many_operations_share_the_lines_about_progress_and_get_all_that_matter() -> None:
    limit = LineLimit()
    operations = [PolledOperation(line_limit=limit) for _ in range(500)]
    for done in range(0, 100, 10):
        for polled in operations:
            polled.watch.record_response(running(success=done, pending=100 - done))
            polled.clock.seconds += 15
    lines = [line for polled in operations for line in polled.log.infos]
    # Sixty at once, and one a second for 150 seconds.
    assert 190 <= len(lines) <= 210
    for polled in operations:
        polled.watch.record_error(unavailable())
        polled.watch.record_response(running(success=95, failure=1, pending=4))
        assert "503" in polled.log.warnings[0]
        assert any("answers again" in line for line in polled.log.infos)
        assert "The first 1 of 100 instances have failed" in polled.log.warnings[-1]
        polled.clock.seconds += 600
        polled.watch.record_response(running(success=95, failure=1, pending=4))
        assert "Export running for 750 s" in polled.log.infos[-1]


def test_log_counts_a_tenth_of_few_instances_as_one_instance() -> None:
    polled = PolledOperation()
    for done in range(6):
        polled.watch.record_response(running(success=done, pending=5 - done))
    assert len(polled.log.infos) == 6


def test_log_gets_one_line_about_an_operation_without_counters() -> None:
    polled = PolledOperation()
    for _ in range(5):
        polled.watch.record_response({"name": NAME})
    (line,) = polled.log.infos
    assert "0 pending. Operation" in line


def test_log_gets_one_warning_about_the_first_failed_instances() -> None:
    polled = PolledOperation()
    polled.watch.record_response(running(success=10, pending=990))
    assert polled.log.warnings == []
    for failure in (2, 3):
        polled.watch.record_response(running(success=11, failure=failure, pending=989 - failure))
        (warning,) = polled.log.warnings
        assert "The first 2 of 1000 instances have failed" in warning
    assert len(polled.log.infos) == 1


def test_log_gets_a_heartbeat_every_ten_minutes_while_the_counters_stand_still() -> None:
    polled = PolledOperation()
    polled.watch.record_response(running(success=1, pending=9))
    for beats in range(1, 4):
        polled.clock.seconds += 599.5
        polled.watch.record_response(running(success=1, pending=9))
        assert len(polled.log.infos) == beats
        polled.clock.seconds += 0.5
        polled.watch.record_response(running(success=1, pending=9))
        assert len(polled.log.infos) == beats + 1
    assert polled.log.warnings == []


def test_log_gets_a_warning_when_polls_begin_to_fail_and_every_ten_minutes_from_then_on() -> None:
    polled = PolledOperation(timeout=100_000)
    polled.watch.record_response(running(pending=5))
    polled.clock.seconds += 500
    polled.watch.record_error(unavailable())
    polled.watch.record_error(unavailable())
    assert polled.log.warnings == ["Could not get: 503. The export itself goes on; polling continues."]
    polled.clock.seconds += 599.5
    polled.watch.record_error(unavailable())
    assert len(polled.log.warnings) == 1
    polled.clock.seconds += 0.5
    polled.watch.record_error(unavailable())
    assert len(polled.log.warnings) == 2


def test_log_gets_a_line_when_polls_succeed_again() -> None:
    polled = PolledOperation()
    polled.watch.record_response(running(pending=5))
    for _ in range(2):
        polled.clock.seconds += 30
        polled.watch.record_error(unavailable())
    polled.watch.record_response(running(pending=5))
    (line,) = [line for line in polled.log.infos if "answers again" in line]
    assert NAME in line
    assert "2 failed polls in 60 s" in line
    polled.watch.record_response(running(pending=5))
    polled.watch.record_error(unavailable())
    assert len(polled.log.infos) == 2
    assert len(polled.log.warnings) == 2
