"""Writes export tasks straight into Airflow's database, as a program with the settings of that Airflow.

Its input is a JSON list of tasks: ``dag_id``, ``run_id``, ``state``, ``start_date``, ``end_date``,
``map_index``, ``fields`` (rendered fields) and ``xcoms`` (values by key).
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

OPERATOR, BUNDLE, TASK = "DicomStoreExportOperator", "stored", "export"


def main(tasks: list[dict[str, Any]]) -> None:
    """Write the tasks."""
    from airflow.models import DagModel, DagRun, TaskInstance
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    dags = {task["dag_id"] for task in tasks}
    runs = {(task["dag_id"], task["run_id"]): number for number, task in enumerate(tasks, start=1)}
    common = {
        "max_active_tasks": 1,
        "max_consecutive_failed_dag_runs": 0,
        "has_task_concurrency_limits": False,
    }
    rows: dict[Any, list[dict[str, Any]]] = {
        DagBundleModel: [{"name": BUNDLE, "active": True}],
        DagModel: [
            {"dag_id": dag_id, "bundle_name": BUNDLE, "is_stale": False, "timetable_type": "", **common}
            for dag_id in dags
        ],
        DagRun: [
            {
                "id": number,
                "dag_id": dag_id,
                "run_id": run_id,
                "run_type": "manual",
                "state": "running",
                "run_after": _time(tasks[number - 1].get("run_after")) or datetime.now(UTC),
            }
            for (dag_id, run_id), number in runs.items()
        ],
        TaskInstance: [_task_instance(task) for task in tasks],
        RenderedTaskInstanceFields: [
            {**_key(task), "rendered_fields": task["fields"]} for task in tasks if task.get("fields")
        ],
        XComModel: [
            {**_key(task), "dag_run_id": runs[task["dag_id"], task["run_id"]], "key": key, "value": value}
            for task in tasks
            for key, value in task.get("xcoms", {}).items()
        ],
    }
    with create_session() as session:
        for model, values in rows.items():
            if values:
                session.execute(model.__table__.insert(), values)


def _key(task: dict[str, Any]) -> dict[str, Any]:
    names = {"dag_id": task["dag_id"], "run_id": task["run_id"], "task_id": TASK}
    return names | {"map_index": task.get("map_index", -1)}


def _task_instance(task: dict[str, Any]) -> dict[str, Any]:
    start, end = _time(task.get("start_date")), _time(task.get("end_date"))
    return {
        **_key(task),
        "state": task["state"],
        "start_date": start,
        "end_date": end,
        "duration": (end - start).total_seconds() if start and end else None,
        "operator": task.get("operator", OPERATOR),
        "try_number": task.get("try_number", 1),
        "pool": "default_pool",
        "queue": "default",
        "executor_config": {},
    }


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


if __name__ == "__main__":
    main(json.load(sys.stdin))
