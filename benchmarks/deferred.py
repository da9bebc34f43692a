"""Deferred tasks in Airflow's database: puts them there, and reads what became of them.

``python -m benchmarks.deferred put`` and ``... read`` get JSON from standard input, run in the environment of
the triggerer, and write JSON in the last line of standard output.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import BY_KEY, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

DAG_ID, TASK_ID, BUNDLE = "benchmark", "export", "benchmark"


def _write_dag(session: Session) -> Any:
    """Return the version of the DAG, which the first call writes."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    if (version := DagVersion.get_latest_version(DAG_ID, session=session)) is not None:
        return version
    with DAG(DAG_ID, schedule=None) as dag:
        EmptyOperator(task_id=TASK_ID)
    session.add(DagBundleModel(name=BUNDLE))
    session.flush()
    lazy = LazyDeserializedDAG.from_dag(dag)
    SerializedDAG.bulk_write_to_db(BUNDLE, None, [lazy], session=session)
    SerializedDagModel.write_dag(lazy, bundle_name=BUNDLE, session=session)
    session.flush()
    return DagVersion.get_latest_version(DAG_ID, session=session)


def put(contestant: str, run_id: str, start: float, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Put a run of deferred tasks into the database, one task for each job.

    :param contestant: the contestant's key.
    :param run_id: the id of the run.
    :param start: when the triggerer may find the tasks, in the clock of ``time.monotonic``.
    :param jobs: the jobs.
    """
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    now = datetime.now(UTC)
    with create_session() as session:
        version = _write_dag(session)
        dag: Any = SerializedDagModel.get_dag(DAG_ID, session=session)
        dag.create_dagrun(
            run_id=run_id,
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            start_date=now,
            session=session,
        )
        # The task instance of the run itself has no map index; each job has its own.
        for instance in session.query(TaskInstance).filter_by(dag_id=DAG_ID, run_id=run_id):
            session.delete(instance)
        triggers = [
            Trigger(*BY_KEY[contestant].make(Job(**job)).serialize(), created_date=now) for job in jobs
        ]
        session.add_all(triggers)
        session.flush()
        for job, trigger in zip(jobs, triggers, strict=True):
            instance = TaskInstance(
                dag.get_task(TASK_ID), version.id, run_id=run_id, state="deferred", map_index=job["number"]
            )
            instance.try_number, instance.start_date = 1, now
            instance.next_method, instance.trigger_id = "execute_complete", trigger.id
            session.add(instance)
        session.flush()
        late = time.monotonic() - start
        time.sleep(max(0.0, -late))
    return {"late": late}


def read(run_id: str) -> dict[str, Any]:
    """
    Read the tasks of a run: by number, when Airflow scheduled the task again, and the event.

    :param run_id: the id of the run.
    """
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk.serde import deserialize
    from airflow.utils.session import create_session

    offset = time.time() - time.monotonic()
    found = {}
    with create_session() as session:
        for task in session.query(TaskInstance).filter_by(dag_id=DAG_ID, run_id=run_id):
            if task.state == "scheduled" and task.scheduled_dttm is not None:
                kwargs: Any = deserialize(task.next_kwargs)
                found[task.map_index] = (
                    task.scheduled_dttm.timestamp() - offset,
                    kwargs.get("event", kwargs),
                )
    return {"scheduled": found}


def main() -> None:
    """Do what the command line asks for."""
    output, sys.stdout = sys.stdout, sys.stderr
    arguments = json.load(sys.stdin)
    result = put(**arguments) if sys.argv[1] == "put" else read(**arguments)
    print(json.dumps(result, default=str), file=output)


if __name__ == "__main__":
    main()
