"""numpy's scalars are the numbers that they equal; arrays and tables are refused with advice that works."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import subprocess
import sys
from typing import Any

import pytest

from contextstore import SerializationError
from contextstore._values.codec import decode, encode

numpy = pytest.importorskip("numpy")
PLENTY = 10**9


def form(value: Any) -> Any:
    return decode(encode(value, PLENTY))


def refusal(value: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode(value, PLENTY)
    return caught.value


@dataclasses.dataclass
class Result:
    score: float
    count: int
    is_good: bool
    label: str
    parts: list[float]


SCALARS = [
    (numpy.int64(3), 3),
    (numpy.int8(-3), -3),
    (numpy.uint64(2**64 - 1), 2**64 - 1),
    (numpy.float64(0.1), 0.1),
    (numpy.float32(0.1), 0.10000000149011612),
    (numpy.float16(0.1), 0.0999755859375),
    (numpy.float64(-0.0), -0.0),
    (numpy.longdouble(0.5), 0.5),
    (numpy.bool_(True), True),
    (numpy.bool_(False), False),
    (numpy.str_("é"), "é"),
]


@pytest.mark.parametrize(("value", "expected"), SCALARS, ids=repr)
def test_a_scalar_is_stored_as_the_number_that_it_equals_exactly(value: Any, expected: Any) -> None:
    for held, plain in (
        (value, expected),
        ([value, None], [expected, None]),
        ({"a": (1, value)}, {"a": [1, expected]}),
    ):
        assert form(held) == plain
    assert form(value) == value
    assert type(form(value)) is type(expected)
    assert not isinstance(expected, float) or math.copysign(1, form(value)) == math.copysign(1, value)


async def test_scalars_in_fields_come_back_equal_by_the_class(store: Any) -> None:
    result = Result(numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), numpy.str_("a"), [numpy.float64(1.5)])
    await store.put("run", "node", {"a": [result]})
    assert await store.get("run", "node", type=dict[str, list[Result]]) == {"a": [result]}
    assert await store.get("run", "node") == {
        "a": [{"score": 0.5, "count": 3, "is_good": True, "label": "a", "parts": [1.5]}]
    }


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (numpy.float64("nan"), "NaN"),
        (numpy.float32("inf"), "Infinity"),
        (numpy.longdouble(1) / 3, "exactly"),
        (numpy.datetime64("2020-01-01"), "item()"),
        (numpy.timedelta64(1, "s"), "total_seconds()"),
        (numpy.complex64(1), "is not JSON"),
        (numpy.bytes_(b"x"), "bytes()"),
        (numpy.str_("\ud800"), "surrogate"),
        (numpy.array([1]), "numpy.save"),
        (numpy.zeros((2, 2)), "tolist()"),
        (numpy.ma.masked, "numpy.save"),
        ({numpy.str_("a"): 1}, "convert it with str()"),
        ({numpy.int64(1): 1}, "keys must be str"),
    ],
    ids=repr,
)
def test_what_no_number_equals_is_refused_with_advice(value: Any, word: str) -> None:
    error = refusal({"a": [value]})
    assert error.path == "$.a[0]"
    assert word in error.problem


async def test_an_array_is_stored_exactly_as_the_refusal_advises(store: Any) -> None:
    array = numpy.arange(6, dtype="float32").reshape(2, 3)
    with pytest.raises(SerializationError) as caught:
        await store.put("run", "array", array)
    advice = caught.value.problem.partition("put its bytes on its own: ")[2].partition("; or")[0]
    *lines, last = advice.split("; ")
    names: dict[str, Any] = {"io": io, "numpy": numpy, "array": array}
    exec("\n".join(lines), names)  # as it stands there
    await store.put("run", "array", eval(last.removeprefix("put "), names))

    back = numpy.load(io.BytesIO(await store.get("run", "array")), allow_pickle=False)
    assert back.dtype == array.dtype
    assert (back == array).all()
    await store.put("run", "list", array.tolist())
    assert (numpy.array(await store.get("run", "list"), dtype=array.dtype) == array).all()


async def test_times_are_stored_as_the_refusal_advises(store: Any) -> None:
    moment, span = numpy.datetime64("2020-01-01T12:00"), numpy.timedelta64(90, "s")
    await store.put("run", "moment", moment.astype("datetime64[us]").item())
    await store.put("run", "span", span.astype("timedelta64[us]").item().total_seconds())
    assert await store.get("run", "moment") == "2020-01-01T12:00:00"
    assert await store.get("run", "span") == 90.0


async def test_a_data_frame_is_refused_with_advice_that_works(store: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None]})
    for value, word in ((frame, "to_parquet()"), (frame["a"], "to_list()"), (frame.index, "to_list()")):
        with pytest.raises(SerializationError) as caught:
            await store.put("run", "frame", [value])
        assert word in caught.value.problem
    await store.put("run", "json", frame.to_json())
    back = pandas.read_json(io.StringIO(await store.get("run", "json")))
    assert back.equals(frame)
    await store.put("run", "column", frame["a"].to_list())
    assert await store.get("run", "column") == [1, 2]
    if importlib.util.find_spec("pyarrow"):
        await store.put("run", "parquet", frame.to_parquet())
        assert pandas.read_parquet(io.BytesIO(await store.get("run", "parquet"))).equals(frame)


def test_others_tables_are_known_by_name_alone() -> None:
    for module, name, word in (
        ("polars.dataframe.frame", "DataFrame", "write_parquet"),
        ("polars.series.series", "Series", "to_list()"),
        ("pyarrow.lib", "Table", "parquet"),
        ("torch", "Tensor", "numpy()"),
    ):
        assert word in refusal([type(name, (), {"__module__": module})()]).problem


def test_the_package_does_not_import_numpy() -> None:
    script = """
import sys
from contextstore import ContextStore
with ContextStore(":memory:") as store:
    try:
        store.put("run", "node", [object()])
    except Exception:
        pass
print({"numpy", "pandas"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
