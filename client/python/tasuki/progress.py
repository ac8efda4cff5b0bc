"""Progress of what takes long, as a bar of tqdm or by a function of the caller."""

from collections.abc import Callable
from typing import Any

# True for a bar; or a function, told now and then how much is done and of how much (None: unknown).
Progress = bool | Callable[[int, int | None], None]


class Meter:
    """Shows progress while it is entered. `unit` is what is counted: "text", or "B" for bytes."""

    def __init__(self, progress: Progress, what: str, unit: str, total: int | None = None) -> None:
        self._progress, self._what, self._unit, self._total = progress, what, unit, total
        self._bar: Any = None

    def __enter__(self) -> "Meter":
        if self._progress is True:
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=self._what, unit=self._unit, unit_scale=self._unit == "B", unit_divisor=1024, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int | None = None, remark: str = "") -> None:
        """`done` of `total` (by default as it was); less than before begins anew."""
        total = self._total if total is None else total
        if callable(self._progress):
            self._progress(done, total)
        if self._bar is not None:
            if total != self._bar.total:
                self._bar.total = total
            if remark:
                self._bar.set_postfix_str(remark, refresh=False)
            self._bar.update(done - self._bar.n)

    def remark(self, text: str) -> None:
        """Says something beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
