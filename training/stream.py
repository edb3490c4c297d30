"""Mail in order of time: each is scored first, then the truth is told; what the personal layer makes of it.

    python -m training.stream DIR [--model DIR] [--learner NAME …] [--json FILE]

DIR holds raw mails and labels.csv (columns file, label; label spam or ham; the rows in order of time). Each mail goes
the daemon's way: parse, clean, score, personal layer. The truth is told

    all      after every mail
    errors   after those that were on the wrong side of 0.5
    tenth    after one in ten, drawn
    delayed  500 mails later
    wrong    after every mail, but one in a hundred the wrong way, drawn; errors are counted by the true label

Beside it stand the model alone and bogofilter (its own tokens, its own cutoff of 0.99), told the same, and the first
mail of each class, without which it cannot score. 1-ROCA % is the chance, in percent, that a spam scores below a good
mail (Cormack & Lynam, TREC 2005), with a 95 % bootstrap interval.
"""

import argparse
import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mailtagger.artifact import find, load
from mailtagger.clean import RULES_HASH, clean
from mailtagger.count import Count
from mailtagger.decide import log_odds_of
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from mailtagger.score import open_scorer
from training.figures import Flags, Scores, table
from training.learners import LEARNERS, Bogofilter, Learner, Seen

LABELS = "labels.csv"
CACHE = Path("build/stream")
PROTOCOLS = ("all", "errors", "tenth", "delayed", "wrong")
DELAY, TENTH, WRONG = 500, 0.10, 0.01
WINDOWS = (200, 1_000)
DRAWS = 500  # of the bootstrap
SEED = 0


@dataclass(frozen=True)
class Post:
    """One mail of the stream, as it came, and the truth about it."""

    raw: bytes
    spam: bool


@dataclass(frozen=True)
class Figures:
    """What one method did in one window of the stream under one protocol."""

    protocol: str
    method: str
    window: str
    roca: float | None  # 1-ROCA in percent; None where there is mail of one class only
    low: float | None
    high: float | None
    errors: Count  # at 0.5
    ham_called_spam: Count  # at 0.5
    ham_over_cutoff: Count  # at the method's own spam cutoff
    spam_missed: Count  # at 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("directory", type=Path, metavar="DIR")
    options.add_argument("--model", type=Path, metavar="DIR", help="default: the packaged one")
    options.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    options.add_argument("--learner", nargs="+", choices=sorted(LEARNERS), default=["personal"])
    options.add_argument("--no-bogofilter", action="store_true")
    options.add_argument("--json", type=Path, metavar="FILE")
    chosen = options.parse_args(arguments)
    posts = read(chosen.directory)
    artifact = load(chosen.model or find(None))
    bases = base_log_odds(posts, artifact.path)
    cutoff = log_odds_of(artifact.meta.cutoffs.spam)
    with_bogofilter = not chosen.no_bogofilter and shutil.which("bogofilter") is not None
    if not chosen.no_bogofilter and not with_bogofilter:
        print("bogofilter is not installed; it is left out.")
    spam = np.array([post.spam for post in posts])
    print(f"{len(posts)} mails, {spam.sum()} of them spam; model {artifact.id}\n")
    found: list[Figures] = []
    for protocol in chosen.protocol:
        lines = list(figures(protocol, "model alone", bases, cutoff, spam))
        for name in chosen.learner:
            scores = replay(posts, bases, LEARNERS[name](artifact.path), protocol)
            lines += figures(protocol, name, scores, cutoff, spam)
        if with_bogofilter:
            with Bogofilter() as filter_:
                scores = replay(posts, bases, filter_, protocol, one_of_each=True)
            lines += figures(protocol, "bogofilter", scores, log_odds_of(filter_.CUTOFF), spam)
        print(f"{protocol}\n\n{report(lines)}\n", flush=True)
        found += lines
    if chosen.json:
        about = {"mails": len(posts), "spam": int(spam.sum()), "model": artifact.id}
        chosen.json.write_text(json.dumps({**about, "figures": [asdict(line) for line in found]}, indent=1) + "\n")


def read(directory: Path) -> list[Post]:
    """The mails in their order; MailtaggerError naming the file and line of the first row that cannot be used."""
    path = directory / LABELS
    way = "It holds the columns file and label (spam or ham), a mail a row, in order of time."
    posts = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"file", "label"} <= set(rows.fieldnames or ()):
                raise MailtaggerError(f"{path}, line 1: it names no columns file and label.", way)
            for row in rows:
                posts.append(_post(directory, row, f"{path}, line {rows.line_num}"))
    except FileNotFoundError as error:
        raise MailtaggerError(f"{path} is not there.", way) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MailtaggerError(f"{path} cannot be read ({error}).", way) from error
    if not posts:
        raise MailtaggerError(f"{path} lists no mail.", way)
    return posts


def _post(directory: Path, row: dict[str, str | None], where: str) -> Post:
    name, label = row["file"], (row["label"] or "").strip().lower()
    if label not in ("spam", "ham"):
        raise MailtaggerError(f"{where}: the label is {label!r}.", "It is spam or ham.")
    if not name:
        raise MailtaggerError(f"{where}: no file is named.")
    try:
        return Post((directory / name).read_bytes(), label == "spam")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MailtaggerError(f"{where}: {name} cannot be read ({why}).") from error


def base_log_odds(posts: Sequence[Post], model: Path) -> Scores:
    """What the model says of each mail by itself, 0 where there is nothing to read; reckoned once for a stream."""
    artifact = load(model)
    digest = hashlib.sha256(RULES_HASH.encode() + (artifact.path / "meta.json").read_bytes())
    for post in posts:
        digest.update(hashlib.sha256(post.raw).digest())
    kept = CACHE / f"{digest.hexdigest()[:32]}.npy"
    if kept.exists():
        return np.load(kept, allow_pickle=False).astype(np.float64)
    scorer = open_scorer(artifact)
    texts = (clean(parse(post.raw)) for post in posts)
    found = np.array([log_odds_of(scorer.score(text).p) if text.strip() else 0.0 for text in texts])
    CACHE.mkdir(parents=True, exist_ok=True)
    np.save(kept, found, allow_pickle=False)
    return found


def replay(
    posts: Sequence[Post], bases: Scores, learner: Learner, protocol: str, one_of_each: bool = False
) -> Scores:
    """The log-odds of each mail at the time it came, with the truth told by the protocol, and of the first mail of each
    class in any case where the learner can say nothing without."""
    firsts = {[post.spam for post in posts].index(spam) for spam in {post.spam for post in posts}}
    rng = np.random.default_rng(SEED)
    wrong, drawn = rng.random(len(posts)) < WRONG, rng.random(len(posts)) < TENTH
    waiting: dict[int, Seen] = {}
    found = np.zeros(len(posts))
    for i, (post, base) in enumerate(zip(posts, bases.tolist(), strict=True)):
        waiting[i] = learner.see(post.raw, base)
        found[i] = learner.log_odds(waiting[i])
        at = i - DELAY if protocol == "delayed" else i
        told = {
            "errors": (found[i] > 0) != post.spam,
            "tenth": bool(drawn[i]),
            "delayed": at >= 0,
        }.get(protocol, True) or (one_of_each and at in firsts)
        if told:
            learner.learn(waiting[at], posts[at].spam ^ (protocol == "wrong" and bool(wrong[at])))
        waiting.pop(at, None)
    return found


def figures(protocol: str, method: str, scores: Scores, cutoff: float, spam: Flags) -> Iterator[Figures]:
    """The figures of the first 200 mails, of the first 1,000, and of all."""
    for count in (*(n for n in WINDOWS if n < len(spam)), len(spam)):
        z, truth = scores[:count], spam[:count]
        roca = roca_interval(z, truth)
        wrong = (z > 0) != truth
        yield Figures(
            protocol, method, "all" if count == len(spam) else f"first {count:,}", *roca,
            Count(int(wrong.sum()), count),
            Count(int((wrong & ~truth).sum()), int((~truth).sum())),
            Count(int((~truth & (z >= cutoff)).sum()), int((~truth).sum())),
            Count(int((wrong & truth).sum()), int(truth.sum())),
        )


def roca_interval(scores: Scores, spam: Flags) -> tuple[float | None, float | None, float | None]:
    """1-ROCA in percent and its 95 % interval, each class drawn again by itself."""
    if spam.all() or not spam.any():
        return None, None, None
    _, place = np.unique(scores, return_inverse=True)
    levels = int(place.max()) + 1
    rng = np.random.default_rng(SEED)

    def below(good: NDArray[np.int64], bad: NDArray[np.int64]) -> float:
        at_good, at_bad = (np.bincount(places, minlength=levels) for places in (good, bad))
        under = np.cumsum(at_bad) - at_bad / 2  # a tie counts half
        return float(100 * (under * at_good).sum() / (len(good) * len(bad)))

    good, bad = place[~spam], place[spam]
    drawn = [below(rng.choice(good, len(good)), rng.choice(bad, len(bad))) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return below(good, bad), float(low), float(high)


def report(lines: Sequence[Figures]) -> str:
    """Markdown: a line a method and window."""
    head = ["method", "mails", "1-ROCA %", "errors at 0.5", "good mail called spam", "… at the cutoff", "spam missed"]
    return table(head, [
        [
            line.method, line.window,
            "–" if line.roca is None else f"{line.roca:.3f} ({line.low:.3f}–{line.high:.3f})",
            line.errors, line.ham_called_spam, line.ham_over_cutoff, line.spam_missed,
        ]
        for line in lines
    ])


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
