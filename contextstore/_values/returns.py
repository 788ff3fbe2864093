"""What a function returns, by its return annotation: what its recorded result has to come back as.

Rules of this module: pure functions. Of a function's annotations the one of its result alone is resolved, so that the
names of the others may be there for a type checker alone. What was found is kept at the function itself, and goes with
it.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from .problems import shown
from .readable import refuse_unreadable
from .shapes import WITHOUT_FIELDS, arguments_of_bases, with_arguments


class Returns(NamedTuple):
    """What a recorded result comes back as."""

    kind: Any
    """The type. None: the JSON form, whatever it is."""
    is_own_form: bool
    """Whether the result has to equal its JSON form, since nothing says what else would come back."""


ANYTHING = Returns(None, is_own_form=False)
UNKNOWN = Returns(None, is_own_form=True)

_MARK = "__contextstore_returns__"
_MISSING = object()
_MOST = 100
"""Functions that are wrapped in one another."""
_ANY: tuple[Any, ...] = (Any, object)
_VARIABLES = (typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple)
_OF_MEMBERS = {list, dict, tuple, set, frozenset, *(getattr(collections, name) for name in ("deque", "Counter"))} | {
    collections.OrderedDict,
    collections.defaultdict,
    collections.ChainMap,
}
"""Classes whose objects hold what a call hands over, and which say nothing of its type."""


class _Source(NamedTuple):
    """Where the annotation of a callable stands."""

    function: Any
    """None: there is no annotation."""
    kind: Any = _MISSING
    """Of a class: the class."""
    bound: Any = None
    """The object, or the class, that the function is a method of."""


class _Kept(NamedTuple):
    """What is known of a function."""

    code: types.CodeType
    """Its own. A wrapper has a copy of all that its function has, and another code."""
    annotation: Any
    hint: Any
    returns: Returns | None
    """What a result comes back as. None: that depends on the object that the function is bound to."""


def returns_of(fn: Callable[..., Any], *, is_awaited: bool) -> Returns:
    """What a result of ``fn`` comes back as; ``is_awaited``: if an awaitable is returned, that is awaited.

    Raises ``TypeError`` if its annotation cannot be resolved, or is of a type that no JSON can be made.
    """
    source = _source(fn)
    if source.kind is not _MISSING:
        if source.kind not in WITHOUT_FIELDS or source.kind in (bytes, object):
            _refuse_unreadable(source.kind, fn)
        return Returns(source.kind, is_own_form=source.kind in _OF_MEMBERS)
    function = source.function
    if function is None:
        return UNKNOWN
    is_coroutine_function = function.__code__.co_flags & inspect.CO_COROUTINE
    if is_coroutine_function and not is_awaited:
        raise _never_awaited(function)
    annotation = _annotation(function)
    if annotation is _MISSING:
        return UNKNOWN
    kept = _kept(source, annotation, fn)
    if kept.returns is not None:
        return kept.returns
    hint = _without_self(kept.hint, source, fn)
    if not is_coroutine_function:
        hint = _awaited(hint, function, is_awaited=is_awaited)
    return _returns(hint, fn)


def _returns(hint: Any, fn: Any) -> Returns:
    if hint in _ANY:
        return ANYTHING
    if isinstance(hint, _VARIABLES) or (not isinstance(hint, type) and _parameters(hint)):
        return UNKNOWN
    if hint is typing.LiteralString:
        hint = str
    elif typing.get_origin(hint) in (typing.TypeGuard, getattr(typing, "TypeIs", typing.TypeGuard)):
        hint = bool
    if hint not in WITHOUT_FIELDS:
        _refuse_unreadable(hint, fn)
    return Returns(hint, is_own_form=False)


def _parameters(hint: Any) -> Any:
    """The type variables in an annotation that is no class."""
    return getattr(hint, "__parameters__", ())


def _refuse_unreadable(kind: Any, fn: Any) -> None:
    try:
        refuse_unreadable(kind)
    except TypeError as error:
        raise TypeError(
            f"the return annotation of {name_of(fn)}: {error}; annotate the function that is called with a type that "
            "JSON can be made of, or with -> Any to get the JSON form"
        ) from error


def name_of(fn: Any) -> str:
    """The name of a function, for a message."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or shown(fn))


# ------------------------------------------------------------------------------------------------------ where it stands


def _source(function: Any) -> _Source:
    bound: Any = None
    fn: Any = function
    for _ in range(_MOST):
        if isinstance(fn, types.FunctionType):
            wrapped = fn.__dict__.get("__wrapped__")
            if wrapped is None or not _is_annotation_of(wrapped, fn):
                return _Source(fn, bound=bound)
            fn = wrapped
        elif isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            bound = fn.__self__
            fn = fn.__func__
        elif isinstance(fn, staticmethod):
            fn = fn.__func__
        elif isinstance(fn, type) or typing.get_origin(fn) is not None or hasattr(fn, "__supertype__"):
            return _Source(None, fn)
        elif "__wrapped__" in getattr(fn, "__dict__", ()):  # functools.cache
            fn = fn.__wrapped__
        else:
            call = inspect.getattr_static(type(fn), "__call__", None)
            if not isinstance(call, types.FunctionType):  # a builtin
                return _Source(None)
            bound, fn = fn, call
    return _Source(None)


def _is_annotation_of(wrapped: Any, wrapper: types.FunctionType) -> bool:
    """Whether a wrapper says nothing else of its result than what it wraps: functools.wraps has copied that."""
    own = _annotation(wrapper)
    return own is _MISSING or not isinstance(wrapped, types.FunctionType) or own == _annotation(wrapped)


def _annotation(function: types.FunctionType) -> Any:
    """As it is written; ``_MISSING``: there is none."""
    if sys.version_info >= (3, 14):  # the names of the others may be unknown
        import annotationlib

        found = annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
        return found.get("return", _MISSING)
    return function.__annotations__.get("return", _MISSING)


# -------------------------------------------------------------------------------------------------------- what it means


def _kept(source: _Source, annotation: Any, fn: Any) -> _Kept:
    """What the annotation of a function means: found once."""
    function = source.function
    kept: _Kept | None = function.__dict__.get(_MARK)
    if kept is not None and kept.code is function.__code__ and kept.annotation is annotation:
        return kept
    try:
        hint = type(None) if annotation is None else annotation
        if not isinstance(hint, type):
            hint = _evaluated(source, annotation)
    except Exception as error:  # an annotation is evaluated, and may raise anything
        raise TypeError(
            f"the return annotation of {name_of(fn)} ({shown(annotation, 200)}) cannot be resolved: {error}; its names "
            "have to be known at run time, in the function's module or in the function itself: import them outside of "
            "`if TYPE_CHECKING`, or write -> Any to get the JSON form"
        ) from error
    is_final = not (_has_self(hint) or _parameters(hint) or isinstance(hint, _VARIABLES) or _is_awaitable(hint))
    kept = _Kept(function.__code__, annotation, hint, _returns(hint, fn) if is_final else None)
    function.__dict__[_MARK] = kept
    return kept


class _Alone:
    """A function as it looks with no annotation but that of its result."""

    def __init__(self, function: types.FunctionType, annotation: Any) -> None:
        self._function = function
        self.__annotations__ = {"return": annotation}

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # its names are those of the function itself
            raise AttributeError(name)
        return getattr(self._function, name)


def _evaluated(source: _Source, annotation: Any) -> Any:
    alone: Any = _Alone(source.function, annotation)
    names = _names_within(source.function)
    try:
        return typing.get_type_hints(alone, None, names, include_extras=True)["return"]
    except NameError:
        if source.bound is None:
            raise
        names = _names_of_class(source.bound) | names
        return typing.get_type_hints(alone, None, names, include_extras=True)["return"]


def _names_within(function: types.FunctionType) -> dict[str, Any]:
    """The names that are a function's own: of its type parameters, and of the function that it stands in."""
    names = {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # it is not assigned yet
            continue
    return names


def _names_of_class(bound: Any) -> dict[str, Any]:
    """The names of a method's class and of its type parameters: a local class is named by its methods, too."""
    names: dict[str, Any] = {}
    for base in reversed(_class_of(bound).__mro__):
        names[base.__name__] = base
        names |= {parameter.__name__: parameter for parameter in getattr(base, "__type_params__", ())}
    return names


def _class_of(bound: Any) -> type:
    return bound if isinstance(bound, type) else type(bound)


def _without_self(hint: Any, source: _Source, fn: Any) -> Any:
    """The annotation, with what the object that the method is bound to says of it."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint
    bound = source.bound
    if _has_self(hint):
        if bound is None:
            raise TypeError(
                f"the return annotation of {name_of(fn)} names Self, and the function is bound to no object: pass a "
                "bound method"
            )
        hint = _replaced(hint, _class_of(bound))
    if bound is not None and (isinstance(hint, _VARIABLES) or _parameters(hint)):
        owner = _class_of(bound)
        name = getattr(source.function, "__name__", "")
        definer = next((base for base in owner.__mro__ if name in base.__dict__), owner)
        args = typing.get_args(getattr(bound, "__orig_class__", None))
        hint = with_arguments(hint, arguments_of_bases(owner, args).get(definer, {}))
    return hint


def _has_self(hint: Any) -> bool:
    return hint is typing.Self or any(map(_has_self, typing.get_args(hint)))


def _replaced(hint: Any, owner: type) -> Any:
    if hint is typing.Self:
        return owner
    if not _has_self(hint):
        return hint
    args = tuple(_replaced(arg, owner) for arg in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, args)
    if origin is typing.Annotated:
        return _replaced(args[0], owner)
    return origin[args]


def _is_awaitable(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, collections.abc.Awaitable)


def _awaited(hint: Any, fn: Any, *, is_awaited: bool) -> Any:
    """What the awaitable gives that a plain function returns."""
    if not _is_awaitable(hint):
        return hint
    if not is_awaited:
        raise _never_awaited(fn)
    return (typing.get_args(hint) or (Any,))[-1]


def _never_awaited(fn: Any) -> TypeError:
    return TypeError(
        f"{shown(fn, 200)} returns an awaitable, and ContextStore takes plain functions: use AsyncContextStore"
    )
