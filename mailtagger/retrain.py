"""`mailtagger retrain`: lessons, and a rehearsal of the base corpus, to a candidate; through the gate it takes over.

    plan        what would be learned, and whether that is news
    make        the candidate, in models/.retrain, where nobody looks for a model       ulmfit.finetune (torch)
    ask         the old model and the new one: the base's hold-out, the user's, his lessons         gate, score
    finish      promoted: installed, and `current`; refused: kept under models/ for inspection; either way a line

Training starts from the base each time, not from the last result: what was forgotten is in no later model, what is held
out is never learned, and small losses do not add up. Until the last step nothing that serves is touched; what a killed
run has left, the next one clears away.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from mailtagger import artifact, gate, replay
from mailtagger.artifact import Artifact
from mailtagger.count import many
from mailtagger.decide import Policy, decide
from mailtagger.errors import ModelError
from mailtagger.judge import agree
from mailtagger.lessons import Lesson, Lessons, Retraining
from mailtagger.score import Scorer, open_scorer
from mailtagger.state import RunLock, explained

log = logging.getLogger(__name__)

Tell = Callable[[float], None]  # gets the share of the work that is done; what it raises ends the work

WORK = ".retrain"
LOCK = "retrain.lock"
MADE_HERE = "retraining"  # the key in a model's metrics that says that `retrain` made it, and of what
MOST = 2000  # lessons that are learned, the newest: ten minutes' work
KEPT = 4  # models made here that stay, beside the current one and the previous one
MISSING = "mailtagger retrain needs PyTorch, which is not installed here."
WAY_OUT = "pip install 'mailtagger[train]'"


@dataclass(frozen=True)
class Plan:
    """What there is to learn, from where."""

    current: Artifact
    base: Artifact  # where training starts: current, or what it was made from
    lessons: tuple[Lesson, ...]  # with a text, oldest first
    split: gate.Split
    news: int  # lessons that the current model has not learned
    without_text: int
    stand: str  # changes with the lessons and the base


def plan(state_dir: Path, named: Path | None, lessons: Lessons | None) -> Plan:
    """What there is to learn now, nothing where there are no lessons; changes nothing."""
    current = artifact.load(artifact.find(state_dir, named))
    base = base_of(current, state_dir)
    known = lessons.all() if lessons else []
    told = [lesson for lesson in known if lesson.text and lesson.text.strip()][-MOST:]
    digest = hashlib.sha256(repr([base.id, *(lesson.id for lesson in known)]).encode()).hexdigest()[:16]
    split = gate.split(told)
    news = sum(told[i].learned_by != current.id for i in split.learned)
    return Plan(
        current, base, tuple(told), split, news,
        sum(not lesson.text for lesson in known), digest,
    )


def base_of(model: Artifact, state_dir: Path) -> Artifact:
    """What a model that was made here started from, or the packaged one where that is gone; another model itself."""
    made = model.meta.metrics.get(MADE_HERE)
    if not made:
        return model
    for path in artifact.available(state_dir):
        if path.name == made["base"]:
            return artifact.load(path)
    return artifact.load(artifact.find(None))


def changed(plan: Plan, lessons: Lessons) -> bool:
    """Whether the lessons, or the base, are others than at the last retraining, whatever came out of that."""
    past = lessons.retrainings()
    return not past or past[-1].figures.get("stand") != plan.stand


def retrain(state_dir: Path, plan: Plan, lessons: Lessons, tell: Tell = lambda share: None) -> Retraining:
    """What came out; the model is `current` if it was promoted. MailtaggerError if none could be made."""
    needs_torch()
    models = state_dir / "models"
    with RunLock(state_dir, file=LOCK, who="Another mailtagger retrain"), explained(models):
        work = models / WORK
        shutil.rmtree(work, ignore_errors=True)
        try:
            return _retrain(state_dir, work, plan, lessons, tell)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def needs_torch() -> None:
    """ModelError, with the way out, where training is not installed."""
    # Threads that wait for each other by spinning cost five times the time where another process has one of two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import mailtagger.ulmfit.finetune  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModelError(MISSING, WAY_OUT) from error


def _retrain(state_dir: Path, work: Path, plan: Plan, lessons: Lessons, tell: Tell) -> Retraining:
    from mailtagger.ulmfit.finetune import Lessons as Taught
    from mailtagger.ulmfit.finetune import finetune

    sample = replay.load()
    learned = [plan.lessons[i] for i in plan.split.learned]
    held_out = [plan.lessons[i] for i in plan.split.held_out]
    name = _name(state_dir / "models", lessons)
    log.info("%s: %s, %d held out, from %s", name, many(len(learned), "lesson"), len(held_out), plan.base.id)
    about: dict[str, Any] = {"base": plan.base.id, "lessons": len(learned), "held_out": len(held_out)}
    try:
        candidate = finetune(
            plan.base,
            Taught([lesson.text or "" for lesson in learned], list(map(_spam, learned)), plan.split.weights),
            [mail.text for mail in sample.rehearsed],
            work / name,
            id=name,
            metrics={MADE_HERE: about},
            data=f"{plan.base.meta.data}; {many(len(learned), 'lesson')}",
            tell=lambda share: tell(0.75 * share),
        )
    except (RuntimeError, MemoryError) as error:  # what torch raises when memory is short, for one
        raise ModelError(
            f"The training broke off ({type(error).__name__}: {error}).", f"{plan.current.id} stays the current model."
        ) from error
    sets = ask(plan, candidate, sample, learned, held_out, lambda share: tell(0.75 + 0.25 * share))
    judgement = gate.decide(**sets, most_called_spam=_once(plan))
    figures = {**about, "stand": plan.stand, "compared": plan.current.id, "sets": _tallies(sets)}
    told = candidate.meta.model_copy(update={"metrics": {MADE_HERE: figures | {"promoted": judgement.promoted}}})
    artifact.write(replace(candidate, meta=told))
    if judgement.promoted:
        artifact.install(candidate.path, state_dir, open_scorer)
        lessons.learned([lesson.id for lesson in learned], name)
        agree(lessons, open_scorer(artifact.load(artifact.find(state_dir))))
    else:
        candidate.path.rename(state_dir / "models" / name)
    done = Retraining(plan.base.id, name, judgement.promoted, judgement.why, figures)
    lessons.retrained(done)
    _discard(state_dir)
    return done


def ask(
    plan: Plan, candidate: Artifact, sample: replay.Sample, learned: Sequence[Lesson], held_out: Sequence[Lesson],
    tell: Tell,
) -> dict[str, gate.Asked]:
    """What the gate wants to know: the candidate beside the base on the base's hold-out, and beside the current model
    on the lessons."""
    new, base = open_scorer(candidate), Scorer(plan.base)
    current = base if plan.current.id == plan.base.id else Scorer(plan.current)
    sets = {
        "base": ([(m.text, m.spam) for m in sample.held_out], base),
        "held_out": ([(lesson.text or "", _spam(lesson)) for lesson in held_out], current),
        "learned": ([(lesson.text or "", _spam(lesson)) for lesson in learned], current),
    }
    total, done, found = 2 * sum(len(mails) for mails, _ in sets.values()), 0, {}
    for name, (mails, old) in sets.items():
        said: list[list[gate.Said]] = []
        for scorer in (old, new):
            said.append([])
            for one in _said(scorer, [text for text, _ in mails]):
                said[-1].append(one)
                done += 1
                tell(done / total)
        found[name] = gate.Asked([spam for _, spam in mails], *said)
    return found


def _said(scorer: Scorer, texts: Sequence[str]) -> Iterator[gate.Said]:
    """What the model alone says of each text, in order; one thread for each core, as a scorer uses one."""
    policy = Policy(scorer.cutoffs.ham, scorer.cutoffs.spam)

    def one(text: str) -> gate.Said:
        score = scorer.score(text)
        return gate.Said(score.p, decide(score.p, policy, score.familiar).verdict)

    pool = ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))))
    try:
        yield from pool.map(one, texts)
    finally:
        pool.shutdown(cancel_futures=True)


def _tallies(sets: dict[str, gate.Asked]) -> dict[str, Any]:
    return {
        name: {"old": asdict(gate.tally(asked.spam, asked.old)), "new": asdict(gate.tally(asked.spam, asked.new))}
        for name, asked in sets.items()
    }


def _once(plan: Plan) -> int | None:
    """What the current model was found to call spam of the base's good mail when it passed the gate."""
    made = plan.current.meta.metrics.get(MADE_HERE, {})
    if made.get("base") != plan.base.id or "sets" not in made:
        return None
    return int(made["sets"]["base"]["new"]["good_called_spam"])


def _spam(lesson: Lesson) -> bool:
    return lesson.label == "spam"


def _name(models: Path, lessons: Lessons) -> str:
    """An id that no model here has or has had."""
    taken = {past.candidate for past in lessons.retrainings()}
    day, number = date.today().strftime("user-%Y%m%d"), 1
    while (name := f"{day}-{number}") in taken or (models / name).exists():
        number += 1
    return name


def _discard(state_dir: Path) -> None:
    """Only the newest KEPT of the models that were made here stay, and those that `current` and `previous` point to."""
    models = state_dir / "models"
    links = [models / artifact.CURRENT, models / artifact.PREVIOUS]
    kept = {link.readlink().name for link in links if link.is_symlink()}
    made = [path for path in artifact.available(state_dir) if path.parent == models and path.name.startswith("user-")]
    made = [path for path in made if path.name not in kept]
    for path in sorted(made, key=lambda path: (path / artifact.META).stat().st_mtime)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
