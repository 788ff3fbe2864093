"""Agents of pydantic-ai without a network: models that follow a script, and count who asked them what."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

Turn = str | list[tuple[str, dict[str, Any]]] | Exception | Callable[[list[ModelMessage]], ModelResponse]
"""What a model does when it is asked: it answers, calls tools, fails, or as the function has it."""


class Script:
    """A model that takes one turn after the other: the one whose number is that of the responses it sees."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = turns
        self.requests = 0
        self.seen: list[list[ModelMessage]] = []

    def _turn(self, messages: list[ModelMessage]) -> tuple[int, Turn]:
        self.requests += 1
        self.seen.append(list(messages))
        number = sum(isinstance(message, ModelResponse) for message in messages)
        return number, self.turns[number]

    def respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        number, turn = self._turn(messages)
        if isinstance(turn, Exception):
            raise turn
        if isinstance(turn, str):
            return ModelResponse(parts=[TextPart(turn)])
        if isinstance(turn, list):
            return ModelResponse(
                parts=[
                    ToolCallPart(name, arguments, tool_call_id=f"call_{number}_{position}")
                    for position, (name, arguments) in enumerate(turn)
                ]
            )
        return turn(messages)

    async def stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        number, turn = self._turn(messages)
        if isinstance(turn, Exception):
            raise turn
        if isinstance(turn, str):
            for word in turn.split(" "):
                yield word + " "
            return
        assert isinstance(turn, list)
        for position, (name, arguments) in enumerate(turn):
            call = DeltaToolCall(name, str(arguments).replace("'", '"'), tool_call_id=f"call_{number}_{position}")
            yield {position: call}

    def model(self) -> FunctionModel:
        return FunctionModel(self.respond, stream_function=self.stream, model_name="script")


class Tools:
    """Tools that count their calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def double(self, number: int) -> int:
        self.calls[f"double({number})"] += 1
        return 2 * number

    def shout(self, text: str) -> str:
        self.calls[f"shout({text})"] += 1
        return text.upper()


def returned(messages: list[ModelMessage]) -> dict[str, Any]:
    """What the tools have returned, by the ids of their calls."""
    return {
        part.tool_call_id: part.content
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }
