"""A Tasuki server without a product behind it: a real gRPC server on loopback whose methods answer what a test scripted.

Also `Blocking` and `Aio`, with which the tests of a class run with either client.
"""

import asyncio
import atexit
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import duration_pb2, message_factory, symbol_database
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

import tasuki
from tasuki import v1


class ServerError(Exception):
    """An error as the real server sends it: with details in google.rpc.Status."""

    def __init__(
        self, code: grpc.StatusCode, reason: str = "", retry_after: float | None = None, faults: dict[str, str] | None = None
    ) -> None:
        self.code = code
        self.status = status_pb2.Status(code=code.value[0], message=f"scripted {reason or code.name}")
        if reason:
            self._add(error_details_pb2.ErrorInfo(reason=reason, domain="tasuki", metadata={"resource": "datasets/d-1"}))
        if retry_after is not None:
            whole = int(retry_after)
            delay = duration_pb2.Duration(seconds=whole, nanos=int((retry_after - whole) * 1e9))
            self._add(error_details_pb2.RetryInfo(retry_delay=delay))
        if faults:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=field, description=what) for field, what in faults.items()
            ]
            self._add(error_details_pb2.BadRequest(field_violations=violations))

    def _add(self, detail: Message) -> None:
        self.status.details.add().Pack(detail)


class FakeServer:
    """`scripts[method](call, request, context)` answers `method`, such as "GetDataset": a message, or an iterator of
    messages where the method streams. `call` counts from 1; `request` of a method that takes a stream is an iterator.
    `metadata[method]` has that of each call, `left` its seconds until the deadline."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0") -> None:
        self.scripts: dict[str, Callable[[int, Any, grpc.ServicerContext], Any]] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.metadata: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.left: dict[str, list[float | None]] = defaultdict(list)
        self.cancelled = threading.Event()  # the last call of a script that uses `hang` was given up
        self.scripts["StreamClassify"] = self._stream_classify
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers([_Handler(self)])
        add = self._server.add_secure_port if credentials else self._server.add_insecure_port
        self.port = add(address, credentials) if credentials else add(address)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def hang(self, call: int, request: Any, context: grpc.ServicerContext) -> Any:
        """A script that answers when the caller has left."""
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()
        gone.wait(30)
        self.cancelled.set()
        raise ServerError(grpc.StatusCode.CANCELLED)

    def _stream_classify(self, call: int, requests: Any, context: grpc.ServicerContext) -> Any:
        """Each message is answered as Classify would."""
        for each in requests:
            self.calls["Classify"] += 1
            try:
                yield v1.StreamClassifyResponse(response=self.scripts["Classify"](self.calls["Classify"], each.request, context))
            except ServerError as error:
                yield v1.StreamClassifyResponse(error=error.status)

    def play(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls[method] += 1
        self.metadata[method].append({key: str(value) for key, value in context.invocation_metadata()})
        self.left[method].append(context.time_remaining())
        if method not in self.scripts:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no script")
        try:
            return self.scripts[method](self.calls[method], request, context)
        except ServerError as error:
            fail(context, error)


def fail(context: grpc.ServicerContext, error: ServerError) -> None:
    """Ends a call with an error; for scripts that have streamed already."""
    context.set_trailing_metadata((("grpc-status-details-bin", error.status.SerializeToString()), ("served-by", "fake")))
    context.abort(error.code, error.status.message)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, name = details.method.lstrip("/").partition("/")
        pool = symbol_database.Default().pool
        method = pool.FindServiceByName(service).methods_by_name[name]
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = kinds[method.client_streaming, method.server_streaming]
        request = message_factory.GetMessageClass(method.input_type)
        return make(
            lambda given, context: self._fake.play(name, given, context),
            request_deserializer=request.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )


class OnLoop:
    """The asyncio client as if it were the blocking one, so that tests are written once."""

    def __init__(self, calls: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._calls, self._loop = calls, loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._calls, name)
        if not callable(value):
            return OnLoop(value, self._loop)

        def call(*arguments: Any, **named: Any) -> Any:
            result = value(*arguments, **named)
            if inspect.isawaitable(result):
                return self._loop.run_until_complete(result)
            return self._steps(result) if inspect.isasyncgen(result) else OnLoop(result, self._loop)

        return call

    def _steps(self, rows: Any) -> Any:
        try:
            while True:
                try:
                    row = self._loop.run_until_complete(rows.__anext__())
                except StopAsyncIteration:
                    return
                yield row
        finally:
            self._loop.run_until_complete(rows.aclose())


class Blocking:
    """Mixed into a TestCase: `connect` makes a blocking client, closed after the test."""

    def connect(self, target: str, **options: Any) -> Any:
        client = tasuki.Client(target, **options)
        self.addCleanup(client.close)  # type: ignore[attr-defined]
        return client


# One for all tests: what still happens to calls of a loop that was closed, grpc.aio reports on standard error.
LOOP = asyncio.new_event_loop()
atexit.register(LOOP.close)


class Aio:
    """Mixed into a TestCase: `connect` makes a client of asyncio."""

    def setUp(self) -> None:
        self.loop = LOOP
        super().setUp()  # type: ignore[misc]

    def connect(self, target: str, **options: Any) -> Any:
        client = OnLoop(tasuki.aio.Client(target, **options), self.loop)
        self.addCleanup(client.close)  # type: ignore[attr-defined]
        return client
