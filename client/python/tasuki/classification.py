"""Classify, over as many texts as there are."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from tasuki import errors, names, v1
from tasuki.connection import Connection, Flight
from tasuki.progress import Meter, Progress
from tasuki.results import Answer, Answers, Prediction
from tasuki.transport import Method

CLASSIFY = Method("/tasuki.v1.ClassificationService/Classify", v1.ClassifyRequest, v1.ClassifyResponse)

MAX_TEXT_BYTES = 1 << 20
# A call takes 256 texts. Its bytes are kept to what two calls fill a server's queue with.
_TEXTS_PER_CALL = 256
_BYTES_PER_CALL = 128 << 10
_CALLS_IN_FLIGHT = 3

_Flight = Flight[v1.ClassifyRequest, v1.ClassifyResponse]


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
        """Classifies texts, any number of them, by one model version: every text by every wanted task.

        Args:
            texts: one text, or several; each of at most 1 MiB of UTF-8.
            model: `reviews` or `models/reviews` for its newest loaded version, `reviews@3` for a version.
            tasks: names of the tasks wanted; none for all of the version's.
            progress: True for a bar, or a function that is told how many texts are done and of how many.
            timeout: seconds for each call that it takes; 60 by default.
            fields: further fields of `v1.ClassifyRequest`.

        Returns:
            One answer for each text, in their order.

        Raises:
            ValueError: a text is too large or cannot be written as UTF-8, or there is no such field.
            Error: NotFound (no such model), FailedPrecondition (not loaded), Unavailable (no server, or the model is
                still being loaded), InvalidArgument (an unknown task), ResourceExhausted (the queue stays full).
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        each = self.classify_each(texts, model=model, tasks=tasks, progress=progress, timeout=timeout, **fields)
        return Answers([answer async for answer in each])

    async def classify_each(
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
        """The same, answer by answer as they come: for texts that do not fit into memory. A few calls are under way at
        a time; all are answered by the version that answered the first."""
        texts = [texts] if isinstance(texts, str) else texts
        like = v1.ClassifyRequest(model=names.model(model), tasks=[tasks] if isinstance(tasks, str) else tasks, **fields)
        seconds = self._connection.timeouts.classify if timeout is None else timeout
        flights: deque[_Flight] = deque()  # in the order of the texts
        most = _TEXTS_PER_CALL  # less where the scores of so many would not fit into an answer
        pieces = _pieces(texts)
        version_known = False
        done = 0

        def begin(piece: list[str]) -> list[_Flight]:
            begun = []
            for i in range(0, len(piece), most):
                request = v1.ClassifyRequest(texts=piece[i : i + most])
                request.MergeFrom(like)
                begun.append(Flight(self._connection, CLASSIFY, request, seconds))
            return begun

        try:
            with Meter(progress, "classifying", "text", len(texts) if isinstance(texts, Sequence) else None) as meter:
                while True:
                    while len(flights) < (_CALLS_IN_FLIGHT if version_known else 1) and (piece := next(pieces, None)):
                        flights.extend(begin(piece))
                    if not flights:
                        return
                    asked = list(flights[0].request.texts)
                    try:
                        answer = await flights[0].result()
                    except errors.InvalidArgument as error:
                        if error.reason != "LIMIT_EXCEEDED" or len(asked) == 1:
                            raise
                        most = min(most, (len(asked) + 1) // 2)
                        flights.popleft()
                        flights.extendleft(reversed(begin(asked)))
                        continue
                    flights.popleft()
                    if len(answer.results) != len(asked):
                        fault = f"the server answered {len(answer.results)} of {len(asked)} texts"
                        raise errors.make(errors.DataLoss, fault, CLASSIFY.path)
                    like.model = answer.model_version
                    version_known = True
                    for text, result in zip(asked, answer.results):
                        yield Answer(text, tuple(map(Prediction.of, result.predictions)), answer.model_version)
                    done += len(asked)
                    meter.show(done)
        finally:
            for flight in flights:
                flight.cancel()


def _pieces(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, as many as go into one call. Raises ValueError for one that no call takes."""
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
        if piece and (len(piece) == _TEXTS_PER_CALL or piece_bytes + size > _BYTES_PER_CALL):
            yield piece
            piece, piece_bytes = [], 0
        piece.append(text)
        piece_bytes += size
    if piece:
        yield piece
