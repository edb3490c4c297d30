"""How much held-out spam is still caught in disguise: hidden, split and look-alike words, good words, pictures.

    python -m training.evasion --model build/models/base-YYYYMMDD --write

Each message is written anew in each disguise, as raw mail, and goes the way of live mail: parse, clean, score, decide.
TF-IDF + LinearSVC reads the same cleaned texts and calls as much validation ham spam as the model does; a blank text is
not spam to it. Good words come from held-out ham.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np

from mailtagger.artifact import Artifact
from mailtagger.clean import clean
from mailtagger.decide import Policy, Verdict, decide
from mailtagger.errors import MailtaggerError
from mailtagger.parse import Mail, parse, printable
from mailtagger.score import Scorer, open_scorer
from training import prepare
from training.arguments import positive
from training.baselines import svc
from training.corpora import Label, home, raws
from training.disguises import CONTROL, DISGUISES, Spam, disguised, mail
from training.evaluate import RESULTS, fitting, opened, write
from training.figures import Count, table, threshold_for
from training.splits import Row, Split, split

LIMIT, GOOD = 400, 200  # spam to disguise; ham that good words are taken from
HEAD = (
    *("disguise", "n", "ULMFiT: called spam", "unsure", "called ham"),
    *("TF-IDF + LinearSVC: called spam", "words that come through"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.evasion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", type=Path, required=True, metavar="DIR")
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="messages to disguise")
    options.add_argument("--write", action="store_true", help=f"put the table into {RESULTS.name}")
    options.add_argument("--jobs", type=positive, default=2, help="processes that score")
    chosen = options.parse_args(arguments)
    rows = prepare.load(chosen.data)
    model, held_out = opened(chosen.model), split("default", rows)
    fitting([model], [held_out], rows)
    spam = messages(sample(held_out.test, "spam", chosen.limit), sample(held_out.test, "ham", GOOD))
    text = measured(model.artifact, split(model.protocol, rows), spam, chosen.jobs)
    print(text)
    if chosen.write:
        limit = [] if chosen.limit == LIMIT else ["--limit", str(chosen.limit)]
        write("evasion", text, ["training.evasion"], [chosen.model], *limit)


def sample(rows: Sequence[Row], label: Label, limit: int) -> list[Row]:
    """Rows with a message, none a near-duplicate of another, as many of each family as there are."""
    families: dict[str, list[Row]] = defaultdict(list)
    seen: set[str] = set()
    for row in Random(0).sample(rows, len(rows)):
        if row.document.label == label and "message" not in row.document.missing and row.group not in seen:
            seen.add(row.group)
            families[row.document.family].append(row)
    in_turn = chain.from_iterable(zip_longest(*(families[name] for name in sorted(families))))
    return [row for row in in_turn if row][:limit]


def messages(spam: Sequence[Row], ham: Sequence[Row]) -> list[Spam]:
    """The messages of the spam's rows as their corpora hold them, with good words of the ham."""
    mails = read([*spam, *ham])
    good = [words for row in ham if (words := mails[row.document.key].body.split())]
    found = []
    for row in spam:
        said = mails[row.document.key]
        draw, wanted = Random(row.document.key), 3 * len(said.body.split())
        padding: list[str] = []
        while good and len(padding) < wanted:
            padding += draw.choice(good)
        found.append(Spam(row.document.key, said.subject, said.body, tuple(padding[:wanted])))
    return found


def read(rows: Sequence[Row]) -> dict[str, Mail]:
    """The mail of each row by its key; what a corpus holds as subject and message is made a mail first."""
    wanted = {row.document.key for row in rows}
    found = {}
    for name in sorted({row.document.corpus for row in rows}):
        for raw in raws(name, home()):
            if raw.key in wanted:
                whole = raw.content if isinstance(raw.content, bytes) else mail(*map(printable, raw.content))
                found[raw.key] = parse(whole)
    return found


def measured(artifact: Artifact, known: Split, spam: Sequence[Spam], jobs: int) -> str:
    """The table: for each disguise, what the model and the linear model, which learns from `known`, say of the spam."""
    ham = [row.document.text for row in known.valid if row.document.label == "ham"]
    texts = {name: [clean(parse(disguised(name, one))) for one in spam] for name in DISGUISES}
    judged = verdicts(artifact, [*ham, *chain.from_iterable(texts.values())], jobs)
    rate = judged[: len(ham)].count("spam") / len(ham)
    score = svc([row.document.text for row in known.train], [row.document.label == "spam" for row in known.train])
    threshold = threshold_for(rate, score(ham))
    lines: list[tuple[object, ...]] = []
    for i, (name, seen) in enumerate(texts.items()):
        said = judged[len(ham) + i * len(spam) :][: len(spam)]
        linear = (score(seen) >= threshold) & np.array([bool(text) for text in seen])
        cells = (
            *(name, len(spam), Count(said.count("spam"), len(spam)), said.count("unsure"), said.count("ham")),
            *(Count(int(linear.sum()), len(spam)), f"{through(texts[CONTROL], seen):.1%}"),
        )
        lines.append(cells)
    cutoffs = artifact.meta.cutoffs
    return (
        f"ULMFiT is {artifact.id}, cutoffs {cutoffs.ham:.3f} and {cutoffs.spam:.3f}; both are trained under "
        f"{known.protocol} and call {rate:.2%} of {len(ham)} validation ham spam. The messages: {_families(spam)}.\n\n"
        + table(HEAD, lines)
    )


def through(control: Sequence[str], texts: Sequence[str]) -> float:
    """How much of the words that the model reads in the control it reads in other texts of the same messages too."""
    pairs = [(_words(before), _words(after)) for before, after in zip(control, texts, strict=True)]
    return sum((before & after).total() for before, after in pairs) / max(1, sum(b.total() for b, _ in pairs))


def verdicts(artifact: Artifact, texts: Iterable[str], jobs: int) -> list[Verdict]:
    """The verdict on each cleaned text, one by one as on live mail, by `jobs` processes of one thread."""
    open_scorer(artifact)  # what is wrong with it is said here, not by a process of the pool
    with get_context("forkserver").Pool(jobs, _open, (artifact,)) as pool:
        return pool.map(_verdict, texts, chunksize=64)


_scorer: list[Scorer] = []  # of a process of the pool


def _open(artifact: Artifact) -> None:
    _scorer[:] = [Scorer(artifact)]


def _verdict(text: str) -> Verdict:
    scorer = _scorer[0]
    policy = Policy(scorer.cutoffs.ham, scorer.cutoffs.spam)
    if not text:
        return decide(None, policy).verdict
    score = scorer.score(text)
    return decide(score.p, policy, score.familiar).verdict


def _words(text: str) -> Counter[str]:
    return Counter(word for word in text.split() if not word.startswith("xx"))


def _families(spam: Sequence[Spam]) -> str:
    counts = Counter(one.key.partition("/")[0] for one in spam)
    return ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
