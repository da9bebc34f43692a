"""The code in the documentation: DAGs are read as Airflow reads them, commands are at least well-formed."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?:    .*\n)+)")
#: What is no code of ours: Sphinx's own, which `make docs` checks.
NOT_RUN = {"{eval-rst}"}

# Every block is a file of its own, all of them are read in one interpreter.
READ_ALL = """
import runpy, sys
from airflow.sdk import DAG
for path in sys.argv[1:]:
    dags = []
    real, DAG.__attrs_post_init__ = DAG.__attrs_post_init__, lambda dag: (dags.append(dag), real(dag))[1]
    runpy.run_path(path)
    DAG.__attrs_post_init__ = real
    print(path, len(dags))
    assert dags and all(dag.tasks for dag in dags), path
"""


class Block(NamedTuple):
    """A block of code on a page."""

    page: Path
    language: str
    code: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for language, code in _FENCED.findall(text):
            yield Block(page, language, code)
        # In README and CONTRIBUTING, indented blocks are commands; on the other pages there are none.
        for code in _INDENTED.findall(_FENCED.sub("", text)):
            yield Block(page, "shell", textwrap.dedent(code))


BLOCKS = list(blocks())


def test_every_block_is_of_a_language_that_is_tried() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "shell"} | NOT_RUN


@pytest.mark.airflow("3.3", "the pages show what is best there")
def test_python_can_be_read_as_dag_files(tmp_path: Path) -> None:
    paths = []
    for number, block in enumerate(block for block in BLOCKS if block.language == "python"):
        path = tmp_path / f"{number}_{block.page.stem}.py"
        path.write_text(block.code)
        paths.append(str(path))
    assert len(paths) > 4
    env = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-W", "error:::__main__", "-c", READ_ALL, *paths]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "shell"], ids=lambda b: b.page.stem)
def test_commands_are_well_formed(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for target in re.findall(r"^make ([a-z-]+)", block.code, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_files_that_pages_name_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`(example_dags/\S+?)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
