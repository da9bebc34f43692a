"""Modules that run in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping


def run_child(module: str, *arguments: str, env: Mapping[str, str], stdin: str = "") -> Any:
    """
    Run a module in a fresh process and return the JSON in the last line that it prints.

    :param module: the module.
    :param env: the environment of the process.
    :param stdin: the standard input of the process.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=stdin,
        env=dict(env),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    if process.returncode != 0:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{process.stderr[-4000:]}")
    return json.loads(process.stdout.splitlines()[-1])
