"""Looking at the data: plots as PNG, and one HTML page with all of them, build/explore/index.html.

    python -m training.explore            what `training.prepare` wrote
    python -m training.explore --smoke    the same on made-up mail, in seconds and without corpora

Needs the [report] extra. Nothing here is a feature: years and corpora are what a model must not learn.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from mailtagger.clean import clean
from mailtagger.errors import MailtaggerError
from mailtagger.files import read
from mailtagger.parse import parse
from training import plots, prepare
from training.corpora import Document
from training.everyday import rows as everyday
from training.page import Picture, Section, page
from training.probe import probe, sample
from training.splits import Row
from training.words import Words, count

OUT = Path("build/explore")
DEMO = Path(prepare.__file__).parents[1] / "mailtagger" / "demo_mail"
SIZES = ((1, 1), (2, 2), (3, 5), (6, 20), (21, 100), (101, sys.maxsize))  # of groups of duplicates
CLOUD, TELLING = 60, 15
FEW = 20  # mails of each corpus that the probe cannot do without


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--smoke", action="store_true", help="a little made-up mail in the place of corpora")
    chosen = options.parse_args(arguments)
    if not find_spec("wordcloud"):
        raise MailtaggerError("wordcloud is not installed.", "pip install -e .[train,report] brings it.")
    rows, years = smoke() if chosen.smoke else (prepare.load(chosen.data), prepare.load_years(chosen.data))
    if not rows:
        raise MailtaggerError(f"There is no mail in {chosen.data}.", prepare.AGAIN)
    chosen.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    sections = []
    written: list[Path] = []
    for section in look(rows, years):
        print(f"{section.title}: {section.finding} ({time.monotonic() - begun:.0f} s)", flush=True)
        for picture in section.pictures:
            for png, end in {picture.png["dark"]: "-dark", picture.png["light"]: ""}.items():
                written.append(chosen.out / f"{picture.name}{end}.png")
                written[-1].write_bytes(png)
        sections.append(section)
    about = f"{len(rows):,} labelled mails, cleaned as live mail is."
    index = chosen.out / "index.html"
    index.write_text(page("The mail a model learns from", about, sections), encoding="utf-8")
    print(f"{index}: {index.stat().st_size / 1e6:.1f} MB, {len(written)} PNG files beside it")


def look(rows: Sequence[Row], years: Mapping[str, int]) -> Iterator[Section]:
    """The sections of the page, in its order."""
    words = count(rows)
    yield _classes(rows)
    yield from (_lengths(rows, unit, measure) for unit, measure in (("characters", len), ("words", _word_count)))
    yield _clouds(words)
    yield _telling(words)
    yield _duplicates(rows)
    yield _years(rows, years)
    yield from (_probe(rows, marks_only) for marks_only in (False, True))


def _classes(rows: Sequence[Row]) -> Section:
    corpora = sorted({row.document.corpus for row in rows})
    table = [(name, *_by_label([row for row in rows if row.document.corpus == name])) for name in corpora]
    ham, spam = _by_label(rows)
    finding = f"{ham:,} ham and {spam:,} spam ({spam / len(rows):.0%} spam) in {len(corpora)} corpora."
    draw = plots.stacked(*zip(*table, strict=True))
    picture = _picture("classes", draw, f"Bars of ham and spam by corpus: {_listed(table)}.", 0.9 + 0.4 * len(table))
    return Section("Classes", finding, (picture,), ("corpus", "ham", "spam"), table)


def _lengths(rows: Sequence[Row], unit: str, measure: Callable[[str], int]) -> Section:
    ham, spam = ([measure(r.document.text) for r in rows if r.document.label == label] for label in ("ham", "spam"))
    table = [(label, *_quantiles(sizes)) for label, sizes in (("ham", ham), ("spam", spam)) if sizes]
    middle = " and ".join(f"{line[3]:,} for {line[0]}" for line in table)
    finding = f"The median is {middle}."
    picture = _picture(unit, plots.lengths(ham, spam, unit), f"Distribution of {unit} by class. {finding}")
    head = ("class", "shortest", "a quarter below", "median", "a quarter above", "longest")
    return Section(f"Length in {unit}", finding, (picture,), head, table)


def _clouds(words: Words) -> Section:
    pictures = []
    for label in ("ham", "spam"):
        common = words.common(label, CLOUD)
        if png := plots.cloud(common, label):
            alt = f"Word cloud of {label}; its commonest words: {', '.join(list(common)[:10])}."
            pictures.append(Picture(f"cloud-{label}", {"light": png, "dark": png}, alt, label))
    finding = "Larger words stand in more mails; function words, numbers and tokens of our own are left out."
    table = [(label, word, n) for label in ("ham", "spam") for word, n in words.common(label, 20).items()]
    return Section("Words of ham and of spam", finding, tuple(pictures), ("class", "word", "mails"), table)


def _telling(words: Words) -> Section:
    ham, spam = (words.telling(label, TELLING) for label in ("ham", "spam"))
    table = [(label, word, round(z, 1)) for label, found in (("ham", ham), ("spam", spam)) for word, z in found]
    said = [f"{label}: {', '.join(w for w, _ in found[:5])}" for label, found in (("ham", ham), ("spam", spam))]
    finding = (
        f"Most telling for {'; for '.join(said)}. Log-odds ratio with an informative Dirichlet prior; of "
        "near-duplicates one counts. xx… are tokens of cleaning: xxn3 a number of three digits, xxurl a link, xxmail "
        "an address."
    )
    alt = f"Bars of z-scores. {'; '.join(said)}."
    picture = _picture("telling", plots.telling(ham, spam), alt, 1.1 + 0.27 * max(len(ham), len(spam)))
    return Section("Most telling words", finding, (picture,), ("class", "word", "z"), table)


def _duplicates(rows: Sequence[Row]) -> Section:
    same = Counter(Counter(row.document.text for row in rows).values())
    near = Counter(Counter(row.group for row in rows).values())
    names = [f"{low}" if low == high else f"{low}–{high}" if high < sys.maxsize else f"{low}+" for low, high in SIZES]
    sums = [[sum(s * n for s, n in of.items() if low <= s <= high) for low, high in SIZES] for of in (same, near)]
    exact_doubles, near_doubles = (len(rows) - sum(of.values()) for of in (same, near))
    finding = (
        f"{exact_doubles:,} mails ({exact_doubles / len(rows):.1%}) repeat the text of another, and {near_doubles:,} "
        f"({near_doubles / len(rows):.1%}) are near-duplicates of one; the largest groups have {max(same):,} and "
        f"{max(near):,} mails."
    )
    table = list(zip(names, *sums, strict=True))
    picture = _picture("duplicates", plots.groups(names, *sums), f"Mails by size of their group. {finding}")
    return Section("Duplicates", finding, (picture,), ("mails in a group", "same text", "near-duplicate"), table)


def _years(rows: Sequence[Row], years: Mapping[str, int]) -> Section:
    title, claims = "Years", Counter((years.get(row.document.key), row.document.label) for row in rows)
    known = sorted({year for year, _ in claims if year})
    if not known:
        return Section(title, f"No year is known. {prepare.AGAIN}")
    table = [(str(year), claims[year, "ham"], claims[year, "spam"]) for year in known]
    finding = (
        f"From {known[0]} to {known[-1]}, as senders claim; {claims[None, 'ham'] + claims[None, 'spam']:,} mails have "
        f"none. The year alone is right of {_by_year_alone(table):.1%} of the others, so no model may see it."
    )
    draw = plots.years(known, [ham for _, ham, _ in table], [spam for _, _, spam in table])
    picture = _picture("years", draw, f"Bars of ham and spam by year. {finding}")
    return Section(title, finding, (picture,), ("year", "ham", "spam"), table)


def _probe(rows: Sequence[Row], marks_only: bool) -> Section:
    title = "The corpus probe, marks only" if marks_only else "The corpus probe"
    drawn = sample([row for row in rows if row.document.label == "ham"])
    sizes = Counter(row.document.corpus for row in drawn)
    if len(sizes) < 2 or min(sizes.values()) < FEW:
        return Section(title, f"It needs ham of two corpora and more, {FEW} mails of each.")
    found = probe(drawn, marks_only)
    read = "marks, numbers and the commonest words" if marks_only else "all words"
    finding = (
        f"From {read}, a linear model guesses the corpus of {found.accuracy:.1%} of {len(drawn):,} good mails; chance "
        f"is {1 / len(found.corpora):.1%}. The nearer to chance, the less can a model take the corpus for the label."
    )
    table = [(name, " ".join(found.telling[name])) for name in found.corpora]
    name, draw = "probe-marks" if marks_only else "probe", plots.confusion(found.corpora, found.confusion)
    picture = _picture(name, draw, f"Table of corpora and what they are taken for. {finding}")
    return Section(title, finding, (picture,), ("corpus", "its tokens; no: those that it lacks"), table)


def _picture(name: str, draw: "Callable[..., None]", alt: str, height: float = 3.4) -> Picture:
    return Picture(name, {theme: plots.render(draw, theme, height) for theme in plots.THEMES}, alt)


def smoke() -> tuple[list[Row], dict[str, int]]:
    """Good mail from templates as two corpora, and the demo's spam with words of its own kind, enough for each plot."""
    ham = everyday(160, 0)
    rows = [replace(row, document=replace(row.document, corpus=f"everyday-{i % 2}")) for i, row in enumerate(ham)]
    spam = [clean(parse(one.raw)) for one in read(map(str, sorted(DEMO.glob("spam-*.eml"))))]
    texts = [f"{one} {' '.join(other.split()[:20])}" for one in spam for other in spam]
    for i, text in enumerate((*texts, *spam, *spam)):
        rows.append(Row(Document("demo", "demo/spam", f"demo/{i}", "spam", text), f"demo/{i % len(texts)}", "train"))
    return rows, {row.document.key: 2020 + i % 5 for i, row in enumerate(rows)}


def _by_label(rows: Sequence[Row]) -> tuple[int, int]:
    spam = sum(row.document.is_spam for row in rows)
    return len(rows) - spam, spam


def _by_year_alone(table: Sequence[tuple[str, int, int]]) -> float:
    return sum(max(ham, spam) for _, ham, spam in table) / sum(ham + spam for _, ham, spam in table)


def _quantiles(sizes: Sequence[int]) -> tuple[int, ...]:
    ordered = sorted(sizes)
    quarter = len(ordered) // 4
    return ordered[0], ordered[quarter], int(median(ordered)), ordered[-1 - quarter], ordered[-1]


def _word_count(text: str) -> int:
    return len(text.split())


def _listed(table: Sequence[tuple[str, int, int]]) -> str:
    return "; ".join(f"{name} {ham:,} ham, {spam:,} spam" for name, ham, spam in table)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
