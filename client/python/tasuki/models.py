"""Models and their immutable versions, and their files on their way in and out."""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from google.protobuf.empty_pb2 import Empty

from tasuki import errors, names, sources, v1
from tasuki.connection import Connection
from tasuki.progress import Meter, Progress
from tasuki.transport import Method

_SERVICE = "/tasuki.v1.ModelService/"
IMPORT = Method(_SERVICE + "ImportModelVersion", v1.ImportModelVersionRequest, v1.ModelVersion)
EXPORT = Method(_SERVICE + "ExportModelVersion", v1.ExportModelVersionRequest, v1.ExportModelVersionResponse)
GET = Method(_SERVICE + "GetModel", v1.GetModelRequest, v1.Model)
LIST = Method(_SERVICE + "ListModels", v1.ListModelsRequest, v1.ListModelsResponse)
GET_VERSION = Method(_SERVICE + "GetModelVersion", v1.GetModelVersionRequest, v1.ModelVersion)
LIST_VERSIONS = Method(_SERVICE + "ListModelVersions", v1.ListModelVersionsRequest, v1.ListModelVersionsResponse)
LOAD = Method(_SERVICE + "LoadModelVersion", v1.LoadModelVersionRequest, v1.ModelVersion)
UNLOAD = Method(_SERVICE + "UnloadModelVersion", v1.UnloadModelVersionRequest, v1.ModelVersion)
DELETE_VERSION = Method(_SERVICE + "DeleteModelVersion", v1.DeleteModelVersionRequest, Empty)
GET_ALIAS = Method(_SERVICE + "GetModelAlias", v1.GetModelAliasRequest, v1.ModelAlias)
LIST_ALIASES = Method(_SERVICE + "ListModelAliases", v1.ListModelAliasesRequest, v1.ListModelAliasesResponse)
SET_ALIAS = Method(_SERVICE + "SetModelAlias", v1.SetModelAliasRequest, v1.ModelAlias)
ROLLBACK_ALIAS = Method(_SERVICE + "RollbackModelAlias", v1.RollbackModelAliasRequest, v1.ModelAlias)
SHADOW_ALIAS = Method(_SERVICE + "ShadowModelAlias", v1.ShadowModelAliasRequest, v1.ModelAlias)
DELETE_ALIAS = Method(_SERVICE + "DeleteModelAlias", v1.DeleteModelAliasRequest, Empty)

# The names that a server takes (ModelFile.name).
_MODEL_FILE = re.compile(
    r"(config|generation_config|tokenizer_config|special_tokens_map|tokenizer|added_tokens|tasuki|model\.safetensors\.index)\.json"
    r"|spiece\.model|model(-\d{5}-of-\d{5})?\.safetensors"
)


class Models:
    """The part of a client that has models. A model: `sentiment` or `models/sentiment`; a version: `sentiment@3` or
    `models/sentiment/versions/3`; an alias: `sentiment@production` or `models/sentiment/aliases/production`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self, /, *, limit: int | None = None, timeout: float | None = None, **fields: Any) -> AsyncIterator[v1.Model]:
        """All models, or the first `limit`, by name."""
        async for model in self._connection.rows(LIST, v1.ListModelsRequest(**fields), "models", limit, timeout):
            yield model

    async def get(self, name: str, *, timeout: float | None = None) -> v1.Model:
        """Raises NotFound."""
        return await self._connection.call(GET, v1.GetModelRequest(name=names.model(name)), timeout)

    async def list_versions(
        self, /, model: str, *, limit: int | None = None, timeout: float | None = None, **fields: Any
    ) -> AsyncIterator[v1.ModelVersion]:
        """All versions of a model, or the newest `limit`, newest first."""
        request = v1.ListModelVersionsRequest(parent=names.model(model), **fields)
        async for version in self._connection.rows(LIST_VERSIONS, request, "model_versions", limit, timeout):
            yield version

    async def get_version(self, name: str, *, timeout: float | None = None) -> v1.ModelVersion:
        """A model answers its newest version, an alias the one that it names. Raises NotFound."""
        name = names.model(name)
        if "/aliases/" in name:
            name = (await self.get_alias(name, timeout=timeout)).model_version
        return await self._connection.call(GET_VERSION, v1.GetModelVersionRequest(name=name), timeout)

    async def load(self, /, name: str, *, timeout: float | None = None, **fields: Any) -> v1.ModelVersion:
        """Loads a version (of a model: the newest) for classification; answers once it is loaded. `timeout` is 10
        minutes by default. Raises FailedPrecondition if it has no task."""
        if timeout is None:
            timeout = self._connection.timeouts.load
        return await self._connection.call(LOAD, v1.LoadModelVersionRequest(name=names.model(name), **fields), timeout)

    async def unload(self, /, name: str, *, timeout: float | None = None, **fields: Any) -> v1.ModelVersion:
        """Takes a version out of service; requests under way are finished first."""
        return await self._connection.call(UNLOAD, v1.UnloadModelVersionRequest(name=names.model(name), **fields), timeout)

    async def delete_version(self, /, name: str, *, timeout: float | None = None, **fields: Any) -> None:
        """Raises FailedPrecondition while it is loaded, or a job that has not ended starts from it."""
        await self._connection.delete(DELETE_VERSION, v1.DeleteModelVersionRequest(name=names.model(name), **fields), timeout)

    async def get_alias(self, name: str, *, timeout: float | None = None) -> v1.ModelAlias:
        """`sentiment@production` or `models/sentiment/aliases/production`. Raises NotFound."""
        return await self._connection.call(GET_ALIAS, v1.GetModelAliasRequest(name=names.model(name)), timeout)

    async def list_aliases(
        self, /, model: str, *, limit: int | None = None, timeout: float | None = None, **fields: Any
    ) -> AsyncIterator[v1.ModelAlias]:
        """The aliases of a model, by name."""
        request = v1.ListModelAliasesRequest(parent=names.model(model), **fields)
        async for alias in self._connection.rows(LIST_ALIASES, request, "model_aliases", limit, timeout):
            yield alias

    async def set_alias(self, /, name: str, model_version: str, *, timeout: float | None = None, **fields: Any) -> v1.ModelAlias:
        """Points an alias, made if it is not there, to a version, once that is loaded, verified and warm. `timeout` is 10
        minutes by default."""
        request = v1.SetModelAliasRequest(name=names.model(name), model_version=names.model(model_version), **fields)
        return await self._connection.call(SET_ALIAS, request, self._connection.timeouts.load if timeout is None else timeout)

    async def rollback_alias(self, /, name: str, *, timeout: float | None = None, **fields: Any) -> v1.ModelAlias:
        """Points an alias back to the version before the current one; a second rollback undoes the first. Raises
        FailedPrecondition if there is none."""
        request = v1.RollbackModelAliasRequest(name=names.model(name), **fields)
        if timeout is None:
            timeout = self._connection.timeouts.load
        return await self._connection.call(ROLLBACK_ALIAS, request, timeout, repeatable=False)

    async def shadow_alias(
        self, /, name: str, model_version: str, *, timeout: float | None = None, **fields: Any
    ) -> v1.ModelAlias:
        """Has a second version answer beside the alias, to be compared and never returned; "" ends it."""
        request = v1.ShadowModelAliasRequest(name=names.model(name), model_version=names.model(model_version), **fields)
        return await self._connection.call(SHADOW_ALIAS, request, self._connection.timeouts.load if timeout is None else timeout)

    async def delete_alias(self, /, name: str, *, timeout: float | None = None, **fields: Any) -> None:
        """Deletes an alias; its versions stay loaded."""
        await self._connection.delete(DELETE_ALIAS, v1.DeleteModelAliasRequest(name=names.model(name), **fields), timeout)

    async def import_version(
        self,
        /,
        model: str,
        directory: str | os.PathLike[str],
        *,
        progress: Progress = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> v1.ModelVersion:
        """Imports a Hugging Face T5 directory as a new version of `model`, which is made if it is not there. Files are
        sent with their SHA-256. `fields` are further ones of `v1.ImportModelVersionHeader`. Raises ValueError or OSError
        before anything is sent if a needed file is missing, InvalidArgument (MODEL_INVALID) naming file and cause."""
        folder = Path(directory)
        files = await self._connection.transport.aside(_model_files, folder)
        fields.setdefault("request_id", str(uuid.uuid4()))
        header = v1.ImportModelVersionHeader(model=names.model(model), files=files, **fields)

        with Meter(progress, "importing", "B", sum(file.size_bytes for file in files)) as meter:

            def parts() -> Iterator[v1.ImportModelVersionRequest]:
                yield v1.ImportModelVersionRequest(header=header)
                sent = expected = 0
                for file in files:
                    expected += file.size_bytes
                    with open(folder / file.name, "rb") as opened:
                        for chunk in sources.chunks(opened):
                            yield v1.ImportModelVersionRequest(chunk=chunk)
                            sent += len(chunk)
                            meter.show(sent)
                    if sent != expected:
                        raise errors.make(errors.Aborted, f"{folder / file.name} changed while it was read", IMPORT.path)

            return await self._connection.send(IMPORT, parts, timeout)

    async def export(
        self,
        /,
        name: str,
        directory: str | os.PathLike[str],
        *,
        adapter: bool = False,
        progress: Progress = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> Path:
        """Writes the files of a version (`adapter`: only those of its adapter) and returns the directory, which is there
        whole or not at all: sizes and hashes are checked before. `timeout` is 6 hours by default.

        Raises FileExistsError if there is something in `directory`, OSError if it cannot be written, DataLoss if the
        bytes are not those that the server declared, InvalidArgument if the version has no adapter."""
        connection = self._connection
        target = Path(os.path.abspath(directory))
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise FileExistsError(f"{directory} is there and not empty; name a new directory")
        version = await self.get_version(name)
        total = sum(file.size_bytes for file in version.files if not adapter or file.name.startswith("adapter/"))
        request = v1.ExportModelVersionRequest(name=version.name, adapter=adapter, **fields)

        async def attempt(left: float) -> None:
            beside = _DirectoryBeside(target)
            answers = connection.transport.receive(EXPORT, request, left, connection.options.call_metadata())
            done = 0
            try:
                async for answer in answers:
                    if answer.HasField("file"):
                        await connection.transport.aside(beside.begin, answer.file)
                    else:
                        await connection.transport.aside(beside.append, answer.chunk)
                        done += len(answer.chunk)
                        meter.show(done)
                await connection.transport.aside(beside.publish)
            finally:
                beside.clear()

        with Meter(progress, "exporting", "B", total) as meter:
            await connection.repeat(attempt, connection.timeouts.transfer if timeout is None else timeout)
        return target


class _DirectoryBeside:
    """A directory in the making: files arrive one after the other, and `publish` renames the whole."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f"{target.name}.partial-{uuid.uuid4()}")
        self._declared: v1.ModelFile | None = None  # of the file that is open
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._path.mkdir(parents=True)

    def begin(self, declared: v1.ModelFile) -> None:
        self._end()
        if any(part in ("", ".", "..") for part in declared.name.split("/")) or PurePosixPath(declared.name).is_absolute():
            raise errors.make(
                errors.DataLoss, f'the server sent a file named "{declared.name}", which is no file name', EXPORT.path
            )
        place = self._path / declared.name
        place.parent.mkdir(parents=True, exist_ok=True)
        self._declared, self._file = declared, open(place, "xb")
        self._hash, self._size = hashlib.sha256(), 0

    def append(self, chunk: bytes) -> None:
        if self._file is None:
            raise errors.make(errors.DataLoss, "the server sent bytes before naming their file", EXPORT.path)
        self._file.write(chunk)
        self._hash.update(chunk)
        self._size += len(chunk)

    def publish(self) -> None:
        self._end()
        os.replace(self._path, self._target)

    def clear(self) -> None:
        """Removes what was not published."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._path, ignore_errors=True)

    def _end(self) -> None:
        """Closes the file that was open and holds it against what the server declared."""
        if self._file is None or self._declared is None:
            return
        self._file.close()
        declared, self._file = self._declared, None
        if self._size != declared.size_bytes or self._hash.hexdigest() != declared.sha256:
            fault = (
                f"{declared.name}: the {self._size} bytes received are not the {declared.size_bytes} bytes that the server "
                "declared; nothing was kept, try again"
            )
            raise errors.make(errors.DataLoss, fault, EXPORT.path)


def _model_files(directory: Path) -> list[v1.ModelFile]:
    """The files of a directory that an import takes, with sizes and hashes, by name."""
    there = {path.name for path in directory.iterdir() if path.is_file()}
    wanted = sorted(name for name in there if _MODEL_FILE.fullmatch(name))
    weights = any(name.endswith(".safetensors") for name in wanted)
    if "adapter_config.json" in there:
        raise ValueError(
            f"{directory} has an adapter, which an import does not take: merge it into its base first "
            "(peft: PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(...))"
        )
    if not weights and any(name.startswith("pytorch_model") for name in there):
        raise ValueError(
            f"{directory} has its weights in a pickle (pytorch_model.bin), which Tasuki does not open; "
            f"`python -m tasuki.convert {directory}` writes them as model.safetensors (the package with [convert])"
        )
    missing = (
        "config.json"
        if "config.json" not in there
        else "model.safetensors (save_pretrained(..., safe_serialization=True) writes it)"
        if not weights
        else "spiece.model"
        if "spiece.model" not in there
        else None
    )
    if missing:
        raise ValueError(f"{directory} is not a Hugging Face T5 directory that can be imported: it has no {missing}")
    files = []
    for name in wanted:
        sha256, size = sources.of_file(directory / name).digest()
        files.append(v1.ModelFile(name=name, sha256=sha256, size_bytes=size))
    return files
