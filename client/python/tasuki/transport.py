"""gRPC, blocking and asyncio, behind one interface of coroutines.

The client's calls are written once, as coroutines over a `Transport`. Over a `BlockingTransport` no await ever waits:
it has an answer when it returns, so that `blocking.run` can drive a call on the caller's thread without an event loop.
"""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from tasuki import blocking, errors
from tasuki.options import Place
from tasuki.version import VERSION

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Result = TypeVar("Result")
Sent = TypeVar("Sent", contravariant=True)
Got = TypeVar("Got", covariant=True)
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Method(Generic[Request, Answer]):
    """A method of the API."""

    path: str  # "/tasuki.v1.DatasetService/GetDataset"
    request: type[Request]
    answer: type[Answer]

    def of(self, make: Callable[..., Any]) -> Any:
        """`make` is one of a channel's four, such as channel.unary_unary."""
        return make(self.path, request_serializer=self.request.SerializeToString, response_deserializer=self.answer.FromString)


class Exchange(Protocol[Sent, Got]):
    """A call that streams in both directions."""

    def write(self, request: Sent) -> None:
        """Never waits: how much is under way is for the caller to bound."""

    async def read(self, timeout: float) -> Got:
        """The next answer. Raises errors.Error; DeadlineExceeded if none comes in time, Unavailable if there are no more."""

    def cancel(self) -> None: ...


class Transport(Protocol):
    """Errors are of errors.Error. Whoever is interrupted (KeyboardInterrupt, CancelledError) cancels the call."""

    place: Place

    async def call(self, method: Method[Request, Answer], request: Request, timeout: float, metadata: Metadata) -> Answer:
        """A call with one request and one answer."""

    async def send(
        self, method: Method[Request, Answer], requests: Iterator[Request], timeout: float, metadata: Metadata
    ) -> Answer:
        """Streams requests, each of which may be read from a disk. What they raise is raised, and the call cancelled."""

    def receive(
        self, method: Method[Request, Answer], request: Request, timeout: float | None, metadata: Metadata
    ) -> AsyncIterator[Answer]:
        """Streams answers. Closing it early cancels the call."""

    def exchange(self, method: Method[Request, Answer], metadata: Metadata) -> Exchange[Request, Answer]:
        """Begins a call that streams in both directions; to be cancelled at the end."""

    async def sleep(self, seconds: float) -> None: ...
    async def aside(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs what blocks, such as reading a disk, where it holds nobody up."""

    async def close(self) -> None: ...


# As client/connection.cc has them.
_CHANNEL_OPTIONS: dict[str, str | int] = {
    "grpc.primary_user_agent": f"tasuki-python/{VERSION}",
    "grpc.max_receive_message_length": 64 << 20,
    "grpc.max_metadata_size": 64 << 10,  # details of an error travel as metadata
    "grpc.initial_reconnect_backoff_ms": 100,  # attempts are spaced by us; the channel must have tried again by then
    "grpc.min_reconnect_backoff_ms": 5000,
    "grpc.max_reconnect_backoff_ms": 2000,
    "grpc.keepalive_time_ms": 6 * 60 * 1000,  # finds a peer that vanished during a quiet watch
}


def _channel(module: Any, place: Place) -> Any:
    """A channel made by grpc or grpc.aio."""
    options = dict(_CHANNEL_OPTIONS)
    if place.tls is None:
        return module.insecure_channel(place.target, options=list(options.items()))
    if place.tls.server_name:
        options["grpc.ssl_target_name_override"] = place.tls.server_name
    return module.secure_channel(place.target, place.tls.credentials(), options=list(options.items()))


class _Pending(Generic[Answer]):
    """A call of the blocking kind under way."""

    def __init__(self, call: Any, path: str, target: str) -> None:
        self._call, self._path, self._target = call, path, target
        self.cancel = call.cancel

    async def result(self) -> Answer:
        try:
            answer: Answer = self._call.result()
            return answer
        except grpc.RpcError as error:
            _raise(error, self._path, self._target)
        except grpc.FutureCancelledError:
            raise errors.make(errors.Cancelled, "the call was cancelled", self._path) from None
        except BaseException:
            self._call.cancel()
            raise


class _Upload(_Pending[Answer]):
    """A stream of requests under way, read on a thread of gRPC."""

    def __init__(
        self,
        method: Method[Request, Answer],
        channel: Any,
        requests: Iterator[Request],
        timeout: float,
        metadata: Metadata,
        target: str,
    ) -> None:
        self._fault: BaseException | None = None
        begun = threading.Event()  # gRPC may ask for the first request before there is a call

        def until_fault() -> Iterator[Request]:
            try:
                yield from requests
            except GeneratorExit:  # the call has ended before all was sent
                raise
            except BaseException as error:  # what ended here would be taken for all there is
                self._fault = error
                begun.wait()
                self.cancel()

        call = method.of(channel.stream_unary).future(until_fault(), timeout=timeout, metadata=metadata)
        super().__init__(call, method.path, target)
        begun.set()

    async def result(self) -> Answer:
        try:
            return await super().result()
        except errors.Error:
            if self._fault is not None:
                raise self._fault from None
            raise

    async def ended(self) -> None:
        """Waits for the end without blocking the event loop."""
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        self._call.add_done_callback(lambda _: loop.call_soon_threadsafe(end.set))
        try:
            await end.wait()
        except BaseException:
            self.cancel()
            raise


class _BlockingExchange(Generic[Request, Answer]):
    def __init__(self, method: Method[Request, Answer], channel: Any, metadata: Metadata, target: str) -> None:
        self._path, self._target = method.path, target
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()  # a thread of gRPC empties it
        self._call = method.of(channel.stream_stream)(iter(self._requests.get, None), metadata=metadata)

    def write(self, request: Request) -> None:
        self._requests.put(request)

    async def read(self, timeout: float) -> Answer:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._call.cancel()

        timer = threading.Timer(timeout, give_up)
        timer.daemon = True
        timer.start()
        try:
            answer: Answer = next(self._call)
            return answer
        except StopIteration:
            raise _no_more(self._path) from None
        except grpc.RpcError as error:
            if late.is_set():
                raise _too_late(timeout, self._path) from None
            _raise(error, self._path, self._target)
        finally:
            timer.cancel()

    def cancel(self) -> None:
        self._requests.put(None)
        self._call.cancel()


class BlockingTransport:
    """Thread-safe."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._opened = _channel(grpc, place)
        self._closed = False

    @property
    def _channel(self) -> Any:
        _unless_closed(self._closed)
        return self._opened

    async def call(self, method: Method[Request, Answer], request: Request, timeout: float, metadata: Metadata) -> Answer:
        call = method.of(self._channel.unary_unary).future(request, timeout=timeout, metadata=metadata)
        pending: _Pending[Answer] = _Pending(call, method.path, self.place.target)
        return await pending.result()

    def upload(
        self, method: Method[Request, Answer], requests: Iterator[Request], timeout: float, metadata: Metadata
    ) -> "_Upload[Answer]":
        """Begins what `send` does."""
        return _Upload(method, self._channel, requests, timeout, metadata, self.place.target)

    async def send(
        self, method: Method[Request, Answer], requests: Iterator[Request], timeout: float, metadata: Metadata
    ) -> Answer:
        return await self.upload(method, requests, timeout, metadata).result()

    async def receive(
        self, method: Method[Request, Answer], request: Request, timeout: float | None, metadata: Metadata
    ) -> AsyncIterator[Answer]:
        call = method.of(self._channel.unary_stream)(request, timeout=timeout, metadata=metadata)
        try:
            for answer in call:
                yield answer
        except grpc.RpcError as error:
            _raise(error, method.path, self.place.target)
        finally:
            call.cancel()

    def exchange(self, method: Method[Request, Answer], metadata: Metadata) -> Exchange[Request, Answer]:
        return _BlockingExchange(method, self._channel, metadata, self.place.target)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def aside(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return function(*arguments)

    async def close(self) -> None:
        self._closed = True
        self._opened.close()


class _AioExchange(_BlockingExchange[Request, Answer]):
    """One whose answers are waited for by a thread of its own."""

    def __init__(self, method: Method[Request, Answer], channel: Any, metadata: Metadata, target: str) -> None:
        super().__init__(method, channel, metadata, target)
        self._thread = ThreadPoolExecutor(1)

    async def read(self, timeout: float) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, blocking.run, super().read(timeout))

    def cancel(self) -> None:
        super().cancel()
        self._thread.shutdown(wait=False)


class AioTransport:
    """Of one event loop: that in which its first call is made."""

    def __init__(self, place: Place) -> None:
        self.place = place
        if place.tls:
            place.tls.credentials()  # so that what is wrong with them shows here
        self._opened: Any = None
        self._blocking: BlockingTransport | None = None
        self._closed = False

    @property
    def _channel(self) -> Any:
        _unless_closed(self._closed)
        if self._opened is None:  # a channel belongs to the loop that runs when it is made
            self._opened = _channel(grpc.aio, self.place)
        return self._opened

    @property
    def _of_requests(self) -> BlockingTransport:
        """For streams of requests: grpc.aio loses what a server says that ends one early (grpc/grpc#36066)."""
        _unless_closed(self._closed)
        if self._blocking is None:
            self._blocking = BlockingTransport(self.place)
        return self._blocking

    async def call(self, method: Method[Request, Answer], request: Request, timeout: float, metadata: Metadata) -> Answer:
        try:
            answer: Answer = await method.of(self._channel.unary_unary)(request, timeout=timeout, metadata=metadata)
            return answer
        except grpc.RpcError as error:
            _raise(error, method.path, self.place.target)
        except asyncio.CancelledError:
            _unless_cancelled_by_server(method.path)
            raise

    async def send(
        self, method: Method[Request, Answer], requests: Iterator[Request], timeout: float, metadata: Metadata
    ) -> Answer:
        upload = self._of_requests.upload(method, requests, timeout, metadata)
        await upload.ended()
        return await upload.result()

    async def receive(
        self, method: Method[Request, Answer], request: Request, timeout: float | None, metadata: Metadata
    ) -> AsyncIterator[Answer]:
        call = method.of(self._channel.unary_stream)(request, timeout=timeout, metadata=metadata)
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                yield answer
        except grpc.RpcError as error:
            _raise(error, method.path, self.place.target)
        except asyncio.CancelledError:
            _unless_cancelled_by_server(method.path)
            raise
        finally:
            call.cancel()

    def exchange(self, method: Method[Request, Answer], metadata: Metadata) -> Exchange[Request, Answer]:
        return _AioExchange(method, self._of_requests._channel, metadata, self.place.target)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aside(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.to_thread(function, *arguments)

    async def close(self) -> None:
        self._closed = True
        if self._blocking is not None:
            await self._blocking.close()
        if self._opened is not None:
            await self._opened.close()


def _unless_closed(closed: bool) -> None:
    if closed:
        raise errors.make(errors.Cancelled, "the client was closed")


def _raise(error: Any, path: str, target: str) -> NoReturn:
    raise errors.from_rpc(error, path, target) from None


def _too_late(timeout: float, path: str) -> errors.Error:
    return errors.make(errors.DeadlineExceeded, f"no answer within {timeout:g} s", path)


def _no_more(path: str) -> errors.Error:
    return errors.make(errors.Unavailable, "the server ended the stream", path)


def _unless_cancelled_by_server(path: str) -> None:
    """grpc.aio raises CancelledError also where it is the server that said CANCELLED."""
    task = asyncio.current_task()
    if task is None or task.cancelling() == 0:
        raise errors.make(errors.Unavailable, "the server broke the call off", path) from None
