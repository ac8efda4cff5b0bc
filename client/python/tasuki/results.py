"""What Classify answers, as small values that print as a table, in a notebook too."""

import html
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from tasuki import v1

_COLUMNS = ("text", "task", "label", "probability", "remark")
_SHOWN = 20  # rows of a table in a notebook or on a terminal; `rows` has all
_SHOWN_TEXT = 60  # columns of a text


@dataclass(frozen=True)
class Prediction:
    """The answer of one task to one text."""

    task: str
    label: str  # the most probable one
    probability: float  # of `label`, 0 to 1
    scores: Mapping[str, float]  # label → probability, most probable first
    abstained: bool  # not sure enough to be taken for an answer
    truncated: bool  # the end of the text was not looked at
    token_count: int  # of the whole input, before anything was cut
    message: v1.Prediction = field(repr=False, compare=False)  # all that the server said

    @classmethod
    def of(cls, message: v1.Prediction) -> "Prediction":
        scores = {score.label: score.probability for score in message.scores}
        return cls(
            task=message.task,
            label=message.label,
            probability=scores.get(message.label, 0.0),
            scores=scores,
            abstained=message.abstained,
            truncated=message.truncated,
            token_count=message.token_count,
            message=message,
        )

    @property
    def remark(self) -> str:
        return ", ".join(name for name in ("abstained", "truncated") if getattr(self, name))


@dataclass(frozen=True)
class Answer(Mapping[str, Prediction]):
    """The answers to one text: task → prediction, in the order that was asked for. Where there is one task only, its
    prediction's fields are those of the answer too: `answer.label`."""

    text: str
    predictions: tuple[Prediction, ...]
    model_version: str  # `models/{model}/versions/{version}` that answered

    @property
    def prediction(self) -> Prediction:
        """That of the only task; ValueError if there are several."""
        if len(self.predictions) != 1:
            raise ValueError(f"there are several tasks, name one: answer[{' or '.join(map(repr, self))}]")
        return self.predictions[0]

    @property
    def label(self) -> str:
        return self.prediction.label

    @property
    def probability(self) -> float:
        return self.prediction.probability

    @property
    def scores(self) -> Mapping[str, float]:
        return self.prediction.scores

    @property
    def abstained(self) -> bool:
        return self.prediction.abstained

    @property
    def truncated(self) -> bool:
        return self.prediction.truncated

    @property
    def token_count(self) -> int:
        return self.prediction.token_count

    def __getitem__(self, task: str) -> Prediction:
        for prediction in self.predictions:
            if prediction.task == task:
                return prediction
        raise KeyError(task)

    def __iter__(self) -> Iterator[str]:
        return (prediction.task for prediction in self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    def __str__(self) -> str:
        return str(Answers([self]))

    def _repr_html_(self) -> str:
        return Answers([self])._repr_html_()


class Answers(Sequence[Answer]):
    """The answers to several texts, in their order."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = tuple(answers)

    @property
    def model_version(self) -> str:
        """The version that answered; "" if there was no text."""
        return self._answers[0].model_version if self._answers else ""

    def rows(self) -> list[dict[str, Any]]:
        """One row for each text and task, for `pandas.DataFrame(answers.rows())` and the like."""
        return [
            {
                "text": answer.text,
                "task": prediction.task,
                "label": prediction.label,
                "probability": prediction.probability,
                "abstained": prediction.abstained,
                "truncated": prediction.truncated,
                "token_count": prediction.token_count,
            }
            for answer in self._answers
            for prediction in answer.predictions
        ]

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> "Answers": ...
    def __getitem__(self, index: int | slice) -> "Answer | Answers":
        return Answers(self._answers[index]) if isinstance(index, slice) else self._answers[index]

    def __len__(self) -> int:
        return len(self._answers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self._answers == other._answers

    def __repr__(self) -> str:
        return f"<{len(self)} answers of {self.model_version or 'no version'}>"

    def _cells(self) -> tuple[list[tuple[str, ...]], int]:
        """The first rows as texts, and how many are left out."""
        all_rows = [(answer.text, each) for answer in self._answers for each in answer.predictions]
        cells: list[tuple[str, ...]] = [
            (
                _shorten(_printable(text[: 10 * _SHOWN_TEXT])),
                each.task,
                _printable(each.label),
                f"{each.probability:.4f}",
                each.remark,
            )
            for text, each in all_rows[:_SHOWN]
        ]
        return cells, len(all_rows) - len(cells)

    def __str__(self) -> str:
        cells, left_out = self._cells()
        table = [tuple(name.upper() for name in _COLUMNS[:4]) + ("",), *cells]
        widths = [max(_width(row[i]) for row in table) for i in range(len(_COLUMNS))]
        lines = ["  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths)).rstrip() for row in table]
        return "\n".join(lines + ([f"… and {left_out} more"] if left_out else []))

    def _repr_html_(self) -> str:
        cells, left_out = self._cells()

        def row(values: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag} style='text-align:left'>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

        more = f"<p>… and {left_out} more</p>" if left_out else ""
        caption = f"<caption>{html.escape(self.model_version)}</caption>"
        body = "".join(row(values, "td") for values in cells)
        return f"<table>{caption}<thead>{row(_COLUMNS, 'th')}</thead><tbody>{body}</tbody></table>{more}"


def _printable(text: str) -> str:
    """Controls, and marks that turn the direction of writing, become spaces."""
    return "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(c) in _TURNS else c for c in text
    )


_TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _shorten(text: str) -> str:
    width = fits = 0
    for end, c in enumerate(text, 1):
        width += _width(c)
        if width < _SHOWN_TEXT:
            fits = end
        elif width > _SHOWN_TEXT:
            return text[:fits] + "…"
    return text
