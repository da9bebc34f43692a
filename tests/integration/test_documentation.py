"""The documentation: its code runs, its messages and public names are those of the package."""

from __future__ import annotations

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from airflow_provider_dicom import exceptions, results
from rig.ports import LOOPBACK, free_port
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?:    .*\n)+)")
#: The language of Sphinx directives, which `make docs` checks.
NOT_RUN = {"{eval-rst}"}
#: Characters of a line that fit into a block of code on the built pages.
PAGE_WIDTH = 88
#: The classes that the reference describes beside results and errors.
PUBLIC_CLASSES = {
    "airflow_provider_dicom.hooks.dicom_store": {
        "DicomStoreHook",
        "DicomStoreAsyncHook",
    },
    "airflow_provider_dicom.api.resource_names": {"DatasetName", "DicomStoreName"},
    "airflow_provider_dicom.api.export_request": {"ExportRequest"},
    "airflow_provider_dicom.operators.dicom_store": {"DicomStoreExportOperator"},
    "airflow_provider_dicom.operators.selection": {
        "DicomStoreSearchOperator",
        "DicomMetadataQueryOperator",
        "DicomHighWaterMarkOperator",
    },
    "airflow_provider_dicom.operators.check": {"DicomStoreExportCheckOperator"},
    "airflow_provider_dicom.triggers.dicom_store": {"DicomStoreExportTrigger"},
    "airflow_provider_dicom.sensors.dicom_store": {"DicomStoreExportSensor"},
    "airflow_provider_dicom.links.dicom_store": {
        "DicomStoreLink",
        "DicomExportLogsLink",
        "DicomExportDestinationLink",
    },
}

# Each block is a file; one interpreter reads all files.
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


def test_code_blocks_of_the_pages_are_in_tested_languages() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "shell"} | NOT_RUN


@pytest.mark.airflow("3.3", "the pages show features of it")
def test_python_blocks_of_the_pages_can_be_read_as_dag_files(tmp_path: Path) -> None:
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
def test_shell_blocks_of_the_pages_are_well_formed(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for target in re.findall(r"^make ([a-z-]+)", block.code, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_example_dags_that_pages_name_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`(example_dags/\S+?)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_lines_of_code_fit_the_width_of_the_built_pages() -> None:
    built = [block for block in BLOCKS if block.page.is_relative_to(ROOT / "docs")]
    lines = [(block.page.name, line) for block in built for line in block.code.splitlines()]
    assert len(lines) > 100
    assert [line for line in lines if len(line[1]) > PAGE_WIDTH] == []


def classes_of(module: ModuleType) -> set[str]:
    """The classes that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }


def test_reference_describes_all_public_names_and_nothing_else() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    described = [
        name
        for page in pages
        for name in re.findall(r"^\.\. auto\w+:: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    public = PUBLIC_CLASSES | {module.__name__: classes_of(module) for module in (exceptions, results)}
    assert sorted(described) == sorted(
        f"{module}.{name}" for module, names in public.items() for name in names
    )


def texts_of_the_package() -> Iterator[str]:
    """All strings in the package's code; a placeholder of an f-string is "…"."""
    for path in (ROOT / "airflow_provider_dicom").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value.replace("%s", "…").replace("%d", "…")


def test_troubleshooting_quotes_messages_of_the_package() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 50
    texts = list(texts_of_the_package())
    unknown = [
        message
        for message in messages
        if not any(re.search(".*".join(map(re.escape, message.split("…"))), text) for text in texts)
    ]
    assert unknown == []


@pytest.mark.airflow("3.3", "the pages show features of it")
def test_recipe_for_testing_dags_leads_to_an_exported_file(tmp_path: Path) -> None:
    page = [block for block in BLOCKS if block.page.name == "testing.md"]
    (dag,) = (block.code for block in page if block.language == "python")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "tried.py").write_text(dag)
    own = (
        dag.replace('"tried"', '"own"').replace('"pacs"', '"mine"').replace("my-dicom-exports/", "my-bucket/")
    )
    own = own.replace("poll_interval", 'gcp_conn_id="my_connection",\n        poll_interval')
    (tmp_path / "dags" / "own.py").write_text(own)
    commands = [block.code for block in page if block.language == "shell"]
    after = next(number for number, code in enumerate(commands) if "my-bucket" in code)
    commands.insert(after + 1, "airflow dags test own\n")
    script = "set -e\n" + "".join(commands)
    # The packages that the page installs are in the environment of the tests.
    installing = re.compile(r"^(python3 -m venv|\. venv|pip install).*\n", re.MULTILINE)
    script, left_out = installing.subn("", script)
    assert left_out == 3
    for port in ("8085", "9023"):
        script = script.replace(port, str(free_port()))

    printed = run_in_shell(script, tmp_path)

    # The page runs its DAG once without faults, and once with the faults that it injects.
    assert printed.count("Export ended as SUCCEEDED: 1 exported, 0 failed") == 3, printed
    assert printed.count("dicomStores/mine to gs://my-bucket/tried/") >= 1
    assert "The export itself goes on; polling continues" in printed
    assert '"name": "tried/1.3.6.1.4.1.5962' in printed


def run_in_shell(script: str, folder: Path) -> str:
    """Run commands with the tests' Python, end their background processes, and return their output."""
    settings = ("AIRFLOW", "HEALTHCARE_EMULATOR", "STORAGE_EMULATOR")
    env = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "no_proxy": LOOPBACK}
    printed = folder / "printed.txt"
    with printed.open("w") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(timeout=600)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
    assert status == 0, printed.read_text()
    return printed.read_text()
