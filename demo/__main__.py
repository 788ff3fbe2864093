"""The command line: of whoever wants to see the demonstration, and of the processes that work at the flow."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from contextstore import AsyncContextStore, ContextStoreError

from .flow import Journal, run_flow, survey
from .measure import standard_library


async def work(options: argparse.Namespace) -> None:
    """The process that is killed, and the one that goes on: they differ in nothing."""
    nodes = survey(standard_library(), options.limit)
    async with AsyncContextStore(options.store) as store:
        await run_flow(store, options.worker, nodes, Journal(options.journal), options.pace)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Survey Python's standard library; the flow is killed half-way and goes on where it was.",
    )
    parser.add_argument("--store", metavar="TARGET", help="a path or a URL: keep it there (else it is temporary)")
    parser.add_argument(
        "--kill-at", type=fraction, default=0.5, metavar="FRACTION", help="kill when so much is done (default: 0.5)"
    )
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="let the first process come to the end")
    parser.add_argument("--limit", type=positive, metavar="N", help="survey the first N modules only")
    parser.add_argument(
        "--pace", type=float, default=0.0, metavar="SECONDS", help="rest in each node, to watch it more slowly"
    )
    # For the process that is started to do the work.
    parser.add_argument("--worker", metavar="FLOW_RUN_ID", help=argparse.SUPPRESS)
    parser.add_argument("--journal", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def fraction(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return value


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main() -> int:
    options = parse()
    if options.worker:
        asyncio.run(work(options))
        return 0
    if importlib.util.find_spec("rich") is None:
        print("The demonstration is displayed by the library rich: pip install rich", file=sys.stderr)
        return 2
    # Only here: the processes that work at the flow do without rich.
    from rich.console import Console

    from .stage import demonstrate, make_store

    with tempfile.TemporaryDirectory(prefix="contextstore-survey-") as folder:
        try:
            place = make_store(os.path.join(folder, "survey.db") if options.store is None else options.store)
        except (ContextStoreError, ValueError) as error:  # ValueError: no target is written like that
            print(error, file=sys.stderr)
            return 2
        try:
            return 0 if demonstrate(options, place, folder, Console()) else 1
        except ContextStoreError as error:  # a server that went away meanwhile
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
