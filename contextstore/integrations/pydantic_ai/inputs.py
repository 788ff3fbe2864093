"""What a step was asked, as a digest: so that a program that was changed does not go on with another's answers.

Rules of this module: what a replay makes anew counts not (times, ids of runs), nor what programs make afresh each time
or mend between two versions (instructions, system prompts, the model, descriptions of tools). Deps are never looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, SystemPromptPart
from pydantic_core import to_json


def of_model_request(messages: list[ModelMessage]) -> str:
    """Of a request to a model: what was said since its last response, or all of it at first."""
    last = max((number for number, message in enumerate(messages) if isinstance(message, ModelResponse)), default=-1)
    # What came before it was asked, and recorded, by earlier requests; or it is a history, which counts as a whole.
    asked = messages if _is_first(messages) else messages[last + 1 :]
    return _digest([gist for message in asked for gist in _gist_of(message)])


def of_tool_call(name: str, arguments: dict[str, Any]) -> str:
    """Of a tool's call: its name and arguments."""
    return _digest([name, arguments])


def _is_first(messages: list[ModelMessage]) -> bool:
    """Whether no response in it is of this run of the agent."""
    run_id = messages[-1].run_id if messages else None
    return not any(isinstance(message, ModelResponse) and message.run_id == run_id for message in messages)


def _gist_of(message: ModelMessage) -> Iterator[Any]:
    for part in message.parts:
        if isinstance(part, SystemPromptPart):
            continue
        yield [
            part.part_kind,
            getattr(part, "tool_name", None),
            getattr(part, "tool_call_id", None) if part.part_kind == "tool-return" else None,
            getattr(part, "content", None),
            getattr(part, "args", None),
        ]


def _digest(value: Any) -> str:
    return hashlib.sha256(to_json(value, inf_nan_mode="constants", fallback=_name_of_type)).hexdigest()


def _name_of_type(value: object) -> str:
    """What stands for what has no JSON form: its repr may have an address, which no replay has again."""
    return type(value).__qualname__
