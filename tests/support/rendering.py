"""Tasks as a worker gets them: built for their map index, and rendered by Airflow."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.providers.common.compat.sdk import DAG, BaseOperator

from rig.releases import chosen_release

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


class UpstreamTask(BaseOperator):
    """A task whose outputs other tasks use."""

    def execute(self, context: Any) -> None:
        """Do nothing."""


def dag(dag_id: str = "rendered", **arguments: Any) -> DAG:
    """Build a DAG without a schedule."""
    return DAG(dag_id, schedule=None, **arguments)


def render(
    task: Any, *, xcoms: Mapping[str, object] | None = None, map_index: int = -1, **variables: object
) -> Any:
    """
    Return the task that a worker executes.

    :param task: an ordinary or a mapped task of a DAG.
    :param xcoms: the return values of other tasks, by task; tasks that are not there were skipped or cleared.
    :param map_index: the index of a mapped task.
    :param variables: further variables of the templates.
    """
    outputs = xcoms or {}

    def xcom_pull(task_ids: Any = None, key: str = "return_value", default: Any = None, **_: Any) -> Any:
        if task_ids not in outputs:
            return default
        output: Any = outputs[task_ids]
        return output if key == "return_value" else output[key]

    ti = SimpleNamespace(
        map_index=map_index,
        xcom_pull=xcom_pull,
        task=task,
        dag_id="rendered",
        _upstream_map_indexes={},
        # Airflow 2 asks the task instance itself.
        get_relevant_upstream_map_indexes=lambda *_, **__: None,
    )
    context: dict[str, Any] = {
        "ti": ti,
        "task_instance": ti,
        "task": task,
        "dag": task.dag,
        "dag_run": SimpleNamespace(conf={}),
        "params": {},
        "run_id": "rendered",
        "expanded_ti_count": None,
        **variables,
    }
    with _lengths_of(outputs):
        task.render_template_fields(context)
    return context["task"]


def _lengths_of(outputs: Mapping[str, Any]) -> AbstractContextManager[object]:
    """Stand in for Airflow 2's database, which knows the lengths of outputs over which tasks are mapped."""
    if not chosen_release().is_second:
        return nullcontext()
    return mock.patch(
        "airflow.models.xcom_arg._get_task_map_length", lambda *, task_id, **_: len(outputs[task_id])
    )
