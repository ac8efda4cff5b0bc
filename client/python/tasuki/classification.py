"""Classify and StreamClassify, over as many texts as there are."""

import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from tasuki import errors, names, v1
from tasuki.connection import Connection
from tasuki.progress import Meter, Progress
from tasuki.results import Answer, Answers, Prediction
from tasuki.transport import Method

_SERVICE = "/tasuki.v1.ClassificationService/"
CLASSIFY = Method(_SERVICE + "Classify", v1.ClassifyRequest, v1.ClassifyResponse)
STREAM_CLASSIFY = Method(_SERVICE + "StreamClassify", v1.StreamClassifyRequest, v1.StreamClassifyResponse)

MAX_TEXT_BYTES = 1 << 20
# A request takes 256 texts. Its bytes are kept to half of what a server reads ahead.
_TEXTS_PER_REQUEST = 256
_BYTES_PER_REQUEST = 128 << 10
_REQUESTS_AHEAD = 4


class Classification:
    """The part of a client that classifies."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def classify(
        self,
        /,
        texts: str | Iterable[str],
        *,
        model: str,
        tasks: str | Sequence[str] = (),
        progress: Progress = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> Answers:
        """Classifies texts, any number of them: every text by every wanted task. What does not fit into one call goes as
        `stream_classify` does, behind what is interactive.

        Args:
            texts: one text, or several; each of at most 1 MiB of UTF-8.
            model: `reviews` or `models/reviews` for its newest version in service, `reviews@3` for a version,
                `reviews@production` for an alias.
            tasks: names of the tasks wanted; none for all of the version's.
            progress: True for a bar, or a function that is told how many texts are done and of how many.
            timeout: seconds for an answer of the server; 60 by default.
            fields: further fields of `v1.ClassifyRequest`: `top_k`; `truncation`, "head", "head-and-tail" or "error";
                `priority`, "interactive" or "bulk".

        Returns:
            One answer for each text, in their order.

        Raises:
            ValueError: a text is too large or cannot be written as UTF-8, or there is no such field or value.
            Error: NotFound (no such model), FailedPrecondition (not loaded), Unavailable (no server, or the model is
                still being loaded), InvalidArgument (an unknown task), ResourceExhausted (the queue stays full). For no
                texts at all, too.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(list(itertools.islice(_pieces(texts), 2))) == 1:
            request = _request(texts, _like(model, tasks, fields))
            seconds = self._connection.timeouts.classify if timeout is None else timeout
            with Meter(progress, "classifying", "text", len(texts)) as meter:
                try:
                    answer = await self._connection.call(CLASSIFY, request, seconds)
                    meter.show(len(texts))
                    return Answers(_answers(texts, answer))
                except errors.InvalidArgument as error:
                    if error.reason != "LIMIT_EXCEEDED" or len(texts) == 1:
                        raise
        each = self.stream_classify(texts, model=model, tasks=tasks, progress=progress, timeout=timeout, **fields)
        return Answers([answer async for answer in each])

    async def stream_classify(
        self,
        /,
        texts: str | Iterable[str],
        *,
        model: str,
        tasks: str | Sequence[str] = (),
        progress: Progress = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> AsyncIterator[Answer]:
        """The same as a stream, answer by answer as they come: for many texts, and for texts that do not fit into memory.
        They go behind what is interactive, and a full queue is waited for. The version that answers first answers all,
        for as long as it is in service; then it is for the alias or model to say which goes on
        (`answer.model_version`). Once there were answers, a server that went away is waited for, two minutes by default
        (`Timeouts.patience`); what was not answered is sent again."""
        connection = self._connection
        retries, timeouts = connection.options.retries, connection.timeouts
        texts = [texts] if isinstance(texts, str) else texts
        like = _like(model, tasks, fields)
        asked_model = like.model
        seconds = timeouts.classify if timeout is None else timeout
        pieces = _pieces(texts)
        first = next(pieces, None)
        if first is None:  # one empty text tells whether there would be answers
            await connection.call(CLASSIFY, _request([""], like), seconds)
            return
        asked = deque([first])  # not answered
        most = _TEXTS_PER_REQUEST  # less where the scores of so many would not fit into an answer
        done = lost = 0  # texts answered; attempts since without an answer
        lost_since, backoff = 0.0, retries.first_backoff
        with Meter(progress, "classifying", "text", len(texts) if isinstance(texts, Sequence) else None) as meter:
            while True:
                stream = connection.transport.exchange(STREAM_CLASSIFY, connection.options.call_metadata())
                sent = 0  # of those asked, on this stream
                wait = 0.0
                try:
                    while True:
                        while sent < (_REQUESTS_AHEAD if done else 1):
                            if sent == len(asked):
                                asked.extend(_split([next(pieces, [])], most))
                            if sent == len(asked):
                                break
                            stream.write(v1.StreamClassifyRequest(request=_request(asked[sent], like)))
                            sent += 1
                        if not asked:
                            return
                        answer = await stream.read(seconds)
                        if answer.HasField("error"):
                            raise errors.error_of(answer.error, STREAM_CLASSIFY.path)
                        answers = _answers(asked[0], answer.response)
                        asked.popleft()
                        sent -= 1
                        like.model = answer.response.model_version
                        lost, backoff = 0, retries.first_backoff
                        for each in answers:
                            yield each
                        done += len(answers)
                        meter.show(done)
                except errors.InvalidArgument as error:
                    if error.reason != "LIMIT_EXCEEDED" or len(asked[0]) == 1:
                        raise
                    most = (len(asked[0]) + 1) // 2
                    asked = deque(_split(asked, most))
                except (errors.FailedPrecondition, errors.NotFound) as error:
                    if error.reason not in ("MODEL_NOT_LOADED", "RESOURCE_NOT_FOUND") or like.model == asked_model:
                        raise
                    like.model = asked_model
                except (errors.Unavailable, errors.ResourceExhausted) as error:
                    wait = max(backoff, await connection.wait_after(error))
                    backoff = min(2 * backoff, retries.max_backoff)
                    lost += 1
                    lost_since = time.monotonic() if lost == 1 else lost_since
                    if time.monotonic() - lost_since >= timeouts.patience if done else lost >= retries.max_attempts:
                        raise
                finally:
                    stream.cancel()
                if wait:
                    await connection.pause(wait)


def _like(model: str, tasks: str | Sequence[str], fields: dict[str, Any]) -> v1.ClassifyRequest:
    """A request without texts."""
    named = dict(fields)
    for field, value in fields.items():
        found = v1.ClassifyRequest.DESCRIPTOR.fields_by_name.get(field)
        if isinstance(value, str) and found is not None and found.enum_type is not None:
            named[field] = value.upper().replace("-", "_")  # as the command line has it, too
            values = found.enum_type.values_by_name
            if named[field] not in values:
                choices = [name for name in values if not name.endswith("_UNSPECIFIED")]
                raise ValueError(f'{field}="{value}" is none of {", ".join(choices)}')
    return v1.ClassifyRequest(model=names.model(model), tasks=[tasks] if isinstance(tasks, str) else tasks, **named)


def _request(texts: Sequence[str], like: v1.ClassifyRequest) -> v1.ClassifyRequest:
    request = v1.ClassifyRequest(texts=texts)
    request.MergeFrom(like)
    return request


def _answers(texts: Sequence[str], answer: v1.ClassifyResponse) -> list[Answer]:
    if len(answer.results) != len(texts):
        fault = f"the server answered {len(answer.results)} of {len(texts)} texts"
        raise errors.make(errors.DataLoss, fault, CLASSIFY.path)
    return [
        Answer(text, tuple(map(Prediction.of, result.predictions)), answer.model_version)
        for text, result in zip(texts, answer.results)
    ]


def _split(pieces: Iterable[list[str]], most: int) -> Iterator[list[str]]:
    return (piece[i : i + most] for piece in pieces for i in range(0, len(piece), most))


def _pieces(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, as many as go into one request. Raises ValueError for one that no call takes."""
    piece: list[str] = []
    piece_bytes = 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is of type {type(text).__name__}, not str")
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"texts[{number}] is not text: {error}") from None
        if size > MAX_TEXT_BYTES:
            raise ValueError(f"texts[{number}] has {size} bytes; at most {MAX_TEXT_BYTES} are allowed")
        if piece and (len(piece) == _TEXTS_PER_REQUEST or piece_bytes + size > _BYTES_PER_REQUEST):
            yield piece
            piece, piece_bytes = [], 0
        piece.append(text)
        piece_bytes += size
    if piece:
        yield piece
