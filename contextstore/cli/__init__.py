"""The command line: ``contextstore``, and ``python -m contextstore``. Needs ``pip install 'contextstore[cli]'``.

Rules of this package: public calls of the package alone. ``output`` alone prints results, ``errors`` alone decides exit
codes. What typer and rich are needed for is imported once it is known that they are there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = {"typer", "rich", "click"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name. None: those of this process.

    Returns:
        The exit code: 0, 1 not found or not ok, 2 usage, 3 conflict, 4 store unusable, 70 a bug, 130 interrupted.
    """
    try:
        from .program import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("contextstore: the command line needs typer and rich: pip install 'contextstore[cli]'\n")
        return 2
    return run(sys.argv[1:] if arguments is None else list(arguments))
