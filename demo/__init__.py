"""A survey of Python's own standard library, as a flow that is killed half-way and goes on where it was.

    python -m demo            # or: make demo

The flow has a node for every module of the standard library, which parses and measures it, and some nodes that combine
what these found: totals of each package, the most imported modules, the longest functions, the import cycles. Each
output is in the store before its node counts as complete. So a restart needs no more than this: ask the store what it
has (``list_keys``), compute what is missing.

The flow runs in a process of its own. Whoever started it watches the store, kills the process by SIGKILL once half of
the outputs are there, starts another one for the same flow run, and proves what became of every node: by a journal to
which the processes append a line whenever they begin or complete a node, and by reading the outputs back through plain
``sqlite3`` (on a server, through the store). If any claim does not hold, the exit status is 1; if the store cannot be
opened, it is 2.

What a program of your own would take over is ``run_flow`` in ``demo/flow.py``. The rest is what the flow computes
(``measure``, ``findings``), who kills it and starts it again (``stage``), the proof (``proof``), what is displayed
(``screen``) and the command line (``__main__``).
"""
