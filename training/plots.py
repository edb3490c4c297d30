"""Plots of a corpus as PNG, light and dark: narrow, so that their words can be read on a telephone.

Ham and spam have the same two colours everywhere, told apart by the colour-blind too and clear on either ground.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager, ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HAM, SPAM, EXACT, NEAR = "#2f86d1", "#d9621b", "#8a8f98", "#4f9a6b"
COLOURS = {"ham": HAM, "spam": SPAM}
WIDTH, DPI = 5.0, 200  # inches; 1000 pixels
THEMES = {"light": ("#ffffff", "#1f2328"), "dark": ("#161b22", "#e6edf3")}  # ground and ink, those of page.py
FONT = "DejaVu Sans"

Draw = Callable[[Axes], None]


def render(draw: Draw, theme: str, height: float = 3.4) -> bytes:
    """The PNG of what `draw` draws, on the ground of the theme."""
    ground, ink = THEMES[theme]
    style = {
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), ground),
        **{"font.family": FONT, "font.size": 11, "text.parse_math": False, "legend.frameon": False},
        **{"axes.spines.top": False, "axes.spines.right": False},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        draw(figure.subplots())
        png = io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def stacked(names: Sequence[str], ham: Sequence[int], spam: Sequence[int]) -> Draw:
    """Bars that lie, ham before spam, with their sum."""

    def draw(axes: Axes) -> None:
        at = np.arange(len(names))[::-1]
        axes.barh(at, ham, color=HAM, label="ham")
        axes.barh(at, spam, left=ham, color=SPAM, label="spam")
        for y, total in zip(at, np.add(ham, spam), strict=True):
            axes.text(total, y, f" {total:,}", va="center")
        axes.set_yticks(at, names)
        axes.set_xlim(0, 1.25 * max(np.add(ham, spam)))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        _legend(axes)

    return draw


def lengths(ham: Sequence[int], spam: Sequence[int], unit: str) -> Draw:
    """Shares of mails by length, on a logarithmic scale; the broken lines are medians."""

    def draw(axes: Axes) -> None:
        longest = max(10, *ham, *spam)
        bins = np.geomspace(1, longest * 1.01, 41)
        for label, sizes in (("ham", ham), ("spam", spam)):
            if not len(sizes):
                continue
            weights = np.full(len(sizes), 100 / len(sizes))
            colour = COLOURS[label]
            axes.hist(np.maximum(sizes, 1), bins, weights=weights, histtype="stepfilled", color=colour, alpha=0.25)
            axes.hist(np.maximum(sizes, 1), bins, weights=weights, histtype="step", color=colour, lw=1.8, label=label)
            axes.axvline(max(1, float(np.median(sizes))), color=colour, ls="--", lw=1.4)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(xlabel=f"{unit} in a mail", ylabel="% of its class")
        _legend(axes)

    return draw


def groups(names: Sequence[str], exact: Sequence[int], near: Sequence[int]) -> Draw:
    """Mails by the size of the group of duplicates they stand in."""

    def draw(axes: Axes) -> None:
        at = np.arange(len(names))
        axes.bar(at - 0.2, exact, 0.38, color=EXACT, label="same text")
        axes.bar(at + 0.2, near, 0.38, color=NEAR, label="near-duplicate")
        axes.set_xticks(at, names)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(xlabel="mails in a group", ylabel="mails in such groups")
        _legend(axes)

    return draw


def years(names: Sequence[int], ham: Sequence[int], spam: Sequence[int]) -> Draw:
    """Mails by the year that they claim."""

    def draw(axes: Axes) -> None:
        axes.bar(names, ham, color=HAM, label="ham")
        axes.bar(names, spam, bottom=ham, color=SPAM, label="spam")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylabel("mails")
        _legend(axes)

    return draw


def telling(ham: Sequence[tuple[str, float]], spam: Sequence[tuple[str, float]]) -> Draw:
    """Words that speak for ham to the left, for spam to the right, longest bars first."""

    def draw(axes: Axes) -> None:
        furthest = max([z for _, z in (*ham, *spam)], default=1.0)
        for words, side, label in ((ham, -1, "ham"), (spam, 1, "spam")):
            at = -np.arange(len(words))
            axes.barh(at, [side * z for _, z in words], color=COLOURS[label], label=label)
            for y, (word, z) in zip(at, words, strict=True):
                axes.text(side * (z + 0.02 * furthest), y, word, va="center", ha="left" if side > 0 else "right")
        axes.axvline(0, color=axes.yaxis.label.get_color(), lw=0.8)
        axes.set_xlim(-1.8 * furthest, 1.8 * furthest)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axes.set_xlabel("z-score of the log-odds")
        _legend(axes)

    return draw


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Draw:
    """For each corpus, in % of its mails, what a linear model takes them for."""

    def draw(axes: Axes) -> None:
        shares = 100 * np.array(counts) / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Greens", vmin=0, vmax=100, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            axes.text(j, i, f"{share:.0f}", ha="center", va="center", color="white" if share > 55 else "#1f2328")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="taken for, in %", ylabel="is from")

    return draw


def cloud(words: Mapping[str, int], label: str) -> bytes:
    """A PNG of the words, larger where more mails have them, on no ground of its own; b"" where the font has none."""
    from wordcloud import WordCloud  # of [report]

    path = Path(font_manager.findfont(FONT))
    letters = ft2font.FT2Font(str(path)).get_charmap()
    drawn = {word: count for word, count in words.items() if all(ord(letter) in letters for letter in word)}
    if not drawn:
        return b""
    made = WordCloud(
        **{"width": 1000, "height": 620, "mode": "RGBA", "background_color": None, "font_path": str(path)},
        **{"random_state": 0, "prefer_horizontal": 1, "min_font_size": 30, "max_words": 60, "relative_scaling": 0.4},
        color_func=lambda *_, **__: COLOURS[label],
    ).generate_from_frequencies(drawn)
    png = io.BytesIO()
    made.to_image().save(png, "PNG")
    return png.getvalue()


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1)
