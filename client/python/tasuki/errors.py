"""What a call can end with.

Every error of the server, and of the way to it, is an `Error`: one class for each canonical code, with what the
server said beyond code and message. What is wrong on this side before anything is sent comes as Python's own
errors: ValueError, FileNotFoundError and the like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from tasuki import v1

Detail = TypeVar("Detail", bound=Message)


@dataclass(frozen=True)
class FieldFault:
    """A fault of one field of a request."""

    field: str  # proto path, such as "fine_tuning.tasks[1].weight"
    description: str


class Error(Exception):
    """A call that failed.

    Attributes:
        message: what happened, for people.
        reason: what happened, for programs: a name of `v1.ErrorReason`, such as "QUEUE_FULL"; "" if nobody said.
        info: the variable parts of the message that came with the reason.
        field_faults: every fault of the request that the server named.
        retry_delay: seconds after which the server wants to be asked again; None if it does not say.
        method: the method that was called, such as "/tasuki.v1.TrainingService/GetTrainingJob"; "" for a job's error.
        metadata: what else the server sent with the error (trailing metadata, without binary values).
        status: all of the above as the server sent it.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, status: status_pb2.Status, method: str = "", metadata: dict[str, str] | None = None) -> None:
        super().__init__(status.message)
        self.message: str = status.message
        self.status = status
        self.method = method
        self.metadata = metadata or {}
        info = self._detail(error_details_pb2.ErrorInfo)
        known = info is not None and info.domain == "tasuki"
        self.reason: str = info.reason if info and known else ""
        self.info: dict[str, str] = dict(info.metadata) if info and known else {}
        request = self._detail(error_details_pb2.BadRequest)
        self.field_faults = [FieldFault(each.field, each.description) for each in request.field_violations] if request else []
        retry = self._detail(error_details_pb2.RetryInfo)
        self.retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if retry else None

    def _detail(self, kind: type[Detail]) -> Detail | None:
        for each in self.status.details:
            detail = kind()
            try:
                if each.Unpack(detail):
                    return detail
            except DecodeError:
                pass
        return None

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.code.name}{reason}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), self.status.SerializeToString(), self.method, self.metadata))


class Cancelled(Error):
    code = grpc.StatusCode.CANCELLED


class Unknown(Error):
    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(Error):
    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(Error):
    """The call's time is over; what the server did is unknown."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(Error):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Error):
    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(Error):
    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(Error):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(Error):
    code = grpc.StatusCode.ABORTED


class OutOfRange(Error):
    code = grpc.StatusCode.OUT_OF_RANGE


class Unimplemented(Error):
    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(Error):
    code = grpc.StatusCode.INTERNAL


class Unavailable(Error):
    """No server answers at the address, or it cannot answer now."""

    code = grpc.StatusCode.UNAVAILABLE


class DataLoss(Error):
    code = grpc.StatusCode.DATA_LOSS


class Unauthenticated(Error):
    code = grpc.StatusCode.UNAUTHENTICATED


_CLASSES: dict[int, type[Error]] = {int(kind.code.value[0]): kind for kind in Error.__subclasses__()}


class JobError(Exception):
    """A job did not succeed. `job` is as it ended; `error`, of a FAILED one, says why."""

    def __init__(self, job: "v1.TrainingJob") -> None:
        from tasuki import v1

        state = v1.TrainingJob.State.Name(job.state)
        self.job = job
        self.error: Error | None = error_of(job.error) if job.HasField("error") else None
        super().__init__(f"{job.name} is {state}" + (f": {self.error}" if self.error else ""))


def error_of(status: status_pb2.Status, method: str = "", metadata: dict[str, str] | None = None) -> Error:
    """The error that a google.rpc.Status, such as `TrainingJob.error`, stands for."""
    return _CLASSES.get(status.code, Unknown)(status, method, metadata)


def make(kind: type[Error], message: str, method: str = "") -> Error:
    """An error made on this side."""
    return kind(status_pb2.Status(code=int(kind.code.value[0]), message=message), method)


def _rebuilt(kind: type[Error], status: bytes, method: str, metadata: dict[str, str]) -> Error:
    return kind(status_pb2.Status.FromString(status), method, metadata)


class EndedCall(Protocol):
    """What both of gRPC's kinds of errors have."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...


def from_rpc(call: EndedCall, method: str, target: str) -> Error:
    """The error of a call that ended with one."""
    metadata: dict[str, str] = {}
    status = status_pb2.Status()
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                pass
        elif isinstance(value, str):
            metadata[key] = value
    status.code = int(call.code().value[0])
    status.message = call.details() or ""
    error = error_of(status, method, metadata)
    if isinstance(error, Cancelled):
        # Nobody here cancelled: it is gRPC's word for a call that came while the server was stopping.
        return make(Unavailable, "the server broke the call off", method)
    if isinstance(error, Unavailable) and not error.reason:
        status.message = f"no Tasuki server answers at {target}: {status.message}"
        return error_of(status, method, metadata)
    return error
