"""How a run is shown: tables in the terminal and in the README, and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.contestants import BY_KEY, CONTESTANTS
from benchmarks.targets import KIB

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
    "delay s (median / max)",
    "KiB each",
    "lost",
)
STARTUP_COLUMNS = ("operator", "import ms", "to deferral, CPU ms", "to deferral, wall ms")


def _cells(row: Row) -> list[str]:
    delay = "-" if row["delay_max"] is None else f"{row['delay_median']:.1f} / {row['delay_max']:.1f}"
    return [
        BY_KEY[row["contestant"]].label,
        f"{row['size']:,}",
        f"{row['cpu']:.2f}",
        f"{row['requests']:,}",
        f"{row['connections']:,}",
        f"{row['tokens']:,}",
        f"{row['stall'] * 1000:,.0f}",
        f"{row['collection'] * 1000:,.0f}",
        delay,
        # A hundred triggers are fewer than the process's own ups and downs.
        f"{row['memory'] / KIB:.1f}" if row["size"] >= 1000 else "-",
        str(row["lost"]) if row["lost"] else "",
    ]


def contests_table(results: Results) -> Table:
    """Return the table of all contests."""
    table = Table(title=f"Pending exports, polled every {results.interval} s for {results.duration:.0f} s")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "trigger" else "right")
    for size in results.sizes():
        for row in (row for row in results.contests if row["size"] == size):
            table.add_row(*_cells(row), style="bold" if BY_KEY[row["contestant"]].ours else None)
        table.add_section()
    return table


def startup_table(results: Results) -> Table:
    """Return the table of imports and of tasks up to their deferral."""
    table = Table(title="One task, in a fresh process that has imported airflow.sdk")
    for column in STARTUP_COLUMNS:
        table.add_column(column, justify="left" if column == "operator" else "right")
    for cells in _startup_rows(results):
        table.add_row(*cells)
    return table


def _startup_rows(results: Results) -> list[list[str]]:
    return [
        [
            label,
            f"{seconds * 1000:.0f}",
            *(
                f"{task[what] * 1000:.0f}" if (task := results.tasks.get(label)) else ""
                for what in ("cpu", "wall")
            ),
        ]
        for label, seconds in results.imports.items()
    ]


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the table of targets."""
    table = Table(title="To reach")
    for column in ("target", "measured", "at most", ""):
        table.add_column(column, justify="left" if column in ("target", "") else "right")
    for verdict in verdicts:
        table.add_row(
            verdict.target,
            *_judged(verdict),
            "[green]reached[/]" if verdict.reached else "[red]missed[/]",
        )
    return table


def _judged(verdict: Verdict) -> tuple[str, str]:
    return f"{verdict.value:.3g}{verdict.unit}", f"{verdict.limit:.3g}{verdict.unit}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(results: Results, verdicts: Sequence[Verdict]) -> str:
    """Return the README's section."""
    rows = [_cells(row) for size in results.sizes() for row in results.contests if row["size"] == size]
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    judged = [
        [verdict.target, *_judged(verdict), "reached" if verdict.reached else "**missed**"]
        for verdict in verdicts
    ]
    return f"""{BEGIN}
![CPU, requests and loop stall by number of pending exports](docs/benchmark.png)

Every trigger polls the same local server every {results.interval} s, in an event loop and a process of its
own; the operations end between {results.duration / 2:.0f} and {results.duration:.0f} s after the start. CPU
is that of the process from the first trigger to the last event. *Stall* is the longest time that the loop
got to nothing else, without the interpreter's garbage collections, whose longest is *GC*. *Delay* is from the
end of an operation to its event, *lost* counts events that were missing or wrong. No TLS, and log lines are
off: both would cost those more who connect more and who log every poll. {results.machine}; {versions}.
`make bench` measures it again.

{_markdown_table(COLUMNS, rows)}

One task, in a fresh process that has imported `airflow.sdk`:

{_markdown_table(STARTUP_COLUMNS, _startup_rows(results))}

{_markdown_table(["target", "measured", "at most", ""], judged)}
{END}"""


def update_readme(path: Path, section: str) -> bool:
    """
    Replace the performance section between its markers; False if the file has none.

    :param path: the README.
    :param section: the section with its markers.
    """
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
