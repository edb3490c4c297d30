"""Records as they come, for whoever reads: JSON lines for a program, plain lines for a pipe, a table on a terminal.

A record is a dict whose keys are the JSON contract; a column picks one key and gives it a width. Rows are printed when
they are added, so a folder of a million messages needs no more memory than one of ten.
"""

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress

Record = Mapping[str, Any]

STYLES = {"spam": "bold red", "unsure": "yellow", "ham": "green", "failed": "bold red"}


@dataclass(frozen=True)
class Column:
    """One column: the record's key, its heading, and its width in cells; width 0 takes what is left of the line."""

    key: str
    heading: str
    width: int


class Report:
    """Prints records one by one, with a progress line below them while the work goes on (only on a terminal)."""

    def __init__(self, columns: Sequence[Column], as_json: bool, doing: str = "") -> None:
        self.as_json = as_json
        self.on_terminal = not as_json and sys.stdout.isatty()
        self._columns = columns
        self._doing = doing
        self._progress: Progress | None = None
        self._headed = False

    def __enter__(self) -> Self:
        if self.on_terminal and self._doing:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                transient=True,
            )
            self._task = self._progress.add_task(self._doing, total=None)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()
        sys.stdout.flush()

    def total(self, number: int) -> None:
        """How many records there will be."""
        if self._progress:
            self._progress.update(self._task, total=number)

    def step(self) -> None:
        """One record is done with, whether or not it is printed."""
        if self._progress:
            self._progress.advance(self._task)

    def share(self, done: float) -> None:
        """So much of the work is done, 0 to 1, where it is not counted in records."""
        if self._progress:
            self._progress.update(self._task, total=100, completed=round(100 * done))

    def row(self, record: Record) -> None:
        """Prints one record."""
        if self.as_json:
            print(json.dumps(record, default=str), flush=True)
        elif self.on_terminal:
            self._table_row(record)
        else:
            self._plain_row(self._cells(record))

    def close(self, record: Record, sentence: str) -> None:
        """The last line: the record for a program, the sentence for a person."""
        if self.as_json:
            print(json.dumps(record, default=str), flush=True)
        else:
            print(sentence, flush=True)

    def _cells(self, record: Record) -> list[str]:
        return [plain(record.get(column.key)).ljust(column.width) for column in self._columns]

    def _plain_row(self, cells: Sequence[str]) -> None:
        if not self._headed:
            self._headed = True
            self._plain_row([column.heading.ljust(column.width) for column in self._columns])
        print("  ".join(cells).rstrip(), flush=True)

    def _table_row(self, record: Record) -> None:
        from rich.cells import set_cell_size
        from rich.console import Console
        from rich.text import Text

        console = self._progress.console if self._progress else Console(highlight=False)
        fixed = sum(column.width + 2 for column in self._columns if column.width)
        rest = max(20, console.width - fixed - 1)

        def line(cells: Sequence[str], style: str = "") -> Text:
            text = Text(style=style, no_wrap=True, overflow="ignore")
            for column, cell in zip(self._columns, cells, strict=True):
                text.append(set_cell_size(cell, column.width or rest) + "  ", STYLES.get(cell, ""))
            return text

        if not self._headed:
            console.print(line([column.heading for column in self._columns], "bold"))
            self._headed = True
        console.print(line([plain(record.get(column.key)) for column in self._columns]))


def plain(value: object) -> str:
    """A value as one harmless piece of text: mail can put escape sequences and right-to-left marks into a subject."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}"
        case list() | tuple():
            return "; ".join(plain(item) for item in value)
        case _:
            return "".join(_harmless(character) for character in str(value))


def _harmless(character: str) -> str:
    if character.isspace():
        return " "
    match unicodedata.category(character):
        case "Cc" | "Cs":  # control characters, lone surrogates
            return "\N{REPLACEMENT CHARACTER}"
        case "Cf":  # direction marks, joiners: no width, and able to turn the line round
            return ""
        case _:
            return character
