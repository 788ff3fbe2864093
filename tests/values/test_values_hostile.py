"""No value ends the interpreter, whatever its class does: each is tried in a process of its own kind.

What is put there is stored or refused, and what is read there is read or refused; the process goes on.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGINNING = """
import array, collections, ctypes, dataclasses, datetime, decimal, enum, sys, threading, time, types, typing, uuid
import attrs, msgspec, orjson, pydantic, weakref
from contextstore import DeserializationError, SerializationError
from contextstore._values.codec import JSON, Encoded, decode, encode

def put(value, kind=None):
    for held in (value, [value], {"a": value}, (1, value), [[value] * 3], {"n": None, "v": value}):
        try:
            stored = encode(held, 10**9)
        except SerializationError as error:
            str(error)
        else:
            decode(stored)
    if kind is not None:
        for held, holder in ((value, kind), ([value], list[kind]), ({"a": value}, dict[str, kind])):
            try:
                stored = encode(held, 10**9)
            except SerializationError:
                continue
            look(decode(stored, holder))

def read(data, kind):
    try:
        look(decode(Encoded(JSON, data), kind))
    except (DeserializationError, TypeError) as error:
        str(error)

def look(value):
    for question in (repr, len, hash, str, bool, lambda it: it == it):
        try:
            question(value)
        except Exception:
            pass
"""

HOSTILE = {
    "Enum members that are their own value, or each other's": """
class Marker(enum.Enum):
    def __new__(cls, *args):
        member = object.__new__(cls)
        member._value_ = member
        return member
    MISSING = "nothing was given"
class One(enum.Enum):
    A = 1
class Two(enum.Enum):
    A = 2
class Listed(enum.Enum):
    A = [1]
class Paired(enum.Enum):
    A = [1]
One.A._value_, Two.A._value_ = Two.A, One.A
Listed.A._value_, Paired.A._value_ = [Listed.A], (Paired.A,)
@dataclasses.dataclass
class Holder:
    marker: Marker
    other: Marker | int = 3
for member in (Marker.MISSING, One.A, Two.A, Listed.A, Paired.A):
    put(member, type(member))
    put({member: 1})
put(Holder(Marker.MISSING), Holder)
for kind in (Marker, list[Marker], dict[Marker, int], Marker | int, typing.Literal[Marker.MISSING, 1], Holder):
    for data in (b"1", b'"x"', b"[1]", b'{"marker":1}'):
        read(data, kind)
""",
    "a long chain of Enum members": """
member = enum.Enum("First", {"A": 1}).A
for _ in range(600):
    member = enum.Enum("Next", {"A": member}).A
put(member, type(member))
""",
    "a __class__ that lies, and fields that ask for themselves": """
class Liar:
    @property
    def __class__(self):
        return dict
class LyingDict(dict):
    @property
    def __class__(self):
        return int
@dataclasses.dataclass
class Asking:
    x: int
    def __getattr__(self, name):
        return getattr(self, name + "x")
@attrs.define(slots=False)
class Endless:
    x: int
    def __getattribute__(self, name):
        return getattr(self, name)
asking = Asking(1)
del asking.x
for value in (Liar(), LyingDict(a=1), asking, Endless(1)):
    put(value, type(value))
""",
    "ints of a million digits": """
@dataclasses.dataclass
class Number:
    x: int
huge = 10**1_000_000
for value in (huge, -huge, {huge: 1}, {huge}, Number(huge), type("Int", (int,), {})(huge)):
    put(value)
for kind in (int, float, decimal.Decimal, bool, Number, uuid.UUID):
    read(b"1" * 100_000, kind)
    read(b'"' + b"1" * 100_000 + b'"', kind)
    read(b'"1e999999999"', kind)
""",
    "containers of any depth": """
wraps = [
    lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: ([v], 1), lambda v: {"a": (v,)}, lambda v: [v, {}],
    lambda v: collections.OrderedDict(a=v), lambda v: collections.deque([v]), lambda v: types.SimpleNamespace(a=v),
    lambda v: type("List", (list,), {})([v]),
]
for levels in (254, 255, 300, 1000, 3000, 30_000):
    for wrap in wraps[:-1] if levels > 1000 else wraps:
        value = 1
        for _ in range(levels):
            value = wrap(value)
        put(value)
sets = frozenset()
for _ in range(60):
    sets = frozenset([sets])
put(sets)
""",
    "classes of any depth": """
@dataclasses.dataclass
class Data:
    x: "Data | int"
@dataclasses.dataclass
class Hooked:
    x: "Hooked | Data | int"
    def __post_init__(self):
        pass
@attrs.define
class Attrs:
    x: "Attrs | int"
class Struct(msgspec.Struct):
    x: "Struct | int"
class Row(msgspec.Struct, array_like=True):
    x: "Row | int"
class Tuple(typing.NamedTuple):
    x: "Tuple | int"
class Model(pydantic.BaseModel):
    x: "Model | int | None" = None
for levels in (150, 255):
    for kind in (Data, Hooked, Attrs, Struct, Row, Tuple, lambda x: Model.model_construct(x=x)):
        value = 1
        for _ in range(levels):
            value = kind(x=value)
        put(value, type(value))
for levels in (150, 1000):
    data = b'{"x":' * levels + b"1" + b"}" * levels
    for kind in (Data, Hooked, Attrs, Struct, Model, Data | Model, dict, dict[str, typing.Any], pydantic.JsonValue):
        read(data, kind)
""",
    "what contains itself": """
class Model(pydantic.BaseModel):
    x: typing.Any = None
@pydantic.dataclasses.dataclass
class Checked:
    x: typing.Any = None
@dataclasses.dataclass
class Data:
    x: typing.Any = None
class Struct(msgspec.Struct):
    x: typing.Any = None
for kind in (Model, Checked, Data, Struct):
    for wrap in (lambda v: v, lambda v: [v], lambda v: {"a": (v,)}):
        value = kind()
        value.x = wrap(value)
        put(value, kind)
circle, other, third = ([],), ({},), []
circle[0].append(circle)
other[0]["a"] = other
third.append((third,))
ordered, user = collections.OrderedDict(), collections.UserDict()
ordered["a"], user["a"] = ordered, user
for value in (circle, other, third, ordered, user):
    put(value)
""",
    "values that other threads change meanwhile": """
@dataclasses.dataclass
class Held:
    items: list
    by_name: dict
rows, names, held = [[1, (2, [3])] for _ in range(50)], {str(i): i for i in range(200)}, Held([1], {"a": 1})
is_over = False
def churn():
    number = 0
    while not is_over:
        number += 1
        for row in rows[:10]:
            row.append((number, [number]))
            row[:] = row[-3:]
        names[str(number % 400)] = number
        names.pop(str((number + 7) % 400), None)
        held.items, held.by_name = [number] * (number % 5), {str(number): number}
        if number % 97 == 0:
            names["set"] = {1}
            names.pop("set", None)
threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
end = time.monotonic() + 1
while time.monotonic() < end:
    for value in (rows, names, held, [held, rows]):
        try:
            encode(value, 10**9)
        except SerializationError:
            pass
is_over = True
for thread in threads:
    thread.join()
""",
    "objects on which nothing was set, and others' raw text": """
@dataclasses.dataclass(slots=True)
class Data:
    x: int
@attrs.define
class Attrs:
    x: int
class Model(pydantic.BaseModel):
    x: int
class Slots:
    __slots__ = ("a",)
for kind in (Data, Attrs, Model, Slots, uuid.UUID, datetime.timezone):
    try:
        put(kind.__new__(kind), kind)
    except TypeError:
        pass
class Raw(msgspec.Struct):
    raw: msgspec.Raw
others = (orjson.Fragment(b"["), msgspec.Raw(b"{"), msgspec.msgpack.Ext(1, b"x"), msgspec.UNSET, Raw(msgspec.Raw(b"[")))
for value in others:
    put(value, type(value))
""",
    "what is no data": """
import functools, io, re
async def waits():
    pass
waiting = waits()
for value in (
    (n for n in [1]), waiting, memoryview(b"abc")[::2], ctypes.c_int(3), (ctypes.c_int * 3)(), ctypes.py_object(),
    ctypes.create_string_buffer(5), array.array("d", [1.0]), io.BytesIO(b"x"), re.compile("a"), functools.partial(int),
    sys._getframe(), sys, type, object, weakref.ref(put), weakref.proxy(put), types.MappingProxyType({}), ..., slice(1),
    put.__code__, {}.keys(), threading.Lock(), BaseException(), list[int], typing.Any, typing.TypeVar("T"), int | str,
    bytearray(b"x"), {b"a": 1}, frozenset({(1, 2)}), 1j,
):
    put(value)
waiting.close()
for kind in (
    types.ModuleType, object, type, typing.Callable, typing.Iterator[int], range, memoryview, complex, type[int], 5,
    typing.Generic, enum.Enum, enum.Flag, msgspec.Struct, pydantic.BaseModel, threading.local, Exception, weakref.ref,
    ctypes.c_int, ctypes.Structure, tuple[()], collections.ChainMap, datetime.tzinfo, typing.Never, typing.Self,
    typing.ClassVar[int], typing.Required[int], property, types.CodeType, types.GeneratorType,
):
    for data in (b"null", b"1", b'"x"', b"[1]", b'{"a":1}'):
        read(data, kind)
""",
    "zones that return anything": """
class Zone(datetime.tzinfo):
    def __init__(self, offset):
        self.offset = offset
    def utcoffset(self, moment):
        return self.offset(moment) if callable(self.offset) else self.offset
    def dst(self, moment):
        return None
class Moment(datetime.datetime):
    def utcoffset(self):
        return self.utcoffset()
    def __eq__(self, other):
        return self == other
    __hash__ = None
long, short = datetime.timedelta(days=3), datetime.timedelta(microseconds=1)
for offset in (None, 5, long, short, lambda m: 1 / 0, lambda m: m.utcoffset()):
    for moment in (datetime.datetime.min, datetime.datetime.max, datetime.time(1)):
        put(moment.replace(tzinfo=Zone(offset)), type(moment))
put(Moment(2020, 1, 1), Moment)
""",
    "subclasses and metaclasses that break every promise": """
class Dict(dict):
    def items(self):
        return 5
    def __iter__(self):
        raise RuntimeError
    def __len__(self):
        return 10**9
class List(list):
    def __len__(self):
        return -5
    def __next__(self):
        return 1
    def __iter__(self):
        return self
class Tuple(tuple):
    _fields = ("a", "b", "c")
class Text(str):
    def __eq__(self, other):
        raise RuntimeError
    def __hash__(self):
        return 1
class Meta(type):
    def __getattr__(cls, name):
        return cls
    def __eq__(cls, other):
        raise RuntimeError
    def __hash__(cls):
        raise RuntimeError
class Odd(metaclass=Meta):
    pass
class Repr:
    def __repr__(self):
        return self.__repr__()
@dataclasses.dataclass
class Equal:
    x: int
    def __eq__(self, other):
        return self == other
@dataclasses.dataclass
class Again:
    x: int
    def __post_init__(self):
        self.__post_init__()
@dataclasses.dataclass
class Puts:
    x: int
    def __post_init__(self):
        encode(self, 1000)
again, puts = Again.__new__(Again), Puts.__new__(Puts)
again.x = puts.x = 1
for value in (Dict(a=1), List([1]), Tuple((1,)), Text("x"), Equal(1), again, puts):
    put(value, type(value))
for value in (Odd(), Repr(), {Repr(): 1}, {Text("a"): 1}):
    put(value)
""",
    "models that dump anything": """
class Marker(enum.Enum):
    def __new__(cls, *args):
        member = object.__new__(cls)
        member._value_ = member
        return member
    A = 1
deep = ()
for _ in range(50_000):
    deep = (deep,)
class Model(pydantic.BaseModel):
    x: int
    def model_dump(self, **options):
        return made(self)
class Serialized(pydantic.BaseModel):
    x: int
    @pydantic.model_serializer
    def dump(self):
        return {"x": self.model_dump()}
dumps = [lambda m: m, lambda m: {"x": Marker.A}, lambda m: {"x": deep, "n": None}, lambda m: 1 / 0, lambda m: {1: 2}]
for made in dumps:
    put(Model(x=1), Model)
put(Serialized(x=1), Serialized)
""",
    "dataclasses and attrs classes on top of anything": """
import io
for base in (
    dict, list, set, str, int, float, bytes, tuple, Exception, OSError, threading.local, collections.OrderedDict,
    collections.deque, datetime.datetime, type, types.ModuleType, io.BytesIO, bytearray, frozenset, uuid.UUID,
    decimal.Decimal, array.array, KeyError, collections.defaultdict, weakref.ref, property,
):
    for decorator in (dataclasses.dataclass, attrs.define(slots=False), attrs.define):
        try:
            kind = decorator(type("Kind", (base,), {"__annotations__": {"field": int}}))
        except Exception:
            continue
        for make in (lambda: kind(1), lambda: kind.__new__(kind)):
            try:
                value = make()
                object.__setattr__(value, "field", 3)
            except Exception:
                continue
            put(value, kind)
        read(b'{"field":3}', kind)
        read(b'[{"field":3}]', list[kind])
        read(b'[{"field":3}]', typing.Annotated[list[kind], msgspec.Meta(max_length=3)])
""",
    "a generic class that leads to ever new ones": """
T = typing.TypeVar("T")
@dataclasses.dataclass
class Growing(typing.Generic[T]):
    x: "Growing[list[T]] | None" = None
put(Growing(Growing(Growing())), Growing)
read(b'{"x":{"x":null}}', Growing[int])
""",
}
NUMPY = """
import numpy
objects = numpy.array([1, [2], None], dtype=object)
objects[0] = objects
for value in (
    objects, numpy.array(3), numpy.zeros((2, 2)), numpy.ma.masked, numpy.void(b"abc"), numpy.datetime64("NaT"),
    numpy.timedelta64(1), numpy.longdouble(1) / 3, numpy.complex64(1), numpy.bytes_(b"x"), numpy.str_("x\\ud800"),
    numpy.dtype("i4"), numpy.rec.array([(1, 2)]), numpy.matrix([1]), numpy.float64("nan"),
    numpy.nditer(numpy.arange(3)), {numpy.str_("a"): 1}, {numpy.int64(1): 1},
):
    put(value)
"""


def run(script: str) -> None:
    program = f"{BEGINNING}\n{script}\nprint('unharmed')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")


# A process each: in `make test` the first of them, which are of different kinds.
@pytest.mark.parametrize(
    "what", [*list(HOSTILE)[:5], *(pytest.param(what, marks=pytest.mark.thorough) for what in list(HOSTILE)[5:])]
)
def test_the_process_goes_on_whatever_is_put_and_read(what: str) -> None:
    run(HOSTILE[what])


def test_the_process_goes_on_whatever_of_numpy_is_put() -> None:
    pytest.importorskip("numpy")
    run(NUMPY)
