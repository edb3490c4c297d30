"""pipeline: one pass tells the whole story, may be broken off anywhere, and does nothing twice."""

import contextlib
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailtagger import judge, pipeline
from mailtagger.apply import NOT_KEPT
from mailtagger.decide import UNFAMILIAR, Policy
from mailtagger.errors import StateError, TryLater
from mailtagger.imap import Address
from mailtagger.journal import Journal
from mailtagger.parse import identify
from mailtagger.pipeline import BEFORE, HELD, Job, Outcome, open_folder, scan, settle, sweep
from tests.fakes import MemoryMailbox, MemoryServer
from tests.flow import Words, connected, job, journal_in, raw


@pytest.fixture
def mailbox() -> MemoryMailbox:
    mailbox = MemoryMailbox()
    mailbox.connect()
    return mailbox


def run(work: Job, mailbox: MemoryMailbox, first: int = 1) -> list[Outcome]:
    """One pass as the daemon makes it, in the order of UIDs."""
    real = connected(mailbox)
    place = open_folder(work, real, "INBOX")
    settle(work, real, place)
    return sorted(sweep(work, real, place, real.uids(first)), key=lambda outcome: outcome.uid)


def scanned(work: Job, mailbox: MemoryMailbox, folder: str = "INBOX", **options: Any) -> list[Outcome]:
    return sorted(scan(work, connected(mailbox), folder, **options), key=lambda outcome: outcome.uid)


def brief(outcomes: list[Outcome]) -> list[tuple[str, str, bool]]:
    return [(outcome.verdict, outcome.action, outcome.done) for outcome in outcomes]


# The story


def test_each_message_ends_where_it_belongs(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Ham stays untouched, unsure is marked, spam is marked and moved; nothing becomes read."""
    for subject in ("hello", "unsure", "spam"):
        mailbox.server.deliver(raw(subject))
    outcomes = run(job(journal), mailbox)
    assert brief(outcomes) == [("ham", "none", True), ("unsure", "keyword", True), ("spam", "move", True)]
    assert mailbox.server.flags(1) == set()
    assert mailbox.server.flags(2) == {"MailtaggerUnsure"}
    assert mailbox.server.flags(1, "Junk") == {"MailtaggerSpam", "$Junk"}
    assert [(o.score, o.decided_by, o.model, o.subject) for o in outcomes[2:]] == [(0.97, "model", "words-1", "spam")]
    assert all(outcome.ms >= 0 and outcome.account == "home" for outcome in outcomes)


def test_observe_sets_keywords_and_moves_nothing(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The mode of a new account."""
    mailbox.server.deliver(raw("spam"))
    assert brief(run(job(journal, mode="observe"), mailbox)) == [("spam", "keyword", True)]
    assert mailbox.server.flags(1) == {"MailtaggerSpam", "$Junk"}


def test_the_journal_tells_what_was_judged_and_done(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The verdict stands at the address where the message was judged, with the flags it had before."""
    mailbox.server.deliver(raw("spam"), flags=["\\Seen"])
    run(job(journal), mailbox)
    row = journal.judged("home", Address("INBOX", 1, 1))
    assert row is not None
    assert (row.verdict, row.score, row.model, row.flags_before) == ("spam", 0.97, "words-1", {"\\Seen"})
    assert [(act.act, act.state) for act in journal.acts("home", row)] == [("keyword", "done"), ("move", "done")]


@pytest.mark.parametrize("flag", ["\\Deleted", "\\deleted", "\\Draft"])
def test_deleted_and_drafts_are_left_alone(mailbox: MemoryMailbox, journal: Journal, flag: str) -> None:
    """They are neither judged nor marked nor moved, also when they were judged before they were deleted."""
    mailbox.server.deliver(raw("spam"), flags=[flag])
    assert run(job(journal), mailbox) == []
    mailbox.server.deliver(raw("spam"))
    assert len(scanned(job(journal, act=False), mailbox)) == 1
    mailbox.server.folders["INBOX"].messages[2].flags.add(flag)
    assert run(job(journal), mailbox) == []
    assert len(mailbox.server.raws("INBOX")) == 2


def test_an_unfamiliar_text_is_at_most_unsure(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A language that the model does not know is marked, with a note, and not moved; also when looked at again."""
    mailbox.server.deliver(raw("foreign spam"))
    for work in (job(journal, act=False), job(journal)):
        [outcome] = scanned(work, mailbox)
        assert (outcome.verdict, outcome.notes[0], outcome.score) == ("unsure", UNFAMILIAR, 0.97)


@pytest.mark.parametrize("content", [b"Subject: \r\n\r\n", b"\r\n\r\n", b"X: \xff\xfe\r\n\r\n"])
def test_an_empty_message_is_unsure_without_a_score(mailbox: MemoryMailbox, journal: Journal, content: bytes) -> None:
    """There was nothing to judge, and the model is not asked."""
    mailbox.server.deliver(content)
    scorer = Words()
    [outcome] = run(job(journal, scorer), mailbox)
    assert (outcome.verdict, outcome.score, outcome.failed, scorer.texts) == ("unsure", None, False, [])
    assert outcome.notes


def test_one_bad_message_is_passed_by(mailbox: MemoryMailbox, journal: Journal) -> None:
    """What raises at each try is journalled as failed and marked unsure; those around it are judged as usual."""
    for subject in ("hello", "poison", "spam"):
        mailbox.server.deliver(raw(subject))
    scorer = Words()
    outcomes = run(job(journal, scorer), mailbox)
    assert brief(outcomes) == [("ham", "none", True), ("unsure", "keyword", True), ("spam", "move", True)]
    assert [outcome.failed for outcome in outcomes] == [False, True, False]
    assert outcomes[1].notes[0].startswith(f"{judge.FAILED}: ZeroDivisionError in flow.py")
    assert "poison in the text" not in str(outcomes)
    assert sum("poison" in text for text in scorer.texts) == judge.TRIES
    assert "poison" not in str(journal.judged("home", Address("INBOX", 1, 2)))


def test_a_failed_message_is_not_tried_again_by_the_same_model(mailbox: MemoryMailbox, journal: Journal) -> None:
    """It failed for the same model; another one may do better."""
    mailbox.server.deliver(raw("poison"))
    run(job(journal), mailbox)
    scorer = Words()
    assert [outcome.failed for outcome in scanned(job(journal, scorer, judge_anew=True), mailbox)] == [True]
    assert scorer.texts == []
    other = Words("words-2")
    scanned(job(journal, other, judge_anew=True), mailbox)
    assert len(other.texts) == judge.TRIES


def test_expunged_in_between_is_no_error(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A message that is gone before it can be read is not mentioned."""
    for _ in range(3):
        mailbox.server.deliver(raw())
    work, real = job(journal), connected(mailbox)
    place = open_folder(work, real, "INBOX")
    mailbox.server.user_deletes(2)
    assert [outcome.uid for outcome in sweep(work, real, place, [1, 2, 3])] == [1, 3]


def test_a_part_of_a_big_message_is_enough(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Of 2 MB the first part is judged, with a note, and the whole message is moved."""
    content = raw("spam", "x " * 1_000_000)
    mailbox.server.deliver(content)
    [outcome] = run(job(journal), mailbox)
    assert any("of 1953 kB were read" in note for note in outcome.notes)
    assert mailbox.server.raws("Junk") == [content]


# Nothing twice


def test_what_was_judged_is_not_fetched_again(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A dry run leaves scores behind that the next one uses, and nothing that counts as an act."""
    for subject in ("hello", "unsure", "spam"):
        mailbox.server.deliver(raw(subject))
    dry = scanned(job(journal, act=False), mailbox)
    assert brief(dry) == [("ham", "none", False), ("unsure", "keyword", False), ("spam", "move", False)]
    assert [mailbox.server.flags(uid) for uid in (1, 2, 3)] == [set()] * 3
    mailbox.calls.clear()
    scorer = Words()
    again = scanned(job(journal, scorer), mailbox)
    assert brief(again) == [("ham", "none", True), ("unsure", "keyword", True), ("spam", "move", True)]
    assert (scorer.texts, "fetch" in mailbox.calls) == ([], False)
    assert all(BEFORE in outcome.notes for outcome in again)


def test_a_dry_run_changes_nothing_on_the_server(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Not even the spam folder is created, and no note is left for `status`."""
    del mailbox.server.folders["Junk"]
    mailbox.server.deliver(raw("spam"))
    scanned(job(journal, act=False, create_spam_folder=True), mailbox)
    assert set(mailbox.calls) <= {"connect", "select", "spam_folder", "uids", "fetch", "flags"}
    assert (list(mailbox.server.folders), journal.notes(), journal.open_intents_of("home")) == (["INBOX"], [], [])


def test_scanning_twice_acts_once(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A keyword that the user took off again stays off."""
    mailbox.server.deliver(raw("unsure"))
    scanned(job(journal), mailbox)
    mailbox.remove_keywords([1], ["MailtaggerUnsure"])
    mailbox.calls.clear()
    assert brief(scanned(job(journal), mailbox)) == [("unsure", "keyword", True)]
    assert "add_keywords" not in mailbox.calls
    assert mailbox.server.flags(1) == set()


def test_from_observe_to_apply(mailbox: MemoryMailbox, journal: Journal) -> None:
    """What was only marked in observe mode is moved by a scan under apply, without judging it again."""
    mailbox.server.deliver(raw("spam"))
    run(job(journal, mode="observe"), mailbox)
    assert brief(scanned(job(journal), mailbox)) == [("spam", "move", True)]
    assert len(mailbox.server.raws("Junk")) == 1


def test_another_model_judges_anew_only_in_a_scan(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The daemon stands by the verdict that is there; a scan asks the model of today."""
    mailbox.server.deliver(raw("hello"))
    run(job(journal, Words("words-1")), mailbox)
    scorer = Words("words-2")
    assert [outcome.model for outcome in run(job(journal, scorer), mailbox)] == ["words-1"]
    assert [outcome.model for outcome in scanned(job(journal, scorer, judge_anew=True), mailbox)] == ["words-2"]


def test_other_cutoffs_need_no_other_score(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The journal keeps scores; what they mean is decided under the cutoffs of today."""
    mailbox.server.deliver(raw("unsure"))
    scanned(job(journal, act=False), mailbox)
    scorer = Words()
    stricter = replace(job(journal, scorer, act=False), policy=Policy(0.1, 0.4))
    assert [outcome.verdict for outcome in scanned(stricter, mailbox)] == ["spam"]
    assert scorer.texts == []
    row = journal.judged("home", Address("INBOX", 1, 1))
    assert row is not None
    assert row.verdict == "spam"


def test_a_renumbered_folder_keeps_its_verdicts(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Under a new UIDVALIDITY messages are known by ident and Message-ID, and are not scored again."""
    for subject in ("hello", "unsure"):
        mailbox.server.deliver(raw(subject))
    run(job(journal), mailbox)
    mailbox.server.renumber("INBOX")
    scorer = Words()
    outcomes = run(job(journal, scorer), mailbox)
    assert [(outcome.uid, outcome.verdict) for outcome in outcomes] == [(1001, "ham"), (1002, "unsure")]
    assert scorer.texts == []


def test_a_forged_message_id_hides_nothing(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Spam under the Message-ID of known ham is judged for itself."""
    mailbox.server.deliver(raw("hello", message_id="known@example.org"))
    mailbox.server.deliver(raw("spam", message_id="known@example.org"))
    assert [outcome.verdict for outcome in run(job(journal), mailbox)] == ["ham", "spam"]


# The user's word


def test_what_the_user_takes_back_is_never_moved_again(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Back in the folder it is ham by the user's word, and stays so, whatever is run on it."""
    mailbox.server.deliver(raw("spam"))
    run(job(journal), mailbox)
    back = mailbox.server.user_moves(1, "Junk", "INBOX")
    for outcomes in (run(job(journal), mailbox, back), scanned(job(journal, judge_anew=True), mailbox)):
        assert [(o.uid, o.verdict, o.decided_by, o.action) for o in outcomes] == [(back, "ham", "user", "none")]
    mailbox.server.renumber("INBOX")
    assert [outcome.decided_by for outcome in scanned(job(journal), mailbox)] == ["user"]
    assert len(mailbox.server.raws("INBOX")) == 1


def test_a_rescue_into_another_folder_counts_there_too(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The user filed it elsewhere: a scan of that folder leaves it alone."""
    mailbox.server.folders["Archive"] = type(mailbox.server.folders["Junk"])()
    mailbox.server.deliver(raw("spam"))
    run(job(journal), mailbox)
    mailbox.server.user_moves(1, "Junk", "Archive")
    assert [outcome.decided_by for outcome in scanned(job(journal), mailbox, "Archive")] == ["user"]
    assert len(mailbox.server.raws("Archive")) == 1


def test_the_same_spam_delivered_again_is_no_rescue(mailbox: MemoryMailbox, journal: Journal) -> None:
    """As long as its copy lies in the spam folder, an equal message is another delivery, and follows it there."""
    content = raw("spam", message_id="twice@example.org")
    for number in (1, 2):
        mailbox.server.deliver(content)
        assert brief(run(job(journal), mailbox)) == [("spam", "move", True)]
        assert len(mailbox.server.raws("Junk")) == number
    back = mailbox.server.user_moves(1, "Junk", "INBOX")
    assert [outcome.decided_by for outcome in run(job(journal), mailbox, back)] == ["user"]


def test_scanning_the_spam_folder_moves_nothing(mailbox: MemoryMailbox, journal: Journal) -> None:
    """What we moved there is spam as before, and no rescue."""
    mailbox.server.deliver(raw("spam"))
    run(job(journal), mailbox)
    [outcome] = scanned(job(journal), mailbox, "Junk")
    assert (outcome.verdict, outcome.decided_by, outcome.action) == ("spam", "model", "keyword")


# The brake


@pytest.mark.parametrize(
    ("spam", "ham", "moved"), [(4, 0, 0), (3, 0, 3), (4, 3, 0), (4, 4, 4), (0, 5, 0)]
)
def test_the_brake_needs_both_a_number_and_a_share(
    mailbox: MemoryMailbox, journal: Journal, spam: int, ham: int, moved: int
) -> None:
    """More than 3 messages and more than half of the pass: marked, not moved, and `status` asks."""
    for subject in ["spam"] * spam + ["hello"] * ham:
        mailbox.server.deliver(raw(subject))
    outcomes = run(job(journal, brake={"messages": 3, "share": 0.5}), mailbox)
    assert len(mailbox.server.raws("Junk")) == moved
    assert sum(outcome.action == "move" and outcome.done for outcome in outcomes) == moved
    held = [outcome for outcome in outcomes if HELD in outcome.notes]
    assert len(held) == spam - moved
    assert [note.kind for note in journal.notes()] == (["brake"] if held else [])
    assert all(mailbox.server.flags(outcome.uid) == {"MailtaggerSpam", "$Junk"} for outcome in held)


def test_a_person_releases_the_brake(mailbox: MemoryMailbox, journal: Journal) -> None:
    """`scan --apply` meets the brake again; with --yes everything is moved, and `status` stops asking."""
    for _ in range(40):
        mailbox.server.deliver(raw("spam"))
    run(job(journal), mailbox)
    assert "40 of 40 messages" in journal.notes()[0].text
    assert "mailtagger scan --account home --folder INBOX --apply --yes" in journal.notes()[0].text
    scanned(job(journal), mailbox)
    assert len(mailbox.server.raws("Junk")) == 0
    assert brief(scanned(job(journal, release=True), mailbox)) == [("spam", "move", True)] * 40
    assert (len(mailbox.server.raws("Junk")), journal.notes()) == (40, [])


def test_once_held_the_brake_holds_to_the_end_of_a_scan(
    mailbox: MemoryMailbox, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later portions, with little spam in them, do not slip through."""
    monkeypatch.setattr(pipeline, "PASS", 10)
    for subject in ["spam"] * 10 + ["hello"] * 9 + ["spam"]:
        mailbox.server.deliver(raw(subject))
    outcomes = scanned(job(journal, brake={"messages": 3, "share": 0.3}), mailbox)
    assert sum(HELD in outcome.notes for outcome in outcomes) == 11
    assert mailbox.server.raws("Junk") == []


# What the server cannot or will not do


def test_a_full_spam_folder_is_said_once_and_ends_well(
    mailbox: MemoryMailbox, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Mail stays with its keyword; when there is room, it follows, and the note goes."""
    mailbox.server.folders["Junk"].refuse = "[OVERQUOTA] full"
    for _ in range(3):
        mailbox.server.deliver(raw("spam"))
        outcomes = run(job(journal), mailbox)
    assert [(outcome.action, outcome.done) for outcome in outcomes] == [("move", False)] * 3
    assert [record.levelname for record in caplog.records if "OVERQUOTA" in record.message] == ["WARNING"]
    assert [note.kind for note in journal.notes()] == ["move"]
    mailbox.server.folders["Junk"].refuse = ""
    run(job(journal), mailbox)
    assert (len(mailbox.server.raws("Junk")), journal.notes()) == (3, [])


def test_mail_waits_for_its_spam_folder(mailbox: MemoryMailbox, journal: Journal) -> None:
    """No spam folder: marked, and moved as soon as there is one."""
    del mailbox.server.folders["Junk"]
    mailbox.server.deliver(raw("spam"))
    assert brief(run(job(journal), mailbox)) == [("spam", "move", False)]
    assert [(note.folder, note.kind) for note in journal.notes()] == [("", "spam folder"), ("INBOX", "move")]
    run(job(journal, create_spam_folder=True), mailbox)
    assert (len(mailbox.server.raws("Junk")), journal.notes()) == (1, [])


def test_without_keywords_it_moves_and_says_so_once(
    mailbox: MemoryMailbox, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that keeps none is never asked to; the note in `status` tells what is done instead."""
    mailbox.server.folders["INBOX"].keywords_ok = False
    for _ in range(2):
        mailbox.server.deliver(raw("spam"))
        assert brief(run(job(journal), mailbox)) == [("spam", "move", True)]
    assert "add_keywords" not in mailbox.calls
    assert sum("no keywords" in record.message for record in caplog.records) == 1


def test_a_keyword_that_is_dropped_is_a_note_on_the_message(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The server promised to keep keywords, and did not: what happened is said, not what was hoped for."""
    mailbox.server.deliver(raw("unsure"))
    work, real = job(journal), connected(mailbox)
    place = open_folder(work, real, "INBOX")
    mailbox.server.folders["INBOX"].keywords_ok = False
    [outcome] = sweep(work, real, place, [1])
    assert (outcome.action, outcome.done, outcome.notes) == ("keyword", False, (NOT_KEPT,))


def test_a_read_only_folder_is_judged_and_left_alone(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The verdicts are in the journal, the reason in `status`."""
    mailbox.server.folders["INBOX"].writable = False
    mailbox.server.deliver(raw("spam"))
    assert brief(run(job(journal), mailbox)) == [("spam", "none", True)]
    assert [note.kind for note in journal.notes()] == ["keywords"]


def test_a_server_that_cannot_move_safely_keeps_its_mail(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Neither MOVE nor UIDPLUS: marks only, and `status` says so."""
    mailbox.server.can_move = False
    mailbox.server.deliver(raw("spam"))
    assert brief(run(job(journal), mailbox)) == [("spam", "keyword", True)]
    assert "UIDPLUS" in journal.notes()[0].text


# Scanning


def test_the_newest_since_a_day(mailbox: MemoryMailbox, journal: Journal) -> None:
    """--since and --limit choose; the rest is not even fetched."""
    for day in (1, 2, 3, 4):
        mailbox.server.deliver(raw(), day=date(2026, 11, day))
    totals: list[int] = []
    outcomes = scanned(job(journal, act=False), mailbox, since=date(2026, 11, 2), limit=2, total=totals.append)
    assert ([outcome.uid for outcome in outcomes], totals, mailbox.calls.count("fetch")) == ([3, 4], [2], 2)


def test_a_scan_that_was_cut_off_goes_on_where_it_was(
    mailbox: MemoryMailbox, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages before the cut are neither fetched nor scored again."""
    monkeypatch.setattr(pipeline, "MARKED", pipeline.CHUNK)
    for _ in range(2 * pipeline.CHUNK):
        mailbox.server.deliver(raw())
    scorer = Words()
    work = job(journal, scorer, act=False)
    outcomes = scan(work, connected(mailbox), "INBOX")
    for _ in range(pipeline.CHUNK):
        next(outcomes)
    mailbox.fail("fetch", TryLater("cut"))
    with pytest.raises(TryLater):
        next(outcomes)
    assert len(scanned(work, mailbox)) == 2 * pipeline.CHUNK
    assert len(scorer.texts) == 2 * pipeline.CHUNK


def test_many_chunks_are_marked_together(mailbox: MemoryMailbox, journal: Journal) -> None:
    """For each STORE a server may look through its whole folder."""
    for _ in range(pipeline.MARKED + 1):
        mailbox.server.deliver(raw("unsure"))
    assert brief(run(job(journal), mailbox)) == [("unsure", "keyword", True)] * (pipeline.MARKED + 1)
    assert mailbox.calls.count("add_keywords") == 2


def test_what_was_judged_and_not_marked_is_marked_by_the_next_pass(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The connection broke before the mark: the message is marked once, and not scored again."""
    for _ in range(2 * pipeline.CHUNK):
        mailbox.server.deliver(raw("unsure"))
    scorer = Words()
    outcomes = scan(job(journal, scorer, stop=lambda: _cut(mailbox, scorer)), connected(mailbox), "INBOX")
    with pytest.raises(TryLater):
        list(outcomes)
    assert mailbox.calls.count("add_keywords") == 0
    assert brief(scanned(job(journal, scorer), mailbox)) == [("unsure", "keyword", True)] * 2 * pipeline.CHUNK
    assert len(scorer.texts) == 2 * pipeline.CHUNK
    assert mailbox.calls.count("add_keywords") == 1


def _cut(mailbox: MemoryMailbox, scorer: Words) -> bool:
    if len(scorer.texts) == pipeline.CHUNK:
        mailbox.fail("fetch", TryLater("cut"))
    return False


def test_stop_ends_after_the_message_in_hand(mailbox: MemoryMailbox, journal: Journal) -> None:
    """What was judged is marked and moved, and no further message is fetched."""
    for _ in range(10):
        mailbox.server.deliver(raw("spam"))
    scorer = Words()
    outcomes = run(job(journal, scorer, stop=lambda: len(scorer.texts) == 4), mailbox)
    assert brief(outcomes) == [("spam", "move", True)] * 4
    assert len(mailbox.server.raws("INBOX")) == 6


def test_a_full_disk_leaves_mail_untouched(
    mailbox: MemoryMailbox, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its journal line nothing is done."""

    def full(*arguments: object) -> None:
        raise StateError("The disk is full.")

    mailbox.server.deliver(raw("spam"))
    monkeypatch.setattr(journal, "record", full)
    with pytest.raises(StateError):
        run(job(journal), mailbox)
    assert mailbox.server.flags(1) == set()


# Whatever happens


class Killed(BaseException):
    """The process dies here: nothing after it runs, not even what catches every Exception."""


CALLS = st.sampled_from(["select", "uids", "fetch", "flags", "add_keywords", "move", "locate", "spam_folder"])
WRITES = st.sampled_from(["record", "open_intents", "close_intents"])


class Ledger(RuleBasedStateMachine):
    """Deliveries, passes, cut connections, kills and a user at work, in any order: each message exists exactly once."""

    @initialize(can_move=st.booleans())
    def begin(self, can_move: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.server = MemoryServer()
        self.server.can_move = can_move
        self.server.folders["Archive"] = type(self.server.folders["Junk"])()
        self.journal = journal_in(Path(self.directory.name))
        self.mailbox = MemoryMailbox(self.server)
        self.delivered: list[bytes] = []
        self.rescued: set[bytes] = set()
        self.filed_by_user: set[bytes] = set()
        self.doubtful: set[bytes] = set()
        self.mode = "apply"

    @rule(subjects=st.lists(st.sampled_from(["spam", "hello", "unsure", "poison"]), min_size=1, max_size=4))
    def deliver(self, subjects: list[str]) -> None:
        for subject in subjects:
            self.delivered.append(raw(subject))
            self.server.deliver(self.delivered[-1])

    @rule()
    def watch(self) -> None:
        with contextlib.suppress(TryLater):
            run(job(self.journal, mode=self.mode), self.mailbox)

    @rule(method=CALLS, after=st.booleans())
    def cut(self, method: str, after: bool) -> None:
        self.mailbox = MemoryMailbox(self.server)
        self.mailbox.fail(method, TryLater("cut"), after=after)
        self.watch()

    @rule(method=CALLS, after=st.booleans())
    def kill_at_the_server(self, method: str, after: bool) -> None:
        self.mailbox = MemoryMailbox(self.server)
        self.mailbox.fail(method, Killed(), after=after)  # type: ignore[arg-type]
        self.die()

    @rule(method=WRITES, after=st.booleans())
    def kill_at_the_journal(self, method: str, after: bool) -> None:
        original = getattr(self.journal, method)

        def write(*arguments: Any, **more: Any) -> Any:
            if after:
                original(*arguments, **more)
            raise Killed

        setattr(self.journal, method, write)
        self.die()

    def die(self) -> None:
        with contextlib.suppress(Killed, TryLater):
            run(job(self.journal, mode=self.mode), self.mailbox)
        self.journal.close()
        self.journal = journal_in(Path(self.directory.name))
        self.mailbox = MemoryMailbox(self.server)

    @precondition(lambda self: self.server.raws("INBOX"))
    @rule(data=st.data(), to=st.sampled_from(["Archive", "Junk"]))
    def take(self, data: st.DataObject, to: str) -> None:
        self.drag(data, "INBOX", to)

    @precondition(lambda self: self.server.raws("Junk"))
    @rule(data=st.data(), to=st.sampled_from(["INBOX", "Archive"]))
    def rescue(self, data: st.DataObject, to: str) -> None:
        self.drag(data, "Junk", to)

    @precondition(lambda self: self.server.raws("Archive"))
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        self.drag(data, "Archive", "INBOX")

    def drag(self, data: st.DataObject, start: str, to: str) -> None:
        messages = self.server.folders[start].messages
        uid = data.draw(st.sampled_from(sorted(messages)))
        content = messages[uid].raw
        if start == "INBOX" and to == "Junk":
            self.filed_by_user.add(content)
        elif start == "Junk" and content in self.filed_by_user:
            self.filed_by_user.remove(content)  # in and out by the user: nothing that we did was taken back
        elif start == "Junk" and (to == "INBOX" or not self.under_way(content)):
            self.rescued.add(content)  # (moved, killed, and taken elsewhere before we look: nobody can tell whose move)
        self.server.user_moves(uid, start, to)

    def under_way(self, content: bytes) -> bool:
        ident = identify(content)
        return any((act.act, act.ident) == ("move", ident) for act in self.journal.open_intents_of("home"))

    @rule()
    def renumber(self) -> None:
        # Moved, killed, rescued and renumbered before we look, it looks as if it had never been moved: so it stays.
        waiting = {act.ident for act in self.journal.open_intents_of("home") if act.act == "move"}
        self.doubtful |= {content for content in self.server.raws("INBOX") if identify(content) in waiting}
        self.server.renumber("INBOX")

    @rule(mode=st.sampled_from(["apply", "observe"]))
    def switch(self, mode: str) -> None:
        self.mode = mode

    @invariant()
    def each_message_exists_once(self) -> None:
        if hasattr(self, "server"):
            there = [content for folder in self.server.folders for content in self.server.raws(folder)]
            assert sorted(there) == sorted(self.delivered)

    @invariant()
    def nothing_became_read(self) -> None:
        if hasattr(self, "server"):
            messages = [m for folder in self.server.folders.values() for m in folder.messages.values()]
            assert not any(flag.startswith("\\") for message in messages for flag in message.flags)

    def teardown(self) -> None:
        """In the end, with nothing in the way, no intent is open and all spam in the folder is where it belongs."""
        if not hasattr(self, "server"):
            return
        before = self.server.raws("INBOX")
        outcomes = run(job(self.journal), MemoryMailbox(self.server))
        assert all(outcome.done for outcome in outcomes)
        assert self.journal.open_intents_of("home") == []
        spam = {content for content in before if b"Subject: spam" in content}
        left = spam & set(self.server.raws("INBOX"))
        assert left - self.doubtful == (spam & self.rescued if self.server.can_move else spam) - self.doubtful
        assert spam & self.rescued <= left
        self.journal.close()
        self.directory.cleanup()


Ledger.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLedger = Ledger.TestCase
