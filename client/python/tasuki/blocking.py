"""Turns the coroutines of the asyncio client into plain methods: the same calls, on the caller's thread.

Over a `BlockingTransport` a coroutine never waits, so one step of it is all of it and no event loop is needed; it works
beside one too, as in a notebook. Ctrl-C is raised inside the call, which cancels it.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from types import GenericAlias
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_args

P = ParamSpec("P")
Result = TypeVar("Result")


class Blocking:
    """Base of classes whose methods are those of `calls`."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(Result, end.value)
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for an event loop")


def method(of: Callable[Concatenate[Any, P], Coroutine[Any, Any, Result]]) -> Callable[Concatenate[Any, P], Result]:
    """The same method, blocking."""

    @functools.wraps(of)
    def call(self: Blocking, /, *arguments: P.args, **named: P.kwargs) -> Result:
        return run(of(self._calls, *arguments, **named))

    return call


def iterator(of: Callable[Concatenate[Any, P], AsyncIterator[Result]]) -> Callable[Concatenate[Any, P], Iterator[Result]]:
    """The same iterator, blocking."""

    @functools.wraps(of)
    def call(self: Blocking, /, *arguments: P.args, **named: P.kwargs) -> Iterator[Result]:
        rows = cast("AsyncGenerator[Result, None]", of(self._calls, *arguments, **named))
        try:
            while True:
                try:
                    row = run(rows.__anext__())
                except StopAsyncIteration:
                    return
                yield row
        finally:
            run(rows.aclose())

    signature = inspect.signature(of)
    setattr(
        call, "__signature__", signature.replace(return_annotation=GenericAlias(Iterator, get_args(signature.return_annotation)))
    )
    return call
