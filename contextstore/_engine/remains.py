"""What is left of a deleted run beside its outputs: which rows of attributes go with its facts.

Rules of this module: pure functions; no SQL.
"""

from __future__ import annotations

import orjson


def attribute_rows(attributes: str) -> list[tuple[str, str]] | None:
    """Name and value of each row that stands for these attributes of a run. None: that cannot be read."""
    try:
        return [(name, orjson.dumps(value).decode()) for name, value in orjson.loads(attributes).items()]
    except (ValueError, AttributeError):
        return None
