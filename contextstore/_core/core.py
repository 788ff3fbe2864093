"""What a face holds: a session, and a service for each subject.

Rules of this module: it makes them, and knows of each service what it stands on. A face hands over what it was called
with, and gives back what it gets; several faces may stand on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .._dispatch.writer import LEAST_PATIENCE
from .._process.own_threads import OwnThreads
from .._waiting.callers import Callers
from . import calls
from .answers import converted
from .calls import Calls
from .globals import GlobalService
from .maintenance import MaintenanceService
from .options import Options
from .outputs import OutputService
from .parts import PartService
from .retention import RetentionService
from .runs import RunService
from .session import Session
from .target import Target, engine_for
from .waits import WaitService

MakeCallers: TypeAlias = Callable[[str, float, OwnThreads], Callers]
"""Given the store's location, the seconds that most calls wait at most, and the store's own threads."""


class Core:
    """A store without the names of its calls. It lives while a face, a run, a batch or an iterator holds it."""

    def __init__(self, target: Target, options: Options, make_callers: MakeCallers) -> None:
        engine = engine_for(target, options)
        engine.reports.tell_to(options.observers)
        callers = make_callers(engine.location, max(float(options.timeout), LEAST_PATIENCE), engine.own_threads)
        self.session = Session(engine, callers, options)
        outputs = OutputService(self.session)
        runs = RunService(self.session, outputs)
        maintenance = MaintenanceService(self.session)
        noted = Calls(engine.reports)
        self.outputs = noted.of(outputs, calls.OUTPUTS)
        self.parts = noted.of(PartService(self.session), calls.PARTS)
        self.globals = noted.of(GlobalService(self.session), calls.GLOBALS)
        self.runs = noted.of(runs, calls.RUNS)
        self.waits = noted.of(WaitService(self.session, outputs, runs), calls.WAITS)
        self.retention = noted.of(RetentionService(self.session), calls.RETENTION)
        self.maintenance = noted.of(maintenance, calls.MAINTENANCE)
        self.commit_batch = noted.noted(calls.BATCH, self.session.commit_when_writable)
        self.counters = maintenance.counters
        self.converted = noted.plain(converted)

    def facts(self) -> list[tuple[str, str]]:
        """What can be said of the store without asking it."""
        return [("location", self.session.location), ("state", self.session.state.value)]

    def __str__(self) -> str:
        return f"{self.session.location} ({self.session.state.value})"
