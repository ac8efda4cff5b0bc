"""The blocking client. What its methods do is written once, in the classes of the asyncio client."""

from collections.abc import Callable, Mapping

from tasuki import aio, blocking, classification, datasets, jobs, models
from tasuki.connection import Connection
from tasuki.options import TLS, Options, Retries, Timeouts, Token, place_of
from tasuki.transport import BlockingTransport

__all__ = ["Client", "Datasets", "Jobs", "Models"]


class Datasets(blocking.Blocking):
    """Immutable uploaded files of examples. Names: `d-…` or `datasets/d-…`."""

    upload = blocking.method(datasets.Datasets.upload)
    check = blocking.method(datasets.Datasets.check)
    get = blocking.method(datasets.Datasets.get)
    list = blocking.iterator(datasets.Datasets.list)
    inspect = blocking.method(datasets.Datasets.inspect)
    delete = blocking.method(datasets.Datasets.delete)


class Jobs(blocking.Blocking):
    """Training jobs. Names: `nightly` or `trainingJobs/nightly`."""

    create = blocking.method(jobs.Jobs.create)
    estimate = blocking.method(jobs.Jobs.estimate)
    get = blocking.method(jobs.Jobs.get)
    list = blocking.iterator(jobs.Jobs.list)
    watch = blocking.iterator(jobs.Jobs.watch)
    wait = blocking.method(jobs.Jobs.wait)
    cancel = blocking.method(jobs.Jobs.cancel)
    pause = blocking.method(jobs.Jobs.pause)
    resume = blocking.method(jobs.Jobs.resume)
    finish = blocking.method(jobs.Jobs.finish)
    retry = blocking.method(jobs.Jobs.retry)
    log = blocking.method(jobs.Jobs.log)
    delete = blocking.method(jobs.Jobs.delete)
    download_predictions = blocking.method(jobs.Jobs.download_predictions)


class Models(blocking.Blocking):
    """Models, their immutable versions, and their aliases. A model: `sentiment` or `models/sentiment`; a version:
    `sentiment@3` or `models/sentiment/versions/3`; an alias: `sentiment@production` or
    `models/sentiment/aliases/production`."""

    list = blocking.iterator(models.Models.list)
    get = blocking.method(models.Models.get)
    list_versions = blocking.iterator(models.Models.list_versions)
    get_version = blocking.method(models.Models.get_version)
    load = blocking.method(models.Models.load)
    unload = blocking.method(models.Models.unload)
    delete_version = blocking.method(models.Models.delete_version)
    import_version = blocking.method(models.Models.import_version)
    export = blocking.method(models.Models.export)
    get_alias = blocking.method(models.Models.get_alias)
    list_aliases = blocking.iterator(models.Models.list_aliases)
    set_alias = blocking.method(models.Models.set_alias)
    rollback_alias = blocking.method(models.Models.rollback_alias)
    shadow_alias = blocking.method(models.Models.shadow_alias)
    delete_alias = blocking.method(models.Models.delete_alias)


class Calls(blocking.Blocking):
    """Every call of a client."""

    def __init__(self, calls: aio.Calls) -> None:
        super().__init__(calls)
        self.datasets = Datasets(calls.datasets)
        self.jobs = Jobs(calls.jobs)
        self.models = Models(calls.models)

    classify = blocking.method(classification.Classification.classify)
    stream_classify = blocking.iterator(classification.Classification.stream_classify)
    server_info = blocking.method(aio.Calls.server_info)
    set_log_level = blocking.method(aio.Calls.set_log_level)
    health = blocking.method(aio.Calls.health)
    close = blocking.method(aio.Calls.close)

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        retries: Retries | None = None,
        traceparent: str | Callable[[], str | None] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "Calls":
        """The same client over the same connection, with other options; None leaves one as it is, and metadata is
        added: `client.with_options(traceparent="00-…").classify(…)`."""
        calls: aio.Calls = self._calls
        return Calls(calls.with_options(timeout=timeout, retries=retries, traceparent=traceparent, metadata=metadata))


class Client(Calls):
    """A client of a Tasuki server. Thread-safe; close it, or use it in `with`.

        with tasuki.Client("localhost:8500") as client:
            print(client.classify("とても良い商品でした。", model="reviews"))

    Nothing is sent before the first call. A call blocks its thread; Ctrl-C cancels it. It works in a notebook too. A call
    that ends UNAVAILABLE, or RESOURCE_EXHAUSTED with a time after which to try again, is made again while its time
    lasts; errors are `tasuki.Error`.

    Args:
        target: HOST:PORT or unix:PATH; by default TASUKI_SERVER from the environment, else 127.0.0.1:8500.
        tls: True, or how the server is trusted and who asks; False for none. By default TASUKI_TLS_CA,
            TASUKI_TLS_CERTIFICATE and TASUKI_TLS_KEY from the environment, else none.
        token: sent as `authorization: Bearer …`, or asked for at every call; only over TLS or to this machine. By
            default the first line of the file TASUKI_TOKEN_FILE, or TASUKI_TOKEN, from the environment; "" for none.
        timeout: seconds for every call, or for each kind of call. Each call can be given its own.
        retries: how often, and after what waits, a call is made again.
        traceparent: a W3C trace context, or a function that is asked for one at every call.
        metadata: sent with every call.
        allow_insecure_token: sends the token in the clear, too.

    Raises:
        ValueError: the target is not of that form, a token would go in the clear, a certificate lacks its key.
        OSError: a certificate, key or token cannot be read.
    """

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
        super().__init__(aio.Calls(Connection(BlockingTransport(place), options)))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
