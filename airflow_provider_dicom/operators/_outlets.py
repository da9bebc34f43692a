"""What the events of a task's asset outlets carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from airflow.providers.common.compat.sdk import Asset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.providers.common.compat.sdk import Context
    from pydantic import JsonValue


def note_on_outlets(context: Context, outlets: Iterable[object], extra: Mapping[str, object]) -> None:
    """
    Put a result on the event of every asset that the task updates.

    Airflow forgets what was noted before a deferral: this has to be called in the process that ends the task.

    :param context: the task's context.
    :param outlets: the task's outlets.
    :param extra: the result.
    """
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(cast("dict[str, JsonValue]", extra))
