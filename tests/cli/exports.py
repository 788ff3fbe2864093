"""Exports as tests make, read and break them: by the json module alone, as docs/exchange-format.md says."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import pathlib
import re
from typing import Any

from contextstore import Attempt, ContextStore, ExportedFailure, ExportedFreedVersion, export_records, import_records
from contextstore.cli.exchange import InChunks, selection_of, write_export
from contextstore.cli.ndjson import Reader

from ..public.test_transfer import fill
from ..support.processes import ROOT

PAGE = ROOT / "docs" / "exchange-format.md"
TIME = "2026-03-01T05:00:00.123456Z"
MANIFEST = {
    "type": "manifest",
    "format": "contextstore",
    "version": 1,
    "store": "elsewhere",
    "contextstore": "9.9",
    "created_at": TIME,
    "selection": {"runs": None, "prefix": "", "globals": True},
}


def signed(*lines: dict[str, Any] | str) -> bytes:
    """What another program would write: each line with its sum."""
    out, everything = b"", hashlib.sha256()
    for line in lines:
        head = (line if isinstance(line, str) else json.dumps(line)).removesuffix("}").encode()
        everything.update(head)
        tail = f',"sum":"{everything.hexdigest()[:16]}"}}\n'.encode()
        everything.update(tail)
        out += head + tail
    return out


def whole(*records: dict[str, Any] | str, **counts: Any) -> bytes:
    """An export of these records, by another program; ``counts`` are those of its last line."""
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    digest = hashlib.sha256("".join(text.removesuffix("}") + "\n" for text in texts).encode()).hexdigest()
    end = {"type": "end", "runs": 0, "outputs": 0, "globals": 0, "tombstones": 0, "bytes": 0, "sha256": digest}
    return signed(MANIFEST, *texts, {**end, **counts})


def reader_of_the_page() -> Any:
    """The function ``read`` that the page has, in Python with nothing but its standard library."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["read"]


def export_of(store: ContextStore) -> bytes:
    out = io.BytesIO()
    chunks = InChunks(out.write)
    write_export(store, chunks.write, "here", selection_of((), "", None))
    chunks.flush()
    return out.getvalue()


def small_export() -> bytes:
    """One with a line of each kind."""
    with ContextStore(":memory:") as store:
        store.put("run", "json", {"a": [1, 1.5, None, "é\u2028"]})
        store.put("run", "bytes", b"\x00\xff")
        store.append("run", "log/", 1, key="start")
        store.run("run").upsert_state("cursor", {"at": 7})
        store.delete_run("deleted")
        store.upsert_global("key", "value")
        store.upsert_global("gone", 1)
        store.delete_global("gone")
        store.upsert_global("passing", 1, ttl=10**8)
        began = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
        attempt = Attempt("json", 1, began, began, "ValueError: no", "ab12")
        import_records(store, [ExportedFailure("run", attempt), ExportedFreedVersion(41)])
        return export_of(store)


def read_all(data: bytes) -> list[Any]:
    return list(Reader(io.BytesIO(data)))


def filled_store(path: pathlib.Path | str) -> str:
    """A store with some of everything, by its place."""
    with ContextStore(path) as store:
        fill(store)
    return str(path)


def records_of(place: object) -> list[Any]:
    """Everything that a store has, with times and versions."""
    with ContextStore(str(place), read_only=True) as store:
        return list(export_records(store))


def lines_of(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]]
