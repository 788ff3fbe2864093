"""Two checkouts in turn, measured by the same benchmarks: what a change has brought.

python -m benchmarks.compare OLD NEW --only put,get-cold
python -m benchmarks.compare OLD NEW --only threads --turns 9 --cores 0,1

Rules of this module: each turn is a process of its own, on the cores that are named, of this benchmark and of one
checkout's package; who goes first changes from turn to turn. Peers are the control: theirs should be 1.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from .measurements import chosen
from .rounds import Times

HERE = pathlib.Path(__file__).parent.parent
_PROGRAM = """
import os, sys
here, checkout, cores, *arguments = sys.argv[1:]
if cores != "all":
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
sys.path.insert(0, here)
import benchmarks, tests  # these of here, whatever the checkout has
sys.path.insert(0, checkout)
import contextstore
assert contextstore.__file__.startswith(checkout), contextstore.__file__
from benchmarks import __main__ as program
sys.argv[1:] = arguments
program.main()
"""


def one_turn(checkout: pathlib.Path, arguments: Sequence[str], cores: str) -> dict[str, Times]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, str(HERE), f"{checkout.resolve()}{os.sep}", cores,
             *arguments, "--save", file.name],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{checkout}: {done.stderr}")
        figures: dict[str, Times] = json.loads(pathlib.Path(file.name).read_text())["figures"]
        return figures


def compared(olds: Sequence[Times], news: Sequence[Times]) -> Iterator[tuple[str, float, float, float, list[float]]]:
    """Of each who was measured: the least old figure and the least new one, their ratio, and the ratio of each turn."""
    for who in olds[0]:
        old, new = ([min(times[who]) for times in turns] for turns in (olds, news))
        ratios = [statistics.median(b[who]) / statistics.median(a[who]) for a, b in zip(olds, news, strict=True)]
        yield who, min(old), min(new), min(new) / min(old), ratios


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__, formatter_class=form)
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--only", metavar="NAMES", required=True, help="as of python -m benchmarks")
    parser.add_argument("--turns", type=int, default=9, help="of each checkout (9)")
    parser.add_argument("--rounds", type=int, default=5, help="within a turn (5)")
    parser.add_argument("--cores", default="0", help="such as 0 (the default), 0,1 or all")
    options = parser.parse_args()
    names = chosen(options.only)
    arguments = ["--quick", "--only", options.only, "--rounds", str(options.rounds)]
    olds: list[dict[str, Times]] = []
    news: list[dict[str, Times]] = []
    for number in range(options.turns):
        sides = [(options.old, olds), (options.new, news)]
        for checkout, turns in sides if number % 2 == 0 else reversed(sides):
            turns.append(one_turn(checkout, arguments, options.cores))
    for name in names:
        print(f"{name}: least of old and new (seconds in µs); new / old of these; median of the turns' ratios, bounds")
        rows = compared([turn[name] for turn in olds], [turn[name] for turn in news])
        for who, old, new, of_least, ratios in rows:
            unit = 1e6 if old < 1 else 1
            print(
                f"  {who:34} {old * unit:10.1f} {new * unit:10.1f} {of_least:6.2f}"
                f" {statistics.median(ratios):6.2f} {min(ratios):.2f} to {max(ratios):.2f}"
            )


if __name__ == "__main__":
    main()
