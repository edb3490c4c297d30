"""The rates and losses of a run, drawn from the CSV that it leaves: PNG or SVG.

python -m training.curves build/lm/mail.csv [MORE.csv …] --out build/lm/mail.png
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit.progress import COLUMNS

Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", type=Path, nargs="+", metavar="CSV")
    options.add_argument("--out", type=Path, required=True)
    chosen = options.parse_args(arguments)
    draw({path.stem: read(path) for path in chosen.runs}, chosen.out)
    print(f"{chosen.out} shows {', '.join(path.stem for path in chosen.runs)}")


def read(path: Path) -> list[Row]:
    """The rows of a run's CSV."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise MailtaggerError(f"{path} is no curve of a run.", f"Its first line would be {','.join(COLUMNS)}.")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MailtaggerError(f"{path} cannot be read ({error}).", "A run leaves it beside what it makes.") from error


def draw(runs: dict[str, list[Row]], out: Path) -> None:
    """Loss above, rate below, over what has been seen; validation as points."""
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5), height_ratios=(2, 1))
    for name, rows in runs.items():
        (line,) = above.plot(*_points(rows, "train_loss"), linewidth=1, label=f"{name}, training")
        color = line.get_color()
        if any(row["valid_loss"] for row in rows):
            above.plot(*_points(rows, "valid_loss"), "o", color=color, label=f"{name}, validation")
        below.plot(*_points(rows, "rate"), color=color, linewidth=1)
    above.set(ylabel="loss")
    above.legend(fontsize=8)
    below.set(xlabel="seen", ylabel="rate")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, bbox_inches="tight", dpi=120)
    pyplot.close(figure)


def _points(rows: Sequence[Row], column: str) -> tuple[list[int], list[float]]:
    found = [(int(row["seen"]), float(row[column])) for row in rows if row[column]]
    return [x for x, _ in found], [y for _, y in found]


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
