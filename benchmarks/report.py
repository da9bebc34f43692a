"""A run as tables in the terminal, as sections of the documentation and of the README, and as a plot."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.contestants import BY_KEY, CONTESTANTS, FLOOR, PEERS
from benchmarks.targets import KIB, triggerer_cpu

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.results import Results, Row
    from benchmarks.targets import Verdict

BEGIN = "<!-- performance: written by `make bench`, not by hand -->"
END = "<!-- end of performance -->"
COLUMNS = (
    "trigger",
    "pending",
    "CPU s",
    "requests",
    "connections",
    "tokens",
    "stall ms",
    "GC ms",
    "delay s, median / max",
    "KiB each",
    "lost",
)
TRIGGERER_COLUMNS = (
    "trigger",
    "deferred",
    "supervisor, CPU s",
    "runner, CPU s",
    "PostgreSQL, CPU s",
    "sum",
    "of the floor",
    "requests",
    "XCom rows",
    "log MiB",
    "KiB each",
    "delay s, median / max",
    "lost",
)
STARTUP_COLUMNS = ("operator", "import ms", "to deferral, CPU ms", "to deferral, wall ms")
TARGET_COLUMNS = ("target", "measured", "at most", "")
RATIO_COLUMNS = ("1,000 exports pending in one dataset", "this provider", "best other provider", "ratio")
#: The number of pending exports in the README's ratios.
RATIO_SIZE = 1000
REACHED, MISSED = "reached", "**missed**"
_TERMINAL = {REACHED: "[green]reached[/]", MISSED: "[red]missed[/]"}


@dataclass(frozen=True)
class Section:
    """
    One table of the report; all of them stand in ``sections``.

    :param title: the heading.
    :param text: the explanation between the heading and the table, in Markdown.
    :param header: the columns; the first one is text, the others are numbers.
    :param rows: the cells.
    :param bold: the numbers of the rows that the terminal emphasizes.
    """

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[int] = frozenset()

    def terminal(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title)
        for number, column in enumerate(self.header):
            table.add_column(column, justify="right" if number else "left")
        for number, row in enumerate(self.rows):
            style = "bold" if number in self.bold else None
            table.add_row(*(_TERMINAL.get(cell, cell) for cell in row), style=style)
        return table

    def markdown(self) -> str:
        """Return the section for a page."""
        return "\n\n".join(
            filter(None, [f"## {self.title}", self.text, _markdown_table(self.header, self.rows)])
        )


def sections(results: Results, verdicts: Sequence[Verdict]) -> list[Section]:
    """
    Return the tables of the report, in order; those without a row are left out.

    :param results: the run.
    :param verdicts: the targets, judged.
    """
    found = [_contests(results), _triggerers(results), _startup(results), _targets(verdicts)]
    return [section for section in found if section.rows]


def _contests(results: Results) -> Section:
    rows = [row for size in results.sizes() for row in results.contests if row["size"] == size]
    return Section(
        "Pending exports",
        f"Every trigger polls the same local server every {results.interval} s, in an event loop and a "
        f"process of its own. The operations end between {results.duration / 2:.0f} and "
        f"{results.duration:.0f} s after the start.\n\n"
        "- *CPU*: CPU time of the process from the first trigger to the last event.\n"
        "- *Stall*: the longest time that the event loop was blocked, without garbage collections; *GC* is "
        "the longest garbage collection.\n"
        "- *Delay*: the time from the end of an operation to its event.\n"
        "- *KiB each*: memory for each pending trigger.\n"
        "- *Lost*: events that were missing or wrong.\n\n"
        "Connections are without TLS and log lines are switched off: both would cost more for a trigger that "
        "opens more connections or logs every poll.",
        COLUMNS,
        [_cells(row) for row in rows],
        frozenset(number for number, row in enumerate(rows) if BY_KEY[row["contestant"]].ours),
    )


def _cells(row: Row) -> list[str]:
    return [
        BY_KEY[row["contestant"]].label,
        f"{row['size']:,}",
        f"{row['cpu']:.2f}",
        f"{row['requests']:,}",
        f"{row['connections']:,}",
        f"{row['tokens']:,}",
        f"{row['stall'] * 1000:,.0f}",
        f"{row['collection'] * 1000:,.0f}",
        _delays(row),
        # A hundred triggers need less memory than the process gains and loses by itself.
        f"{row['memory'] / KIB:.1f}" if row["size"] >= 1000 else "-",
        str(row["lost"]) if row["lost"] else "",
    ]


def _triggerers(results: Results) -> Section:
    rows = results.triggerers
    return Section(
        "In a real triggerer",
        "Airflow's triggerer with its supervisor, its log files and PostgreSQL. The deferred tasks are put "
        f"straight into the database, polled every {results.triggerer_interval} s, and their operations end "
        f"between {results.triggerer_duration / 2:.0f} and {results.triggerer_duration:.0f} s after the "
        "start; their counters move. Each contestant has a triggerer of its own, which has followed one "
        "operation before: what happens only once in a process, such as the first XCom (it loads Airflow's "
        "API, about 4 s), is not measured. The triggerers run one after the other for the same time.\n\n"
        "- *Supervisor*: the process that serves the events, heartbeats, XComs and log lines of all "
        "triggers; *runner*: the process with the event loop.\n"
        "- *Of the floor*: the sum of CPU divided by that of *Only sleeping*.\n"
        "- *XCom rows*: rows written to the table of XComs.\n"
        "- *KiB each*: memory of supervisor and runner for each task.\n"
        "- *Delay*: the time from the end of an operation until Airflow has scheduled its task again.\n"
        "- *Lost*: events that were missing or wrong.",
        TRIGGERER_COLUMNS,
        [_triggerer_cells(row, results.triggerer(FLOOR, row["size"])) for row in rows],
        frozenset(number for number, row in enumerate(rows) if BY_KEY[row["contestant"]].ours),
    )


def _triggerer_cells(row: Row, floor: Row | None) -> list[str]:
    return [
        BY_KEY[row["contestant"]].label,
        f"{row['size']:,}",
        f"{row['supervisor']:.1f}",
        f"{row['runner']:.1f}",
        f"{row['database']:.1f}",
        f"{triggerer_cpu(row):.1f}",
        f"{triggerer_cpu(row) / triggerer_cpu(floor):.2f}" if floor else "",
        f"{row['requests']:,}",
        f"{row['xcoms']:,}",
        f"{row['log'] / KIB**2:.2f}",
        f"{row['memory'] / KIB:.1f}" if row["size"] >= 1000 else "-",
        _delays(row),
        str(row["lost"]) if row["lost"] else "",
    ]


def _delays(row: Row) -> str:
    return "-" if row["delay_max"] is None else f"{row['delay_median']:.1f} / {row['delay_max']:.1f}"


def _startup(results: Results) -> Section:
    rows = []
    for label in dict.fromkeys([*results.imports, *results.tasks]):
        task = results.tasks.get(label, {})
        seconds = (results.imports.get(label), task.get("cpu"), task.get("wall"))
        rows.append([label, *map(_milliseconds, seconds)])
    return Section(
        "Start of a task",
        "One task, in a fresh process that has imported `airflow.sdk`: the import of the operator's module, "
        "and the time until the task defers.",
        STARTUP_COLUMNS,
        rows,
    )


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f}"


def _targets(verdicts: Sequence[Verdict]) -> Section:
    rows = [
        [
            verdict.target,
            f"{verdict.value:.3g}{verdict.unit}",
            f"{verdict.limit:.3g}{verdict.unit}",
            REACHED if verdict.reached else MISSED,
        ]
        for verdict in verdicts
    ]
    return Section("Targets", "", TARGET_COLUMNS, rows)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page_section(results: Results, verdicts: Sequence[Verdict]) -> str:
    """
    Return the generated part of the documentation's page on performance.

    :param results: the run.
    :param verdicts: the targets, judged.
    """
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [
        "![CPU, requests and loop stall by number of pending exports](benchmark.png)",
        f"Measured on: {results.machine}; {versions}.",
        *(section.markdown() for section in sections(results, verdicts)),
    ]
    return _marked("\n\n".join(parts))


def readme_section(results: Results) -> str:
    """
    Return the README's section: the plot, and the three ratios that tell most.

    :param results: the run.
    """
    plotted = "![CPU, requests and loop stall by number of pending exports](docs/benchmark.png)"
    return _marked(f"{plotted}\n\n{_markdown_table(RATIO_COLUMNS, _ratios(results))}")


def _ratios(results: Results) -> list[list[str]]:
    found = []
    for what, column, form in (
        ("CPU of the triggerer, s", "cpu", ",.2f"),
        ("requests to the API", "requests", ",d"),
    ):
        # A peer that lost events did less than its work.
        peers = [row for key in PEERS if (row := results.row(key, RATIO_SIZE)) and not row["mistakes"]]
        ours = results.row("one_dataset", RATIO_SIZE)
        if ours and peers:
            best = min(peers, key=itemgetter(column))
            label = BY_KEY[best["contestant"]].label
            found.append(_ratio(what, ours[column], best[column], label, form))
    imports = dict(results.imports)
    if (own := imports.pop("DICOM store", None)) and imports:
        label, best_time = min(imports.items(), key=itemgetter(1))
        found.append(
            _ratio("import of the operator's module, ms", own * 1000, best_time * 1000, label, ".0f")
        )
    return found


def _ratio(what: str, ours: float, best: float, label: str, form: str) -> list[str]:
    return [what, f"{ours:{form}}", f"{best:{form}} ({label})", f"1 : {best / ours:.0f}"]


def _marked(text: str) -> str:
    return f"{BEGIN}\n{text}\n{END}"


def update_page(path: Path, section: str) -> bool:
    """
    Replace the performance section between its markers; False if the file has none.

    :param path: the page.
    :param section: the section with its markers.
    """
    if not path.exists():
        return False
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return False
    path.write_text(f"{before}{section}{after}")
    return True


def plot(results: Results, path: Path) -> None:
    """Draw CPU, requests and loop stall over the number of pending exports."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("CPU, seconds", "cpu", 1.0),
        ("Requests to the API", "requests", 1.0),
        ("Longest stall of the event loop, ms", "stall", 1000.0),
    )
    # Ours in blues, peers in warm colours, the floor in grey; readable with colour vision deficiencies.
    colors = ("#08519c", "#3182bd", "#9ecae1", "#d95f02", "#e6ab02", "#a6761d", "#7f7f7f")
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 4.2), layout="constrained")
    for axis, (title, column, scale) in zip(axes, panels, strict=True):
        for contestant, color in zip(CONTESTANTS, colors, strict=True):
            rows = [row for row in results.contests if row["contestant"] == contestant.key and row[column]]
            axis.plot(
                [row["size"] for row in rows],
                [row[column] * scale for row in rows],
                marker="o",
                color=color,
                linewidth=2.5 if contestant.ours else 1.5,
                linestyle="-" if contestant.ours else "--",
                label=contestant.label,
            )
        axis.set(title=title, xscale="log", yscale="log", xlabel="pending exports")
        axis.set_xticks(results.sizes(), [f"{size:,}" for size in results.sizes()])
        axis.minorticks_off()
        axis.grid(visible=True, alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
