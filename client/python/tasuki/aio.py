"""The asyncio client: `async with tasuki.aio.Client() as client: await client.classify(…)`.

Its methods and their names, arguments, results and errors are those of `tasuki.Client`; lists and watches are
asynchronous iterators. Cancelling a task cancels the call that it waits for. A client belongs to the event loop in which
it makes its first call.
"""

from collections.abc import Callable, Mapping

from grpc_health.v1 import health_pb2

from tasuki import v1
from tasuki.classification import Classification
from tasuki.connection import Connection
from tasuki.datasets import Datasets
from tasuki.jobs import Jobs
from tasuki.models import Models
from tasuki.options import TLS, Options, Retries, Timeouts, Token, place_of
from tasuki.transport import AioTransport, Method

__all__ = ["Client"]

SERVER_INFO = Method("/tasuki.v1.ServerService/GetServerInfo", v1.GetServerInfoRequest, v1.ServerInfo)
SET_LOG_LEVEL = Method("/tasuki.v1.ServerService/SetLogLevel", v1.SetLogLevelRequest, v1.ServerInfo)
HEALTH = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse)


class Calls(Classification):
    """Every call of a client, as coroutines over a connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.datasets = Datasets(connection)
        self.jobs = Jobs(connection)
        self.models = Models(connection)

    async def server_info(self, *, timeout: float | None = None) -> v1.ServerInfo:
        """What runs there."""
        return await self._connection.call(SERVER_INFO, v1.GetServerInfoRequest(), timeout)

    async def set_log_level(self, level: str, *, timeout: float | None = None) -> v1.ServerInfo:
        """Changes which lines the server logs, until it stops: "debug", "info", "warning", "error" or "off"."""
        return await self._connection.call(SET_LOG_LEVEL, v1.SetLogLevelRequest(level=level), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """What the server says of itself, or of one of its services, such as "SERVING" or "NOT_SERVING". Raises NotFound
        for a service that it does not know."""
        answer = await self._connection.call(HEALTH, health_pb2.HealthCheckRequest(service=service), timeout)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def close(self) -> None:
        """Ends the connection, of what `with_options` made too. Calls under way are cancelled."""
        await self._connection.transport.close()

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        retries: Retries | None = None,
        traceparent: str | Callable[[], str | None] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "Calls":
        """The same client over the same connection, with other options; None leaves one as it is, and metadata is
        added."""
        return Calls(self._connection.with_options(timeout, retries, traceparent, metadata))


class Client(Calls):
    """See `tasuki.Client`."""

    def __init__(
        self,
        target: str | None = None,
        *,
        tls: bool | TLS | None = None,
        token: Token = None,
        timeout: float | Timeouts = Timeouts(),
        retries: Retries = Retries(),
        traceparent: str | Callable[[], str | None] | None = None,
        metadata: Mapping[str, str] | None = None,
        allow_insecure_token: bool = False,
    ) -> None:
        place, token = place_of(target, tls, token, allow_insecure_token)
        options = Options(Timeouts.of(timeout), retries, token, traceparent, metadata or {})
        super().__init__(Connection(AioTransport(place), options))

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
