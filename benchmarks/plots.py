"""A plot for each question: who puts one at a time, who puts many at once, who reads, and how quickly.

Rules of this module: readable on white and on black, since nobody knows on which a page is shown: no background, text
in a grey between the two, one colour for us and grey for the others. Bars are throughputs, so that longer is better and
no axis needs to be logarithmic; each bar says its figure. Text stays text, in the reader's font.
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any, NamedTuple

from . import goals
from .contestants import PEERS
from .rounds import Times

TEXT, OURS_COLOUR, PEER_COLOUR = "#737b85", "#2f81f7", "#8b949e"
NOT_ATOMIC = {kind.name for kind in PEERS if not kind.is_atomic}


class Plot(NamedTuple):
    measurement: str
    file: str
    title: str
    operation: str
    note: str = ""

    def label(self, name: str) -> str:
        return f"{name} †" if self.note and name in NOT_ATOMIC else name


_DAGGER = "† Many puts stand or fall together: one that fails, or a crash, may take others with it."

PUT = Plot("peers-put-full", "benchmarks-put.svg", "One durable put at a time", "puts")
AT_ONCE = Plot("peers-64-full", "benchmarks-at-once.svg", "64 durable puts at once", "puts", _DAGGER)
GET = Plot("peers-get", "benchmarks-get.svg", "Gets of the same 64 outputs", "gets")
PLOTS = [PUT, AT_ONCE, GET]


class Bar(NamedTuple):
    label: str
    length: float
    figure: str
    is_ours: bool


def bars(plot: Plot, times: Times) -> list[Bar]:
    """Throughputs against that of our awaited face, the largest first."""
    found = []
    for name in times:
        length = statistics.median(goals.throughput_of(name, "contextstore")(times))
        figure = f"{length:.2f}" if length >= 0.1 else f"{length:#.2g}"
        if name == "contextstore":
            rate = float(f"{1 / statistics.median(times[name]):.3g}")
            figure = f"1 ({rate:,.0f} {plot.operation} a second)"
        found.append(Bar(plot.label(name), length, figure, name.startswith("contextstore")))
    return sorted(found, key=lambda bar: -bar.length)


def draw(plot: Plot, times: Times, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    some = bars(plot, times)[::-1]  # the first one is drawn at the bottom
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": plot.file, "text.color": TEXT, "font.size": 11}
    with matplotlib.rc_context(settings):
        figure, axis = pyplot.subplots(figsize=(8.2, 0.7 + 0.3 * len(some)))
        drawn = axis.barh(
            [bar.label for bar in some],
            [bar.length for bar in some],
            height=0.66,
            color=[OURS_COLOUR if bar.is_ours else PEER_COLOUR for bar in some],
        )
        for text, bar in zip(axis.bar_label(drawn, [bar.figure for bar in some], padding=4), some, strict=True):
            text.set(color=OURS_COLOUR if bar.is_ours else TEXT, verticalalignment="center_baseline")
        for label, bar in zip(axis.get_yticklabels(), some, strict=True):
            label.set_color(OURS_COLOUR if bar.is_ours else TEXT)
        axis.set_title(f"{plot.title}: throughput, contextstore = 1", loc="left", color=TEXT, fontsize=12, pad=10)
        axis.margins(x=0.02, y=0.01)
        axis.xaxis.set_visible(False)
        axis.tick_params(length=0, pad=6)
        for spine in axis.spines.values():
            spine.set_visible(False)
        figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
