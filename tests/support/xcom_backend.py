"""A custom XCom backend: values in files, as object storage backends keep them, and references in XComs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from rig.releases import chosen_release

if chosen_release().is_second:
    from airflow.models.xcom import BaseXCom
else:
    from airflow.sdk.bases.xcom import BaseXCom

#: The environment variable with the folder of the values.
FOLDER = "XCOM_FILES_FOLDER"
_PREFIX = "file:"


class FilesXCom(BaseXCom):  # type: ignore[misc]
    """XComs whose values are files."""

    @staticmethod
    def serialize_value(  # Airflow 2 passes only the arguments that have a name here
        value: Any,
        *,
        key: str | None = None,
        task_id: str | None = None,
        dag_id: str | None = None,
        run_id: str | None = None,
        map_index: int | None = None,
    ) -> Any:
        """Write a value to a file, and return the reference for the database."""
        path = Path(os.environ[FOLDER]) / f"{task_id}.{key}.{uuid4()}"
        path.write_text(json.dumps(value))
        return BaseXCom.serialize_value(f"{_PREFIX}{path}")

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        """Read a value by the reference from the database."""
        reference = BaseXCom.deserialize_value(result)
        if isinstance(reference, str) and reference.startswith(_PREFIX):
            return json.loads(Path(reference.removeprefix(_PREFIX)).read_text())
        return reference
