"""An agent whose every call is recorded, so that a restart replays them without making them again.

    python examples/agent_loop.py flows.db      # is killed as it makes its fourth call
    python examples/agent_loop.py flows.db      # replays the three before, and goes on to its answer

The model and the tools are stand-ins that run here. Real ones cost money and do things, which is why no call that has
come to its end should be made twice: each is a step of a flow run, named after its place in the conversation.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contextstore import ContextStore, FlowRun

QUESTION = "What do three lamps cost with tax?"


@dataclass
class Reply:
    """What the model says: call this tool, or else this is the answer."""

    tool: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    answer: str | None = None


def ask_model(messages: list[dict[str, Any]]) -> Reply:
    """It looks the price up, has it computed, and answers."""
    match [message["content"] for message in messages if message["role"] == "tool"]:
        case []:
            return Reply("look_up", {"item": "lamp"})
        case [price]:
            return Reply("calculate", {"factors": [3, price, 1.19]})
        case results:
            return Reply(answer=f"Three lamps cost {results[-1]:.2f}.")


def look_up(item: str) -> float:
    return {"lamp": 20.0, "chair": 45.5}[item]


def calculate(factors: list[float]) -> float:
    product = 1.0
    for factor in factors:
        product *= factor
    return product


TOOLS: dict[str, Callable[..., Any]] = {"look_up": look_up, "calculate": calculate}


def run_agent(run: FlowRun, question: str, called: Callable[[str], None]) -> str:
    """The answer. ``called`` is told of each call that was really made."""

    def ask(messages: list[dict[str, Any]]) -> Reply:
        called("the model")
        return ask_model(messages)

    def use(tool: str, arguments: dict[str, Any]) -> Any:
        called(tool)
        return TOOLS[tool](**arguments)

    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    while True:
        reply = run.step(f"{len(messages):03} model", ask, messages)
        messages.append({"role": "assistant", "content": reply})
        if reply.tool is None:
            return str(reply.answer)
        result = run.step(f"{len(messages):03} tool", use, reply.tool, reply.arguments)
        messages.append({"role": "tool", "content": result})


def main(path: str) -> None:
    with ContextStore(path) as store:
        run = store.run("agent-1")
        is_first = not run.list_keys()

        def called(name: str) -> None:
            print("calling", name, flush=True)
            if is_first and len(run.list_keys()) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        print(run_agent(run, QUESTION, called))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: agent_loop.py FILE", file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1])
