"""Computed fields of pydantic's models: a dump has them, and they are left out again where a model is read."""

from __future__ import annotations

from typing import Any

import pydantic
import pydantic.dataclasses
import pytest

from contextstore import DeserializationError
from contextstore._values.codec import JSON, Encoded, decode, encode

PLENTY = 10**9


@pydantic.dataclasses.dataclass
class Margin:
    left: int = 1


class Page(pydantic.BaseModel, extra="forbid"):
    margin: Margin | dict[str, int] | None = None

    @pydantic.computed_field
    def is_bare(self) -> bool:
        return self.margin is None


@pytest.mark.parametrize("page", [Page(), Page(margin={}), Page(margin=Margin(2))])
def test_a_union_with_a_class_that_is_no_model(page: Any) -> None:
    assert decode(encode(page, PLENTY), Page) == page


def test_a_model_that_is_completed_later() -> None:
    class Book(pydantic.BaseModel):
        title: str
        first: Leaf | None  # type: ignore[name-defined]

        @pydantic.computed_field
        def length(self) -> int:
            return len(self.title)

    stored = Encoded(JSON, b'{"title":"a","length":1,"first":{"number":1,"next":2}}')
    with pytest.raises(DeserializationError, match="not fully defined"):
        decode(stored, Book)

    class Leaf(pydantic.BaseModel, extra="forbid"):
        number: int

        @pydantic.computed_field
        def next(self) -> int:
            return self.number + 1

    Book.model_rebuild()
    assert decode(stored, Book) == Book(title="a", first=Leaf(number=1))
