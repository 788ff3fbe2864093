"""LangGraph: checkpoints of its graphs' threads, and their long-term memory, in a store. Extra ``langgraph``.

    from contextstore import AsyncContextStore
    from contextstore.integrations.langgraph import AsyncContextStoreSaver

    async with AsyncContextStore("flows.db") as store:
        graph = builder.compile(checkpointer=AsyncContextStoreSaver(store))

Rules of this package: public calls of the store and of LangGraph's base classes alone. What a call does is a plan,
which is written once; a saver's methods carry it out, awaited or blocking.
"""

try:
    import langgraph.checkpoint.base as _base
except ModuleNotFoundError as error:
    raise ImportError(
        "contextstore.integrations.langgraph needs LangGraph's checkpoints: pip install 'contextstore[langgraph]'"
    ) from error

from .saver import AsyncContextStoreSaver, ContextStoreSaver
from .store import ContextStoreStore

__all__ = ["AsyncContextStoreSaver", "ContextStoreSaver", "ContextStoreStore"]

del _base
