"""The one loop that makes attempts. Everything else of the client calls through it."""

import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from tasuki.errors import Error, FailedPrecondition, NotFound, ResourceExhausted, Unavailable, make
from tasuki.options import Options, Retries, Timeouts
from tasuki.tls_fault import tls_fault
from tasuki.transport import Answer, Method, Request, Result, Transport

PAGE_SIZE = 1000


class Connection:
    """A transport and what its calls share. Immutable; as thread-safe as the transport."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self.transport = transport
        self.options = options

    def with_options(
        self,
        timeout: float | Timeouts | None,
        retries: Retries | None,
        traceparent: str | Callable[[], str | None] | None,
        metadata: Mapping[str, str] | None,
    ) -> "Connection":
        """The same transport with other options; None leaves one as it is, and metadata is added."""
        now = self.options
        options = Options(
            now.timeouts if timeout is None else Timeouts.of(timeout),
            retries or now.retries,
            now.token,
            now.traceparent if traceparent is None else traceparent,
            {**now.metadata, **(metadata or {})},
        )
        return Connection(self.transport, options)

    @property
    def timeouts(self) -> Timeouts:
        return self.options.timeouts

    async def call(
        self, method: Method[Request, Answer], request: Request, timeout: float | None, repeatable: bool = True
    ) -> Answer:
        """Calls until there is an answer or the call has failed; `timeout` is that of ordinary calls if None."""

        async def attempt(left: float) -> Answer:
            return await self.transport.call(method, request, left, self.options.call_metadata())

        return await self.repeat(attempt, self.timeouts.ordinary if timeout is None else timeout, repeatable)

    async def delete(self, method: Method[Request, Any], request: Request, timeout: float | None) -> None:
        """A call whose second attempt finds the work of the first done ends well."""
        made = 0

        async def attempt(left: float) -> None:
            nonlocal made
            made += 1
            await self.transport.call(method, request, left, self.options.call_metadata())

        try:
            await self.repeat(attempt, self.timeouts.ordinary if timeout is None else timeout)
        except NotFound:
            if made == 1:
                raise

    async def send(
        self,
        method: Method[Request, Answer],
        requests: Callable[[], Iterator[Request]],
        timeout: float | None,
        repeatable: bool = True,
    ) -> Answer:
        """Streams what `requests` makes, anew for every attempt."""

        async def attempt(left: float) -> Answer:
            return await self.transport.send(method, requests(), left, self.options.call_metadata())

        return await self.repeat(attempt, self.timeouts.transfer if timeout is None else timeout, repeatable)

    async def rows(
        self, method: Method[Request, Any], request: Request, field: str, limit: int | None, timeout: float | None
    ) -> AsyncIterator[Any]:
        """The rows of a list's pages, `limit` at most; `field` of an answer has them."""
        page: Any = request
        left = limit
        while left is None or left > 0:
            page.page_size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            answer = await self.call(method, page, timeout)
            rows = list(getattr(answer, field))[:left]
            for row in rows:
                yield row
            page.page_token = answer.next_page_token
            if not page.page_token:
                return
            left = None if left is None else left - len(rows)

    async def repeat(self, attempt: Callable[[float], Awaitable[Result]], timeout: float, repeatable: bool = True) -> Result:
        """Makes attempts, each told the seconds that are left, until one ends with something else than an error worth
        retrying: UNAVAILABLE, or RESOURCE_EXHAUSTED with a time after which to try again."""
        deadline = time.monotonic() + timeout
        retries = self.options.retries
        backoff = retries.first_backoff
        for made in itertools.count(1):
            try:
                return await attempt(max(deadline - time.monotonic(), 0))
            except (Unavailable, ResourceExhausted) as error:
                wait = max(backoff, await self.wait_after(error))
                # An attempt that could not begin before the deadline would hide why the call failed.
                in_time = time.monotonic() + 1.5 * wait < deadline
                if not (repeatable and in_time and made < retries.max_attempts):
                    raise
            await self.pause(wait)
            backoff = min(2 * backoff, retries.max_backoff)
        raise AssertionError("unreachable")

    async def wait_after(self, error: Error) -> float:
        """The seconds that the server wants to be left alone after an error. Raises the error if it is not worth retrying,
        or FailedPrecondition if TLS is why the server was not reached."""
        if isinstance(error, Unavailable) and not error.reason:
            fault = await self.transport.aside(tls_fault, self.transport.place)
            if fault:
                fault = f"no connection with the server at {self.transport.place.target}: {fault}"
                raise make(FailedPrecondition, fault, error.method) from None
        elif error.retry_delay is None and not isinstance(error, Unavailable):
            raise error
        return error.retry_delay or 0

    async def pause(self, mean: float) -> None:
        """Waits `mean` seconds give or take a half."""
        await self.transport.sleep(mean * random.uniform(0.5, 1.5))
