"""Client of Tasuki, which fine-tunes T5 text classifiers as managed jobs and serves the checkpoints.

    import tasuki

    with tasuki.Client("localhost:8500") as client:
        print(client.classify(["とても良い商品でした。"], model="reviews"))

`tasuki.aio.Client` is the same with coroutines. `tasuki.v1` has the messages of the API. `python -m tasuki.convert`,
which needs neither a server nor this client, turns pickled weights into safetensors.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tasuki.version import VERSION as __version__

if TYPE_CHECKING:
    from tasuki import aio, v1
    from tasuki.client import Client
    from tasuki.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        Error,
        FailedPrecondition,
        FieldFault,
        Internal,
        InvalidArgument,
        JobError,
        NotFound,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Unknown,
    )
    from tasuki.options import TLS, Retries, Timeouts
    from tasuki.results import Answer, Answers, Prediction

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Answer",
    "Answers",
    "Cancelled",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "FieldFault",
    "Internal",
    "InvalidArgument",
    "JobError",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "Prediction",
    "ResourceExhausted",
    "Retries",
    "TLS",
    "Timeouts",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "__version__",
    "aio",
    "v1",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `tasuki.convert` needs no gRPC."""
    if name in ("aio", "v1"):
        return importlib.import_module(f"tasuki.{name}")
    if name in __all__:
        for module in ("client", "options", "results", "errors"):
            found = getattr(importlib.import_module(f"tasuki.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'tasuki' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
