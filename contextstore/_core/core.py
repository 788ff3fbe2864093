"""What a face holds: a session, and a service for each subject.

Rules of this module: it makes them, and knows of each service what it stands on. A face hands over what it was called
with, and gives back what it gets. What the two faces of a store share is their backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .._waiting.callers import Callers
from . import calls
from .answers import converted
from .attempts import AttemptService
from .backend import Backend
from .calls import Calls
from .deletion import DeletionService
from .global_waits import GlobalWaitService
from .globals import GlobalService
from .leases import LeaseService
from .lives import Lives
from .maintenance import MaintenanceService
from .options import Options
from .outputs import OutputService
from .parts import PartService
from .retention import RetentionService
from .run_facts import RunFactsService
from .run_listing import RunListingService
from .run_state import RunStateService
from .run_watching import RunWatchService
from .runs import RunService
from .session import Session
from .steps import StepService
from .target import Target, engine_for
from .waits import WaitService
from .watching import WatchService

MakeCallers: TypeAlias = Callable[[Backend], Callers]
"""How the calls of a face on a backend wait."""


class Core:
    """What a face forwards to: the calls of a store without their names.

    It keeps the store alive, and so does whatever holds it: a face, a run, a batch, an iterator.
    """

    def __init__(self, backend: Backend, make_callers: MakeCallers) -> None:
        self._make_callers = make_callers
        self.stand_on(backend)

    def stand_on(self, backend: Backend) -> None:
        """Be calls on this backend from now on: another one in a forked child."""
        self.backend = backend
        self.session = Session(backend, self._make_callers(backend))
        lives = Lives(self.session)
        outputs = OutputService(self.session, lives)
        runs = RunService(self.session, outputs, lives)
        maintenance = MaintenanceService(self.session)
        noted = Calls(backend.engine.reports)
        self.outputs = noted.of(outputs, calls.OUTPUTS)
        self.parts = noted.of(PartService(self.session, lives), calls.PARTS)
        self.globals = noted.of(GlobalService(self.session), calls.GLOBALS)
        self.runs = noted.of(runs, calls.RUNS)
        self.run_facts = noted.of(RunFactsService(self.session, lives), calls.RUN_FACTS)
        self.run_listing = noted.of(RunListingService(self.session), calls.RUN_LISTING)
        self.run_state = noted.of(RunStateService(self.session, lives), calls.RUN_STATE)
        waits = WaitService(self.session, outputs, lives)
        self.waits = noted.of(waits, calls.WAITS)
        self.steps = noted.of(StepService(self.session, waits, lives), calls.STEPS)
        self.global_waits = noted.of(GlobalWaitService(self.session), calls.GLOBAL_WAITS)
        self.watching = noted.of(WatchService(self.session, lives), calls.WATCHING)
        self.attempts = noted.of(AttemptService(self.session, lives), calls.ATTEMPTS)
        self.run_watching = noted.of(RunWatchService(self.session, lives), calls.RUN_WATCHING)
        self.deletions = noted.of(DeletionService(self.session, lives), calls.DELETIONS)
        self.retention = noted.of(RetentionService(self.session, lives), calls.RETENTION)
        self.maintenance = noted.of(maintenance, calls.MAINTENANCE)
        self.leases = noted.of(LeaseService(self.session), calls.LEASES)
        self.commit_batch = noted.noted(calls.BATCH, self.session.commit_when_writable)
        self.counters = maintenance.counters
        self.converted = noted.plain(converted)

    def facts(self) -> list[tuple[str, str]]:
        """What can be said of the store without asking it."""
        return [("location", self.session.location), ("state", self.session.state.value)]

    def __str__(self) -> str:
        return f"{self.session.location} ({self.session.state.value})"


def backend_for(target: Target, options: Options) -> Backend:
    """Of a store that is not opened yet."""
    return Backend(engine_for(target, options), options)
