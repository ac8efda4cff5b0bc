"""The bytes of an upload: where they come from, and whether they can be had twice."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

# A piece of a file in a message. The protos allow 1 MiB; less shows progress sooner.
CHUNK_BYTES = 256 * 1024
_ROWS = "rows.jsonl"  # the name of rows that come without a file

# A row: {"text": …, "label": …}, (text, label), or a text. A pandas DataFrame is taken by its columns.
Row: TypeAlias = Mapping[str, Any] | tuple[str, Any] | str
Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Iterable[Row]


@dataclass(frozen=True)
class Bytes:
    """Opens the bytes at their beginning, again if `repeatable`. `name` is that of a file, as far as known. To be closed."""

    open: Callable[[], AbstractContextManager[IO[bytes]]]
    repeatable: bool
    name: str = ""
    close: Callable[[], None] = lambda: None

    def digest(self) -> tuple[str, int]:
        """SHA-256 in lower-case hex, and how many bytes there are. Only if `repeatable`."""
        with self.open() as file:
            hashed = hashlib.sha256()
            size = 0
            for chunk in chunks(file):
                hashed.update(chunk)
                size += len(chunk)
            return hashed.hexdigest(), size


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        if not isinstance(chunk, bytes):
            raise TypeError("the file must be opened in binary mode")
        yield chunk


def of_file(path: str | os.PathLike[str]) -> Bytes:
    """Raises FileNotFoundError or PermissionError; ValueError for a directory, a pipe or a device."""
    file = Path(path)
    with open(file, "rb") if not file.is_dir() else nullcontext():
        if not file.is_file():  # a pipe would block, and is empty when it is read again
            raise ValueError(f"{file} is not a regular file; open it and pass the file")
    return Bytes(lambda: open(file, "rb"), repeatable=True, name=file.name)


def of(source: Source) -> Bytes:
    """A path, bytes, a file opened in binary mode (repeatable if it can seek), or rows, written as JSON Lines."""
    if isinstance(source, (str, os.PathLike)):
        return of_file(source)
    if isinstance(source, bytes):
        return Bytes(lambda: io.BytesIO(source), repeatable=True)
    if hasattr(source, "read"):
        return _of_open_file(cast("IO[bytes]", source))
    if hasattr(source, "to_json") and hasattr(source, "columns"):  # pandas
        return replace(of(source.to_json(orient="records", lines=True, force_ascii=False).encode()), name=_ROWS)
    if isinstance(source, Mapping):
        raise TypeError("a mapping is one row; give several, such as [{...}, {...}]")
    rows = tempfile.TemporaryFile()
    try:
        for row in _rows(source):
            rows.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    except BaseException:
        rows.close()
        raise
    rows.seek(0)
    return replace(_of_open_file(rows), name=_ROWS, close=rows.close)


def _of_open_file(file: IO[bytes]) -> Bytes:
    seekable = file.seekable()
    begin = file.tell() if seekable else 0

    def open_again() -> AbstractContextManager[IO[bytes]]:
        if seekable:
            file.seek(begin)
        return nullcontext(file)  # it stays the caller's

    name = getattr(file, "name", "")
    return Bytes(open_again, repeatable=seekable, name=name if isinstance(name, str) else "")


def _rows(source: Any) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(source):
        if isinstance(row, str):
            yield {"text": row}
        elif isinstance(row, Mapping):
            yield dict(row)
        elif isinstance(row, tuple) and len(row) == 2:
            yield {"text": row[0], "label": row[1]}
        else:
            raise TypeError(f"row {number + 1} is neither a mapping, nor a text, nor a pair of text and label")
