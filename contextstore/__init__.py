"""A durable store for what the nodes of a flow produce.

    from contextstore import AsyncContextStore, ContextStore

``AsyncContextStore`` is awaited from asyncio or trio code, ``ContextStore`` is called from blocking code; call by call
they are the same. Errors are in ``contextstore.errors``, and here as well.
"""

from ._core.leases import Lease
from ._faces.async_store import AsyncContextStore
from ._faces.atomic import AtomicWriter
from ._faces.copying import copy
from ._faces.exchange import export_records, import_records
from ._faces.run import AsyncFlowRun
from ._faces.shared import shared
from ._faces.sync_run import FlowRun
from ._faces.sync_store import ContextStore
from ._results import (
    Attempt,
    CheckReport,
    CopyReport,
    Counters,
    ExportedAppendCounter,
    ExportedAppendKey,
    ExportedFailure,
    ExportedFreedVersion,
    ExportedGlobal,
    ExportedOutput,
    ExportedRun,
    ExportedState,
    GlobalEntry,
    ImportReport,
    Output,
    Problem,
    PruneReport,
    RunInfo,
    StateEntry,
    StoreStats,
)
from ._sqlite.restore import restore
from ._values.expiry import KEEP
from ._values.keys import new_flow_run_id
from .errors import (
    AlreadyExistsError,
    AtomicWriteError,
    CompletionFailedError,
    ContextStoreError,
    CorruptStoreError,
    DeserializationError,
    ForkedProcessError,
    GlobalAlreadyExistsError,
    IncompatibleStoreError,
    InputsChangedError,
    InvalidKeyError,
    LeaseHeldError,
    LeaseLostError,
    OutputDeletedError,
    ReadOnlyStoreError,
    RunAlreadyExistsError,
    RunDeletedError,
    RunStateConflictError,
    SerializationError,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreNotFoundError,
    TargetExistsError,
    VersionConflictError,
    WriteFailedError,
    WrongLoopError,
)
from .observers import Observer

__version__ = "0.1.0"

__all__ = [
    "KEEP",
    "AlreadyExistsError",
    "AsyncContextStore",
    "AsyncFlowRun",
    "Attempt",
    "AtomicWriteError",
    "AtomicWriter",
    "CheckReport",
    "CompletionFailedError",
    "ContextStore",
    "ContextStoreError",
    "CopyReport",
    "Counters",
    "CorruptStoreError",
    "DeserializationError",
    "ExportedFreedVersion",
    "ExportedGlobal",
    "ExportedOutput",
    "ExportedAppendCounter",
    "ExportedAppendKey",
    "ExportedFailure",
    "ExportedRun",
    "ExportedState",
    "FlowRun",
    "ForkedProcessError",
    "GlobalAlreadyExistsError",
    "GlobalEntry",
    "ImportReport",
    "IncompatibleStoreError",
    "InputsChangedError",
    "InvalidKeyError",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "Observer",
    "Output",
    "OutputDeletedError",
    "Problem",
    "PruneReport",
    "ReadOnlyStoreError",
    "RunAlreadyExistsError",
    "RunDeletedError",
    "RunStateConflictError",
    "RunInfo",
    "SerializationError",
    "StateEntry",
    "StorageError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreStats",
    "TargetExistsError",
    "VersionConflictError",
    "WriteFailedError",
    "WrongLoopError",
    "copy",
    "export_records",
    "import_records",
    "new_flow_run_id",
    "restore",
    "shared",
]
