"""The commands.

Exit status: 0 done · 1 something failed · 2 usage · 75 the server cannot be reached now, try later · 78 configuration ·
130 interrupted. Errors are one sentence with the way out, on standard error; standard output carries results only.
What is slow to import is imported inside the commands, so that `mailtagger --help` answers at once.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mailtagger import __version__, log, records
from mailtagger.errors import ConfigError, MailtaggerError, ModelError, StateError
from mailtagger.report import Report

if TYPE_CHECKING:
    from mailtagger.config import Account, Settings
    from mailtagger.imap import Mailbox
    from mailtagger.journal import Journal
    from mailtagger.score import Scorer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Watches IMAP folders and tags or moves spam with a fine-tuned ULMFiT classifier.",
)
models = typer.Typer(no_args_is_help=True, help="The models that are installed.")
app.add_typer(models, name="models")


class Level(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Imap(StrEnum):
    dovecot = "dovecot"
    pymap = "pymap"


@dataclass(frozen=True)
class Given:
    """The options before the command."""

    config: Path | None
    level: Level | None

    def settings(self) -> "Settings":
        """The configuration; ConfigError if there is none."""
        from mailtagger import config

        return config.load(config.locate(self.config))

    def settings_if_any(self) -> "Settings | None":
        """The configuration, or None where none is named and none lies in the usual places."""
        from mailtagger import config

        try:
            path = config.locate(self.config)
        except ConfigError:
            return None
        return config.load(path)


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
LATE = 2.0  # seconds after SIGTERM in which a step of a training may come to its end
AccountName = Annotated[str | None, typer.Option("--account", metavar="NAME", help="One of several accounts.")]


def main() -> None:
    """The command `mailtagger`; what it writes is for its user alone."""
    os.umask(0o077)
    try:
        app()
    except MailtaggerError as error:
        print(f"mailtagger: {error}", file=sys.stderr)
        for problem in error.problems if isinstance(error, ConfigError) else ():
            print(f"  {problem}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:  # a full disk under standard output, say; what mail and state raise has become a sentence
        print(f"mailtagger: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        leave(130)
    except Exception as error:  # Python would print what it says, and that may quote a mail
        print(f"mailtagger: this is a bug in mailtagger\n{log.trace(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        log.end()


def leave(status: int) -> NoReturn:
    """Ends the process as it is: to take the interpreter down costs up to a second of CPU, which others may want."""
    log.end()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mailtagger {__version__}")
        raise typer.Exit()


@app.callback()
def given(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="The configuration.", show_default=False)] = None,
    log_level: Annotated[Level | None, typer.Option(help="Instead of what the configuration says.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="The same as --log-level debug.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    level = Level.debug if verbose else log_level
    context.obj = Given(config, level)
    log.start(level or Level.warning)


@app.command()
def run(context: typer.Context) -> None:
    """Watch the configured folders, and mark or move spam as it arrives."""
    from mailtagger import config, daemon

    leave(daemon.run(config.locate(context.obj.config), context.obj.level))


@app.command()
def scan(
    context: typer.Context,
    folder: Annotated[str, typer.Option(metavar="F", help="The folder to go through.")],
    account: AccountName = None,
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or later.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest N messages only.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Act. Without it nothing is changed on the server.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Move the spam even where the brake would hold it.")] = False,
    every: Annotated[bool, typer.Option("--all", help="On a terminal, list ham too.")] = False,
    as_json: Json = False,
) -> None:
    """Judge the mail that is already in a folder: a dry run, unless --apply is given."""
    from mailtagger import pipeline
    from mailtagger.decide import Policy
    from mailtagger.journal import FILE, Journal
    from mailtagger.judge import Job
    from mailtagger.lessons import Lessons

    settings = context.obj.settings()
    scorer = _scorer(settings)
    counts = dict.fromkeys(("seen", "spam", "unsure", "ham", "failed"), 0)
    with (
        _interrupted() as stopped,
        _mailbox(settings, account, folder) as (chosen, mailbox),
        Journal(settings.state_dir / FILE) as journal,
        Report(records.SCAN, as_json, "judging") as report,
    ):
        policy = Policy(*chosen.cutoffs(scorer.cutoffs.ham, scorer.cutoffs.spam))
        job = Job(
            chosen, settings.keywords, policy, scorer, journal, Lessons(journal, settings.keep_text > 0),
            act=apply, release=yes, judge_anew=True, subjects=not as_json, stop=stopped,
        )
        for outcome in pipeline.scan(job, mailbox, folder, since.date() if since else None, limit, report.total):
            failed = outcome.failed or (apply and not outcome.done)
            counts["seen"] += 1
            counts[outcome.verdict] += 1
            counts["failed"] += failed
            report.step()
            if failed or every or outcome.verdict != "ham" or not report.on_terminal:
                report.row(records.scanned(outcome) if as_json else records.scanned_for_a_person(outcome, apply))
        report.close({"summary": counts}, records.summary(counts, apply))
        if stopped():
            raise typer.Exit(130)
    raise typer.Exit(1 if counts["failed"] else 0)


@contextmanager
def _mailbox(settings: "Settings", name: str | None, folder: str) -> "Iterator[tuple[Account, Mailbox]]":
    """The account that is meant, connected: the one that is named, the only one, or the only one with this folder."""
    _known_account(settings, name)
    candidates = [account for account in settings.accounts if name in (None, account.name)]
    if len(candidates) > 1:
        having = []
        for account in candidates:
            with _server(account) as mailbox:
                if folder.upper() == "INBOX" or folder in [info.name for info in mailbox.folders()]:
                    having.append(account)
        if len(having) != 1:
            names = ", ".join(account.name for account in having or candidates)
            many = f"{names} all have" if having else f"none of {names} has"
            raise typer.BadParameter(f"{many} a folder {folder}: name the account", param_hint="--account")
        candidates = having
    with _server(candidates[0]) as mailbox:
        yield candidates[0], mailbox


def _server(account: "Account") -> "Mailbox":
    """The account's mailbox, not yet connected."""
    from functools import partial

    from mailtagger import secret
    from mailtagger.imap import Mailbox

    return Mailbox(account, partial(secret.password, account))


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C was pressed, so that what is in hand is finished; a second time it ends at once."""
    pressed = Event()

    def note(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        print("Ending after the messages in hand; Ctrl-C again ends at once.", file=sys.stderr)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@app.command()
def score(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="eml, mbox, Maildir, directory, - for stdin.")],
    as_json: Json = False,
) -> None:
    """Score messages from files; needs no server, and no configuration."""
    from mailtagger.decide import Policy
    from mailtagger.files import read

    scorer = _scorer(context.obj.settings_if_any())
    policy = Policy(scorer.cutoffs.ham, scorer.cutoffs.spam)
    failed = 0
    with Report(records.SCORE, as_json, "scoring") as report:
        for source in read(paths):
            record = records.scored(source, scorer, policy)
            failed += "error" in record
            report.step()
            report.row(record if as_json else records.scored_for_a_person(record))
    raise typer.Exit(1 if failed else 0)


@app.command()
def explain(
    context: typer.Context,
    path: Annotated[str | None, typer.Argument(metavar="[PATH]", help="A message in a file.")] = None,
    folder: Annotated[str | None, typer.Option(metavar="F", help="Instead of PATH: the folder it is in,")] = None,
    uid: Annotated[int | None, typer.Option(metavar="N", min=1, help="and its UID there.")] = None,
    account: AccountName = None,
    as_json: Json = False,
) -> None:
    """Why a message gets its score and verdict: the words that push each way, your lessons, what is on record of it."""
    from mailtagger import artifact, explained
    from mailtagger import explain as explaining
    from mailtagger.decide import Policy
    from mailtagger.score import open_scorer

    if (path is None) == (folder is None) or (folder is None) != (uid is None):
        raise typer.BadParameter("name a file, or a folder and a UID", param_hint="PATH, or --folder and --uid")
    settings = context.obj.settings() if folder or account else context.obj.settings_if_any()
    chosen = None
    if folder and uid:
        with _mailbox(settings, account, folder) as (chosen, mailbox):
            message = explaining.on_server(mailbox, folder, uid)
    else:
        message = explaining.in_file(path or "")
        if settings:
            _known_account(settings, account)
            accounts = [one for one in settings.accounts if account in (None, one.name)]
            chosen = accounts[0] if len(accounts) == 1 else None
    model = artifact.load(_model_path(settings))
    scorer = open_scorer(model)
    cutoffs = scorer.cutoffs.ham, scorer.cutoffs.spam
    policy = Policy(*(chosen.cutoffs(*cutoffs) if chosen else cutoffs))
    with _journal(settings) if settings else nullcontext() as journal:
        record = explaining.explain(message, explaining.Asked(model, scorer, policy, chosen, journal))
    print(json.dumps(record) if as_json else "\n".join(explained.lines(record)))


def _scorer(settings: "Settings | None") -> "Scorer":
    from mailtagger import artifact
    from mailtagger.score import open_scorer

    return open_scorer(artifact.load(_model_path(settings)))


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Whether mailtagger runs, what it has done, how often you had to correct it, and what a person should know."""
    from mailtagger import figures
    from mailtagger.lessons import Lessons
    from mailtagger.state import running

    settings = context.obj.settings()
    model = _model_in_use(settings)
    with _journal(settings) as journal:
        record = {
            "version": __version__,
            "running": running(settings.state_dir),
            "state_dir": str(settings.state_dir),
            "model": model,
            "accounts": [records.account_status(journal, account) for account in settings.accounts],
            "retraining": figures.retraining(Lessons(journal).retrainings() if journal else [], model.get("id")),
        }
    print(json.dumps(record, default=str) if as_json else "\n".join(records.status_lines(record)))


def _model_in_use(settings: "Settings | None") -> dict[str, str]:
    from mailtagger import artifact

    try:
        model = artifact.load(_model_path(settings))
    except ModelError as error:
        return {"problem": str(error)}
    return {"id": model.id, "path": str(model.path)}


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="The last N messages.")] = 20,
    account: AccountName = None,
    since: Annotated[datetime | None, typer.Option(formats=TIMES, help="Judged, or taught, since then.")] = None,
    lessons: Annotated[bool, typer.Option("--lessons", help="What you have taught, instead.")] = False,
    as_json: Json = False,
) -> None:
    """The messages judged last, newest first: what was done with them, in which batch, and what you said of them."""
    from mailtagger import past

    settings = context.obj.settings()
    _known_account(settings, account)
    with _journal(settings) as journal, Report(past.LESSONS if lessons else past.HISTORY, as_json) as report:
        if journal is None:
            return
        find = past.taught if lessons else past.history
        for record in find(journal, _names(settings, account), limit, since):
            report.row(record if as_json else past.for_a_person(record))


@app.command()
def undo(
    context: typer.Context,
    since: Annotated[datetime | None, typer.Option(formats=TIMES, help="All that was done since then.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="One batch; `history` names it.")] = None,
    folder: Annotated[str | None, typer.Option(metavar="F", help="One message: the folder it is or was in,")] = None,
    uid: Annotated[int | None, typer.Option(metavar="N", min=1, help="and its UID there.")] = None,
    account: AccountName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Take back what mailtagger did with mail, by default its last batch: folder and keywords as they were before."""
    from mailtagger import past
    from mailtagger import undo as undoing
    from mailtagger.journal import UNDO

    _one_of({"--since": since, "--batch": batch, "--folder": folder}, at_most=True)
    if (folder is None) != (uid is None):
        raise typer.BadParameter("a message is named by both", param_hint="--folder and --uid")
    if batch is not None and batch.startswith(UNDO):
        raise typer.BadParameter("that batch is an undo itself; what it put back stays there", param_hint="--batch")
    settings = context.obj.settings()
    _known_account(settings, account)
    message = (folder, uid) if folder is not None and uid is not None else None
    counts = {"undone": 0, "failed": 0}
    with _journal(settings) as journal, Report(past.UNDONE, as_json) as report:
        chosen = undoing.choose(journal, _names(settings, account), batch, since, message) if journal else {}
        if message and len(chosen) > 1:
            raise typer.BadParameter(f"{', '.join(chosen)} all have such a message", param_hint="--account")
        for one in settings.accounts:
            if journal is None or one.name not in chosen:
                continue
            with _server(one) as mailbox:
                for result in undoing.undo(mailbox, journal, one.name, chosen[one.name], dry_run):
                    counts["failed" if result.why else "undone"] += 1
                    report.row(past.undone(result) if as_json else past.undone_for_a_person(result, dry_run))
        report.close({"summary": counts}, past.undone_summary(counts, dry_run))
    raise typer.Exit(1 if counts["failed"] else 0)


@app.command()
def learn(
    context: typer.Context,
    ham: Annotated[list[str] | None, typer.Option(metavar="WHAT", help="A folder or file of good mail.")] = None,
    spam: Annotated[list[str] | None, typer.Option(metavar="WHAT", help="A folder or file of spam.")] = None,
    sent: Annotated[str | None, typer.Option(metavar="F", help="A folder of mail you sent: whom you write to.")] = None,
    bootstrap: Annotated[
        bool, typer.Option("--bootstrap", help="What you sent, archived and answered, as the server knows it.")
    ] = False,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="You have been through these folders, watched ones included.")
    ] = False,
    account: AccountName = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest N messages of each.")] = None,
    as_json: Json = False,
) -> None:
    """Learn in bulk from mail that you have sorted; WHAT is folder:NAME, file:PATH, or either alone."""
    from mailtagger import starting
    from mailtagger.decide import Policy
    from mailtagger.journal import FILE, Journal
    from mailtagger.lessons import Lessons
    from mailtagger.teach import Pupil

    wanted = [starting.meant(what, "ham") for what in ham or ()] + [starting.meant(what, "spam") for what in spam or ()]
    if not (wanted or sent or bootstrap):
        raise typer.BadParameter("give one of them", param_hint="--ham, --spam, --sent, --bootstrap")
    settings = context.obj.settings()
    _known_account(settings, account)
    candidates = [one for one in settings.accounts if account in (None, one.name)]
    if len(candidates) > 1:
        names = ", ".join(one.name for one in candidates)
        raise typer.BadParameter(f"whose mail is it? There is {names}", param_hint="--account")
    chosen, scorer = candidates[0], _scorer(settings)
    order = starting.Order(wanted, sent, bootstrap, reviewed, limit)
    server = _server(chosen) if order.needs_server else nullcontext()
    with (
        _interrupted() as stopped,
        server as mailbox,
        Journal(settings.state_dir / FILE) as journal,
        Report(records.LEARNED, as_json, "learning") as report,
    ):
        policy = Policy(*chosen.cutoffs(scorer.cutoffs.ham, scorer.cutoffs.spam))
        lessons = Lessons(journal, settings.keep_text > 0)
        lessons.prune(timedelta(days=settings.keep_text))
        pupil = Pupil(chosen.name, journal, lessons, scorer, policy)
        marks = (settings.keywords.spam,)
        places = starting.learn(order, pupil, chosen, mailbox, marks, stopped, report.total, report.step)
        rows = [records.learned(place, chosen.name) for place in places]
        for record in rows:
            report.row(record if as_json else records.learned_for_a_person(record))
        summary = records.learning(rows, pupil.counts(), stopped())
        report.close({"summary": summary}, records.learning_for_a_person(summary))
        if stopped():
            raise typer.Exit(130)
    raise typer.Exit(1 if any(place.tally.failed for place in places) else 0)


@app.command()
def forget(
    context: typer.Context,
    sender: Annotated[str | None, typer.Option(metavar="ADDRESS|@DOMAIN", help="Lessons of mail from there.")] = None,
    message_id: Annotated[str | None, typer.Option(metavar="ID", help="The lesson of one message.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=TIMES, help="Lessons learned since then.")] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Lessons that cannot be read any more.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All lessons and all correspondents.")] = False,
    account: AccountName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Take back what you taught, as if it had never been; its text is wiped from the disk."""
    from mailtagger import forget as forgetting
    from mailtagger import past

    _one_of({"--sender": sender, "--message-id": message_id, "--since": since,
             "--damaged": damaged or None, "--all": everything or None})
    if sender is not None and "@" not in sender:
        raise typer.BadParameter("an address, or a domain as @example.org", param_hint="--sender")
    settings = context.obj.settings()
    _known_account(settings, account)
    with _journal(settings) as journal, Report(past.LESSONS, as_json) as report:
        meant = forgetting.Meant()
        if journal:
            names = _names(settings, account)
            meant = forgetting.choose(journal, names, sender, message_id, since, damaged, everything)
        for record in forgetting.lines(meant.lessons):
            report.row(record if as_json else past.for_a_person(record))
        if meant and not yes:
            if as_json or not sys.stdin.isatty():
                report.close({"summary": forgetting.summary(meant, False)}, forgetting.sentence(meant, False))
                raise typer.BadParameter("nobody can be asked here, and nothing was forgotten", param_hint="--yes")
            typer.confirm(f"{forgetting.sentence(meant, False)} Forget?", abort=True)
        wiped = forgetting.forget(journal, meant) if journal else True
        report.close({"summary": forgetting.summary(meant, True)}, forgetting.sentence(meant, True))
    if not wiped:
        raise StateError("The lessons are gone, but another process still reads the file that holds their text.",
                         "Run the same command once more when it has ended.")


def _one_of(given: "dict[str, object]", at_most: bool = False) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1 or not (names or at_most):
        raise typer.BadParameter("give one of them", param_hint=", ".join(given))


def _names(settings: "Settings", only: str | None) -> list[str]:
    return [account.name for account in settings.accounts if only in (None, account.name)]


@app.command()
def check_config(
    context: typer.Context,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the file instead.")] = False,
) -> None:
    """Check the configuration: every problem at once, each with its line; exit status 78 if there is one."""
    from mailtagger import config

    if schema:
        print(json.dumps(config.schema(), indent=2))
        return
    path = config.locate(context.obj.config)
    settings = config.load(path)
    print(f"{path} is fine.")
    for account in settings.accounts:
        spam = account.spam_folder or "the folder that the server marks as \\Junk"
        then = f"moves spam to {spam}" if account.mode == "apply" else "moves nothing"
        print(f"  {account.name}: {account.username} at {account.host}, watches {', '.join(account.folders)}, {then}")


@models.command("list")
def models_list(context: typer.Context, as_json: Json = False) -> None:
    """The installed models, and which of them scores."""
    from mailtagger import artifact

    settings = context.obj.settings_if_any()
    in_use = _model_path(settings).resolve()
    with Report(records.MODELS, as_json) as report:
        for path in _model_paths(settings):
            try:
                created = artifact.load(path).meta.created
                problem = {}
            except ModelError as error:
                created, problem = None, {"problem": str(error)}
            row = {"id": path.name, "in_use": path.resolve() == in_use, "created": created, "path": str(path)}
            report.row(row | problem)


@models.command("rollback")
def models_rollback(context: typer.Context) -> None:
    """Go back to the model that was in use before this one; a second time, forward again."""
    from mailtagger import artifact

    settings = context.obj.settings()
    if settings.model:
        raise ConfigError(f"`model:` in the configuration says that {settings.model} is used.", "Change that line.")
    before = _model_in_use(settings)
    now = artifact.rollback(settings.state_dir)
    packaged = " (the packaged one)" if now.path.parent == artifact.PACKAGED else ""
    print(f"{now.id}{packaged} is in use again, instead of {before.get('id', 'one that cannot be used')}. "
          "A daemon that runs takes it within a minute.")


@models.command("verify")
def models_verify(
    context: typer.Context,
    which: Annotated[list[str] | None, typer.Argument(metavar="[ID|DIRECTORY]...", help="By default, all.")] = None,
    as_json: Json = False,
) -> None:
    """Check every file of a model, and that it gives the scores that are recorded in it."""
    from mailtagger import artifact
    from mailtagger.score import open_scorer

    paths = _model_paths(context.obj.settings_if_any())
    if which:
        named = {path.name: path for path in paths}
        paths = [named.get(name, Path(name)) for name in which]
    failed = 0
    with Report(records.VERIFIED, as_json) as report:
        for path in paths:
            try:
                open_scorer(artifact.load(path))
                problem = None
            except ModelError as error:
                problem = str(error)
                failed += 1
            report.row({"id": path.name, "fine": problem is None, "problem": problem})
    raise typer.Exit(1 if failed else 0)


def _model_path(settings: "Settings | None") -> Path:
    from mailtagger import artifact

    return artifact.find(settings.state_dir, settings.model) if settings else artifact.find(None)


def _model_paths(settings: "Settings | None") -> list[Path]:
    from mailtagger import artifact

    paths = artifact.available(settings.state_dir if settings else None)
    if settings and settings.model and settings.model not in paths:
        paths.append(settings.model)
    return paths


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up, and say how to reach it.")] = False,
    server: Annotated[Imap | None, typer.Option(help="By default Dovecot where it is installed, else pymap.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="DIRECTORY", help="Instead of the packaged model.")] = None,
) -> None:
    """A real IMAP server on this machine, sample mail, and mailtagger at work on it; touches nothing of yours."""
    from mailtagger.demo import show

    raise typer.Exit(show(keep, server, model))


@app.command()
def retrain(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be learned, and change nothing.")] = False,
    if_changed: Annotated[bool, typer.Option("--if-changed", help="Only if lessons have come or gone.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune the model on your lessons; it is used only if good mail called spam does not rise and errors fall."""
    from mailtagger import retrain as retraining
    from mailtagger.lessons import Lessons

    settings = context.obj.settings()
    with _journal(settings) as journal, _terminated():
        lessons = Lessons(journal) if journal else None
        if lessons and not dry_run:
            lessons.prune(timedelta(days=settings.keep_text))
        plan = retraining.plan(settings.state_dir, settings.model, lessons)
        if not lessons or not plan.lessons or dry_run or (if_changed and not retraining.changed(plan, lessons)):
            with Report(records.LESSONS, as_json) as report:
                for record in records.lessons(plan) if dry_run else ():
                    report.row(record)
                report.close({"summary": records.planned(plan)}, records.planned_for_a_person(plan, dry_run))
            return
        if settings.model:
            raise ConfigError(
                "`model:` in the configuration names a model, and a retrained one would not be used.",
                "Take that line out: then the packaged model is used, and retrained ones after it.",
            )
        with Report(records.RETRAINED, as_json, "retraining") as report:
            done = retraining.retrain(settings.state_dir, plan, lessons, report.share)
            for record in records.retrained(done):
                report.row(record if as_json else records.retrained_for_a_person(record))
            report.close({"summary": records.promotion(done)}, records.promotion_for_a_person(done))


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: what it has written aside is cleared away, and the status is 130.

    Python acts on a signal between two of its instructions, and a step of a training or loading torch is one of them.
    What takes longer than LATE is killed by a process that needs nothing of this one, and the next run clears away what
    is left of it.
    """
    heard, write = os.pipe()
    os.set_blocking(write, False)
    parent = os.getpid()
    if not (watcher := os.fork()):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(write)
        if os.read(heard, 1):  # a signal; nothing: there was none until the end
            time.sleep(LATE)
            if os.getppid() == parent:
                os.kill(parent, signal.SIGKILL)
        os._exit(0)
    os.close(heard)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.set_wakeup_fd(write)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(write)
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _journal(settings: "Settings") -> "Iterator[Journal | None]":
    """The journal, or None where nothing has been written yet: looking must not make one."""
    from mailtagger import journal

    path = settings.state_dir / journal.FILE
    if not path.exists():
        yield None
        return
    with journal.Journal(path) as opened:
        yield opened


def _known_account(settings: "Settings", name: str | None) -> None:
    names = [account.name for account in settings.accounts]
    if name is not None and name not in names:
        raise typer.BadParameter(f"there is no account {name}; there is {', '.join(names)}", param_hint="--account")
