"""The result of the demo: the objects in the bucket compared with the uploaded files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pydicom

from rig.dicom_files import Uids, uids_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path


@dataclass(frozen=True)
class Study:
    """The exported objects of one study."""

    uid: str
    modalities: str
    series: int
    objects: int
    size: int


@dataclass(frozen=True)
class Phase:
    """A state of the task; the last one has no duration."""

    state: str
    since: datetime
    seconds: float | None


@dataclass(frozen=True)
class Example:
    """An example DAG: its address in Airflow's web interface, and what it does."""

    dag_id: str
    address: str
    description: str


def object_name(prefix: str, uids: Uids) -> str:
    """Return the object name of an exported instance."""
    return f"{prefix}{uids.study}/{uids.series}/{uids.instance}.dcm"


def by_study(files: Sequence[Path], sizes: Mapping[str, int], prefix: str) -> list[Study]:
    """Return the studies with their objects in the bucket.

    :param sizes: the bucket's objects, by name.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if object_name(prefix, uids_of(path)) in sizes:
            groups[uids_of(path).study].append(path)
    return [
        Study(
            uid,
            "/".join(sorted({_modality(path) for path in group})),
            len({uids_of(path).series for path in group}),
            len(group),
            sum(sizes[object_name(prefix, uids_of(path))] for path in group),
        )
        for uid, group in sorted(groups.items())
    ]


def phases(history: Sequence[tuple[str, datetime]]) -> list[Phase]:
    """Return the task's states with their durations."""
    lengths = [(later - since).total_seconds() for (_, since), (_, later) in pairwise(history)]
    return [
        Phase(state, since, seconds)
        for (state, since), seconds in zip(history, [*lengths, None], strict=False)
    ]


def _modality(path: Path) -> str:
    return str(
        pydicom.dcmread(path, specific_tags=["Modality"], stop_before_pixels=True).get("Modality") or "none"
    )
