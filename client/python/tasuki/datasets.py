"""Datasets: immutable uploaded files of examples."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import PurePath
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from tasuki import names, sources, v1
from tasuki.connection import Connection
from tasuki.progress import Meter, Progress
from tasuki.sources import Source
from tasuki.transport import Answer, Method

_SERVICE = "/tasuki.v1.DatasetService/"
UPLOAD = Method(_SERVICE + "UploadDataset", v1.UploadDatasetRequest, v1.Dataset)
CHECK = Method(_SERVICE + "CheckDataset", v1.CheckDatasetRequest, v1.CheckDatasetResponse)
GET = Method(_SERVICE + "GetDataset", v1.GetDatasetRequest, v1.Dataset)
LIST = Method(_SERVICE + "ListDatasets", v1.ListDatasetsRequest, v1.ListDatasetsResponse)
INSPECT = Method(_SERVICE + "InspectDataset", v1.InspectDatasetRequest, v1.InspectDatasetResponse)
DELETE = Method(_SERVICE + "DeleteDataset", v1.DeleteDatasetRequest, Empty)

Part = TypeVar("Part", bound=Message)

_KINDS = {".tsv": v1.DatasetFormat.TSV, ".csv": v1.DatasetFormat.CSV, ".jsonl": v1.DatasetFormat.JSONL}


class Datasets:
    """The part of a client that has datasets. Names: `d-…` or `datasets/d-…`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def upload(
        self,
        /,
        source: Source,
        *,
        display_name: str = "",
        format: v1.DatasetFormat | None = None,
        progress: Progress = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> v1.Dataset:
        """Uploads one file of examples; every row is checked on its way.

        Args:
            source: the path of a .tsv, .csv or .jsonl file; a file opened in binary mode, or bytes; or rows: a pandas
                DataFrame, or an iterable of `{"text": …, "label": …}`, of `(text, label)` or of texts.
            display_name: a name for people, up to 63 characters; by default that of the file.
            format: how to read the bytes; by default by the file's name.
            progress: True for a bar, or a function that is told how many bytes are sent and of how many.
            timeout: seconds; 6 hours by default.
            fields: fields of `v1.DatasetFormat`, such as `text_column="review"`, `label_column="stars"`,
                `value_mapping={"1": "negative"}`, `texts_only=True`, `no_header=True`, `quoting="NONE"`, `kind="CSV"`.

        Returns:
            The dataset; the one that is there if the same rows came before.

        Raises:
            ValueError: the kind of file is not known, or there is no such field.
            Error: InvalidArgument with every bad row up to 20, DataLoss, ResourceExhausted (disk full). A call that may
                be repeated is, if the source can be read again.
        """
        return await self._send(UPLOAD, v1.UploadDatasetRequest, source, display_name, format, progress, timeout, fields)

    async def check(
        self,
        /,
        source: Source,
        *,
        display_name: str = "",
        format: v1.DatasetFormat | None = None,
        progress: Progress = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> v1.CheckDatasetResponse:
        """Checks a file as `upload` would, stores nothing, and answers every bad row (the first 1,000)."""
        return await self._send(CHECK, v1.CheckDatasetRequest, source, display_name, format, progress, timeout, fields)

    async def get(self, name: str, *, timeout: float | None = None) -> v1.Dataset:
        """Raises NotFound."""
        return await self._connection.call(GET, v1.GetDatasetRequest(name=names.dataset(name)), timeout)

    async def list(
        self, /, *, limit: int | None = None, timeout: float | None = None, **fields: Any
    ) -> AsyncIterator[v1.Dataset]:
        """All datasets, or the newest `limit`, newest first; `fields` are further ones of `v1.ListDatasetsRequest`."""
        async for dataset in self._connection.rows(LIST, v1.ListDatasetsRequest(**fields), "datasets", limit, timeout):
            yield dataset

    async def inspect(
        self,
        /,
        name: str,
        *,
        report: bool = False,
        other_datasets: Sequence[str] = (),
        model_version: str = "",
        timeout: float | None = None,
        **fields: Any,
    ) -> v1.InspectDatasetResponse:
        """The first rows; with `report` also what all rows show, and what they share with those of `other_datasets`,
        such as the valid and test rows of the task. `model_version` counts tokens. `fields` are further ones of
        `v1.InspectDatasetRequest`, such as `row_count=100`. `timeout` is 20 minutes by default for a report."""
        request = v1.InspectDatasetRequest(
            name=names.dataset(name),
            report=report,
            other_datasets=[names.dataset(other) for other in other_datasets],
            model_version=names.model(model_version),
            **fields,
        )
        if timeout is None and report:
            timeout = self._connection.timeouts.report
        return await self._connection.call(INSPECT, request, timeout)

    async def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Raises NotFound, or FailedPrecondition while a job that has not ended uses it."""
        await self._connection.delete(DELETE, v1.DeleteDatasetRequest(name=names.dataset(name)), timeout)

    async def _send(
        self,
        method: Method[Part, Answer],
        part: type[Part],
        source: Source,
        display_name: str,
        format: v1.DatasetFormat | None,
        progress: Progress,
        timeout: float | None,
        fields: Mapping[str, Any],
    ) -> Answer:
        aside = self._connection.transport.aside
        with closing(await aside(sources.of, source)) as data:
            display_name = display_name or PurePath(data.name).name[:63]
            header = v1.UploadDatasetHeader(display_name=display_name, format=_format(data.name, format, fields))
            total: int | None = None
            if data.repeatable:
                header.sha256, total = await aside(data.digest)

            def parts() -> Iterator[Part]:
                yield part(header=header)
                sent = 0
                with data.open() as file:
                    for chunk in sources.chunks(file):
                        yield part(chunk=chunk)
                        sent += len(chunk)
                        meter.show(sent)

            with Meter(progress, "sending", "B", total) as meter:
                return await self._connection.send(method, parts, timeout, data.repeatable)


def _format(name: str, given: v1.DatasetFormat | None, fields: Mapping[str, Any]) -> v1.DatasetFormat:
    format = v1.DatasetFormat()
    if given is not None:
        format.CopyFrom(given)
    format.MergeFrom(v1.DatasetFormat(**fields))
    if format.kind == v1.DatasetFormat.KIND_UNSPECIFIED:
        suffix = PurePath(name).suffix.lower()
        if suffix not in _KINDS:
            raise ValueError(f'what kind of file is "{name}"? Name it .tsv, .csv or .jsonl, or give kind="TSV", "CSV" or "JSONL"')
        format.kind = _KINDS[suffix]
    return format
