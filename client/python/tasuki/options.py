"""What a client is told when it is made."""

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc

DEFAULT_TARGET = "127.0.0.1:8500"

Token: TypeAlias = str | Callable[[], str] | None


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a call may take, attempts and waits between them together; each call can be given its own."""

    ordinary: float = 30
    classify: float = 60
    load: float = 600
    report: float = 1200  # inspecting with a report, estimating
    transfer: float = 6 * 3600  # uploading, checking, importing, exporting, downloading
    patience: float = 120  # how long a watch, or classifying in bulk, goes on trying to reach a server that does not answer

    @classmethod
    def of(cls, timeout: "float | Timeouts") -> "Timeouts":
        """A number is for every kind of call."""
        if isinstance(timeout, Timeouts):
            return timeout
        return cls(timeout, timeout, timeout, timeout, timeout)


@dataclass(frozen=True)
class Retries:
    """How often a call that ends UNAVAILABLE, or RESOURCE_EXHAUSTED with a RetryInfo, is made in all, and the mean
    seconds of the waits between, which double up to `max_backoff` and vary at random by a half."""

    max_attempts: int = 5
    first_backoff: float = 0.2
    max_backoff: float = 5


@dataclass(frozen=True)
class TLS:
    """How a server is trusted and, for mutual TLS, who asks: PEM, as bytes or as the path of a file."""

    root_certificates: bytes | str | os.PathLike[str] | None = None  # None: those of gRPC
    client_certificate: bytes | str | os.PathLike[str] | None = None  # with the chain to its root
    client_key: bytes | str | os.PathLike[str] | None = None
    server_name: str | None = None  # expected in the server's certificate, if it is not the target's host

    def roots(self) -> bytes | None:
        return _pem(self.root_certificates)

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError if a file cannot be read, ValueError for a certificate without a key or the reverse."""
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("mutual TLS needs both client_certificate and client_key")
        return grpc.ssl_channel_credentials(
            root_certificates=self.roots(),
            private_key=_pem(self.client_key),
            certificate_chain=_pem(self.client_certificate),
        )


@dataclass(frozen=True)
class Options:
    """What calls share. `traceparent` is a W3C trace context, or is asked for one at every call."""

    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    token: Token = None
    traceparent: str | Callable[[], str | None] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of one call."""
        entries = [(key.lower(), value) for key, value in self.metadata.items()]
        token = self.token() if callable(self.token) else self.token
        if token:
            entries.append(("authorization", f"Bearer {token}"))
        traceparent = self.traceparent() if callable(self.traceparent) else self.traceparent
        if traceparent:
            entries.append(("traceparent", traceparent))
        return tuple(entries)


@dataclass(frozen=True)
class Place:
    """Where a server is, and how it is reached."""

    target: str  # HOST:PORT or unix:PATH
    tls: TLS | None = None


def place_of(target: str | None, tls: bool | TLS | None, token: Token, allow_insecure_token: bool) -> tuple[Place, Token]:
    """Where a server is, and the token for it. What is None comes from the environment, as the tasuki command takes it:
    TASUKI_SERVER (else 127.0.0.1:8500); TASUKI_TLS_CA, TASUKI_TLS_CERTIFICATE, TASUKI_TLS_KEY; TASUKI_TOKEN_FILE,
    TASUKI_TOKEN. Raises ValueError for a target that is not of the form, and for one to which a token would go in the
    clear."""
    given = os.environ.get
    target = target or given("TASUKI_SERVER") or DEFAULT_TARGET
    if tls is None and given("TASUKI_TLS_CA"):
        tls = TLS(given("TASUKI_TLS_CA"), given("TASUKI_TLS_CERTIFICATE") or None, given("TASUKI_TLS_KEY") or None)
    if token is None and (file := given("TASUKI_TOKEN_FILE")):
        token = Path(file).read_text(encoding="ascii").partition("\n")[0].strip()
    elif token is None:
        token = given("TASUKI_TOKEN")
    host, colon, port = target.rpartition(":")
    local_socket = target.startswith(("unix:", "unix-abstract:"))
    if not local_socket and not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f'"{target}" is not an address of the form HOST:PORT, such as {DEFAULT_TARGET}')
    if token and not (tls or allow_insecure_token or local_socket or _is_loopback(host)):
        raise ValueError(f"without TLS the token would go to {target} in the clear; give tls=, or allow_insecure_token=True")
    return Place(target, TLS() if tls is True else tls or None), token


def _is_loopback(host: str) -> bool:
    host = host.removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pem(value: bytes | str | os.PathLike[str] | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else Path(value).read_bytes()
