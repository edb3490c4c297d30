"""Following: what the user does with his mail becomes lessons, each once, and nothing else does."""

import contextlib
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailtagger import follow
from mailtagger.errors import TryLater
from mailtagger.journal import GONE, Journal
from mailtagger.lessons import Lessons
from mailtagger.parse import identify, parse
from mailtagger.pipeline import Outcome, open_folder, settle, sweep
from mailtagger.places import Places
from mailtagger.restore import AGREED
from mailtagger.undo import choose, undo
from tests.fakes import Folder, MemoryMailbox, MemoryServer
from tests.flow import connected, job, journal_in, raw


class House:
    """One account: its server, its user, and the daemon's two pairs of eyes."""

    def __init__(self, journal: Journal, server: MemoryServer | None = None, **settings: Any) -> None:
        self.server = server or MemoryServer()
        for name in ("Archive", "Trash", "Drafts", "Friends"):
            self.server.folders.setdefault(name, Folder())
        self.journal, self.lessons = journal, Lessons(journal)
        self.mailbox = MemoryMailbox(self.server)
        self.work = job(journal, lessons=self.lessons, **settings)
        self.first = 1

    def sweep(self) -> list[Outcome]:
        """The watcher's pass over INBOX."""
        box = connected(self.mailbox)
        place = open_folder(self.work, box, "INBOX")
        settle(self.work, box, place)
        row = self.journal.folder("home", "INBOX")
        first = row.uidnext if row and row.uidvalidity == place.state.uidvalidity else self.first
        outcomes = list(sweep(self.work, box, place, box.uids(first)))
        self.journal.watermark("home", "INBOX", place.state.uidvalidity, place.state.uidnext)
        return outcomes

    def look(self) -> list[tuple[str, str]]:
        """The follower's: (label, source) of what was learned."""
        box = connected(self.mailbox)
        folders = follow.folders_that_teach(self.work, box)
        return [(lesson.label, lesson.source) for lesson in follow.look(self.work, box, Places(self.journal), folders)]

    def day(self) -> list[tuple[str, str]]:
        self.sweep()
        return self.look()

    def taught(self) -> list[tuple[str, str, str]]:
        return [(lesson.label, lesson.source, lesson.verdict or "-") for lesson in self.lessons.all()]

    def where(self, content: bytes) -> tuple[str, int]:
        """Folder and UID of a message."""
        return next((name, uid) for name, folder in self.server.folders.items()
                    for uid, message in folder.messages.items() if message.raw == content)

    def drag(self, content: bytes, target: str) -> None:
        """The user moves it."""
        folder, uid = self.where(content)
        self.server.user_moves(uid, folder, target)

    def mark(self, content: bytes, *flags: str) -> None:
        """The user's mail program marks it."""
        folder, uid = self.where(content)
        self.server.folders[folder].messages[uid].flags |= set(flags)


@pytest.fixture
def house(journal: Journal) -> House:
    house = House(journal)
    house.day()
    return house


# The table


def test_into_junk_is_spam(house: House) -> None:
    """A message that was judged as ham and is dragged into the spam folder is a lesson, once."""
    house.server.deliver(mail := raw())
    house.day()
    house.drag(mail, "Junk")
    assert house.day() == [("spam", "moved")]
    assert house.day() == []
    assert house.taught() == [("spam", "moved", "ham")]


def test_out_of_junk_is_ham_and_is_never_filed_again(house: House) -> None:
    """What we moved and the user takes back is ham by his word, whenever and how often he does it."""
    house.server.deliver(mail := raw("spam"))
    house.day()
    assert house.where(mail)[0] == "Junk"
    for _ in range(3):
        house.drag(mail, "INBOX")
        [outcome] = house.sweep()
        assert (outcome.verdict, outcome.decided_by, outcome.action) == ("ham", "user", "none")
        assert house.look() == []
        assert house.taught() == [("ham", "moved", "spam" if _ == 0 else house.taught()[0][2])]
        house.drag(mail, "Junk")
        assert house.day() == [("spam", "moved")]
    house.drag(mail, "INBOX")
    house.day()
    assert house.where(mail)[0] == "INBOX"


def test_what_he_put_back_into_junk_is_not_undone(house: House) -> None:
    """It lies there by his hand; the undo says so, leaves it as it is, and does not ask again."""
    house.server.deliver(mail := raw("spam"))
    house.day()
    acts = choose(house.journal, ["home"])["home"]
    for target in "INBOX", "Junk":
        house.drag(mail, target)
        house.day()
    [one] = undo(connected(house.mailbox), house.journal, "home", acts)
    assert (one.folder, one.done, one.why, one.keywords) == ("Junk", False, AGREED, ())
    assert house.where(mail)[0] == "Junk"
    assert house.lessons.word("home", identify(mail), parse(mail).message_id) == "spam"
    assert choose(house.journal, ["home"]) == {}


def test_what_was_undone_stays_whatever_had_been_taught(house: House) -> None:
    """Filed because its like had been dragged to Junk, and put back by `undo`: that is the later word."""
    house.server.deliver(mail := raw("hello"))
    house.day()
    house.drag(mail, "Junk")
    assert house.day() == [("spam", "moved")]
    house.server.deliver(mail)
    [outcome] = house.sweep()
    assert (outcome.decided_by, outcome.action, outcome.done) == ("user", "move", True)
    [one] = undo(connected(house.mailbox), house.journal, "home", choose(house.journal, ["home"])["home"])
    assert (one.folder, one.done) == ("INBOX", True)
    assert [(outcome.verdict, outcome.action) for outcome in house.sweep()] == [("ham", "none")]
    house.day()
    assert (house.server.raws("INBOX"), house.server.raws("Junk")) == ([mail], [mail])


def test_into_the_archive_out_of_junk_is_ham(house: House) -> None:
    """Any folder that teaches ham will do; one that nobody named teaches nothing."""
    house.server.deliver(first := raw("spam"))
    house.server.deliver(second := raw("spam"))
    house.day()
    house.drag(first, "Archive")
    house.drag(second, "Friends")
    assert house.day() == [("ham", "moved")]
    assert house.taught() == [("ham", "moved", "spam")]


@pytest.mark.parametrize("target", ["Trash", "Drafts", "Friends", "Archive"])
def test_elsewhere_teaches_nothing(house: House, target: str) -> None:
    """Good mail that is archived, thrown away or sorted was never in a spam folder."""
    house.server.deliver(mail := raw())
    house.day()
    house.drag(mail, target)
    assert house.day() == []
    assert house.taught() == []


def test_expunged_teaches_nothing(house: House) -> None:
    """Nor does mail that is gone, from the inbox or from the spam folder."""
    for subject in ("hello", "spam"):
        house.server.deliver(mail := raw(subject))
        house.day()
        folder, uid = house.where(mail)
        house.server.user_deletes(uid, folder)
        assert house.day() == []
    assert house.taught() == []


def test_our_own_moves_teach_nothing(house: House) -> None:
    """Whether the server tells the new UIDs or not, and however often the same message is delivered."""
    mail = raw("spam")
    for _ in range(3):
        house.server.deliver(mail)
        assert house.day() == []
    assert house.taught() == []
    assert len(house.server.raws("Junk")) == 3


def test_what_the_server_delivers_into_junk_teaches_nothing(house: House) -> None:
    """Its own filter is not the user."""
    house.server.deliver(raw(), folder="Junk")
    assert house.day() == []
    assert house.day() == []


def test_taking_out_what_the_server_put_there_is_a_rescue(house: House) -> None:
    """We never judged it in its place; it is ham all the same, and it stays."""
    house.server.deliver(mail := raw("spam"), folder="Junk")
    house.day()
    house.drag(mail, "INBOX")
    [outcome] = house.sweep()
    assert (outcome.verdict, outcome.decided_by, outcome.action) == ("ham", "user", "none")
    assert house.taught() == [("ham", "moved", "-")]


def test_a_copy_in_junk_beside_the_one_that_we_filed_is_no_move(house: House) -> None:
    """The server's own filter put this one there, after we had put the first."""
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.server.deliver(mail, folder="Junk")
    assert house.day() == []


def test_our_move_of_a_twin_is_no_word_before_its_answer_has_come(house: House) -> None:
    """The first one lies where we know that we put it; so the one that came now is the one that is under way."""
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.server.deliver(mail)
    house.sweep()
    house.journal.write("UPDATE intents SET new_uid = NULL, state = 'open' WHERE new_uid = 2")
    assert house.look() == []


def test_nor_where_the_other_was_marked_as_no_spam(house: House) -> None:
    """That says nothing of where the one went that is under way."""
    junk = house.server.folders["Junk"]
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.server.deliver(mail)
    house.sweep()
    house.journal.write("UPDATE intents SET new_uid = NULL, state = 'open' WHERE new_uid = 2")
    under_way = junk.messages.pop(2)
    junk.messages[1].flags |= {"$NotJunk"}
    assert house.look() == [("ham", "keyword")]
    junk.add(under_way)
    assert house.look() == []


def test_nor_where_the_server_had_filed_a_third(house: House) -> None:
    """What lay there before we began to move is not where our move went."""
    house.server.deliver(mail := raw("spam"), folder="Junk")
    house.day()
    for uid in (2, 3):
        house.server.deliver(mail)
        house.sweep()
        assert house.where(mail)[0] == "Junk"
        if uid == 3:
            house.journal.write("UPDATE intents SET new_uid = NULL, state = 'open' WHERE new_uid = 3")
        assert house.look() == []


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("since", ["before the first look", "since then"])
def test_a_namesake_of_what_the_server_filed_is_no_rescue(house: House, named: bool, since: str) -> None:
    """Same Message-ID, or none, and same size: who sends both can see to that, and must not get past us by it."""
    filed, sent = (raw("spam", body, "known@test") for body in ("one word", "two word"))
    if not named:
        filed, sent = (content.split(b"\r\n", 1)[1] for content in (filed, sent))
    if since == "since then":
        house.day()
    house.server.deliver(filed, folder="Junk")
    house.day()
    house.server.deliver(sent)
    [outcome] = house.sweep()
    assert (outcome.verdict, outcome.decided_by, outcome.action) == ("spam", "model", "move")
    assert house.taught() == []


@pytest.mark.parametrize("since", ["always", "since then"])
def test_a_namesake_is_no_rescue_though_the_other_was_deleted(journal: Journal, since: str) -> None:
    """All that came into Junk since the first look is known by its content, and what was there by when it arrived."""
    house = House(journal)
    if since == "since then":
        house.day()
    house.server.deliver(raw("spam", "one word", "known@test"), folder="Junk")
    house.day()
    house.server.user_deletes(1, "Junk")
    house.server.deliver(raw("spam", "two word", "known@test"))
    assert [outcome.action for outcome in house.sweep()] == ["move"]


def test_what_we_never_judged_and_he_drags_into_junk_teaches(journal: Journal) -> None:
    """Mail from before the first start, or from a folder that is not watched."""
    server = MemoryServer()
    server.deliver(old := raw())
    house = House(journal, server)
    house.first = 2
    for name in ("Friends", "Archive"):
        server.deliver(raw(name), folder=name)
    past = datetime.now(UTC) - timedelta(hours=1)
    for folder in server.folders.values():
        for message in folder.messages.values():
            message.arrived = past
    house.day()
    for name in ("Friends", "Archive"):
        server.user_moves(1, name, "Junk")
    house.drag(old, "Junk")
    assert house.day() == [("spam", "moved")] * 3


@pytest.mark.parametrize("slow", [timedelta(seconds=0.9), timedelta(minutes=2)])
def test_what_the_server_files_right_after_a_look_is_no_lesson(house: House, slow: timedelta) -> None:
    """INTERNALDATE has whole seconds, and the server's clock may be behind: it only seems to be older than the look."""
    house.day()
    house.server.deliver(raw("spam"), folder="Junk")
    house.server.folders["Junk"].messages[1].arrived = datetime.now(UTC) - slow
    assert house.day() == []


def test_back_in_junk_after_a_rescue_is_spam_though_nobody_told_where_we_had_put_it(house: House) -> None:
    """The answer to our move was lost, and he took the message out before we looked: it has no UID in the journal."""
    house.server.deliver(mail := raw("spam"))
    house.sweep()
    house.journal.write("UPDATE intents SET new_uid = NULL")
    house.drag(mail, "INBOX")
    house.sweep()
    assert house.taught() == [("ham", "moved", "spam")]
    house.drag(mail, "Junk")
    assert house.look() == [("spam", "moved")]


def test_a_copy_in_junk_is_no_move(house: House) -> None:
    """The message still lies where it was judged: the server delivered it twice."""
    house.server.deliver(mail := raw())
    house.day()
    house.server.deliver(mail, folder="Junk")
    assert house.day() == []


def test_the_same_spam_delivered_again_after_junk_was_emptied_is_no_lesson(house: House) -> None:
    """It is not filed, as it may be a rescue; but a spammer's second delivery does not teach that it is ham."""
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.server.user_deletes(1, "Junk")
    house.server.deliver(mail)
    house.server.folders["INBOX"].messages[2].arrived = datetime.now(UTC) + timedelta(hours=1)
    [outcome] = house.sweep()
    assert (outcome.verdict, outcome.action) == ("ham", "none")
    assert house.taught() == []


# Keywords


@pytest.mark.parametrize(
    ("flag", "word"), [("$Junk", "spam"), ("Junk", "spam"), ("$NotJunk", "ham"), ("NonJunk", "ham")]
)
def test_a_mail_programs_mark_is_a_word(house: House, flag: str, word: str) -> None:
    """In the inbox, on mail that was judged before; once."""
    house.server.deliver(mail := raw())
    house.day()
    house.mark(mail, flag)
    assert house.day() == [(word, "keyword")]
    assert house.day() == []


def test_marks_that_were_there_on_arrival_are_nobodys_word(house: House) -> None:
    """A filter on the server has set them."""
    house.server.deliver(raw(), flags=["$Junk"])
    house.server.deliver(raw(), flags=["NonJunk"])
    assert house.day() == []
    assert house.day() == []


def test_our_own_mark_is_no_word(journal: Journal) -> None:
    """In mode observe spam stays with our $Junk on it; taking it for spam in earnest needs a move."""
    house = House(journal, mode="observe")
    house.day()
    house.server.deliver(mail := raw("spam"))
    assert house.day() == []
    assert "$Junk" in house.server.flags(1)
    house.mark(mail, "$NotJunk")  # by a mail program that leaves ours where it is
    assert house.day() == [("ham", "keyword")]
    house.server.folders["INBOX"].messages[1].flags.discard("$Junk")
    assert house.day() == []


def test_two_marks_at_once_say_nothing(house: House) -> None:
    """Until one of them comes anew."""
    house.server.deliver(mail := raw())
    house.day()
    house.mark(mail, "$NotJunk", "$Junk")
    assert house.day() == house.day() == []
    house.server.folders["INBOX"].messages[1].flags.discard("$Junk")
    assert house.day() == []
    house.mark(mail, "$Junk")
    assert house.day() == [("spam", "keyword")]


def test_a_pass_that_is_begun_again_sees_the_users_mark(journal: Journal) -> None:
    """The first one broke off after it had judged; meanwhile he says that it is no spam."""
    house = House(journal, mode="observe")
    house.server.deliver(mail := raw("spam"))
    house.sweep()
    house.mark(mail, "$NotJunk")
    journal.watermark("home", "INBOX", 1, 1)
    house.work = job(journal, lessons=house.lessons)
    [outcome] = house.sweep()
    assert (outcome.verdict, outcome.decided_by) == ("ham", "user")
    assert house.where(mail)[0] == "INBOX"


def test_not_junk_in_trash_is_ignored(house: House) -> None:
    """A mail program sets it there by itself."""
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.drag(mail, "Trash")
    house.mark(mail, "NotJunk")
    assert house.day() == []


def test_keywords_can_be_told_not_to_teach(journal: Journal) -> None:
    """For mail programs whose own filter sets them."""
    house = House(journal, keywords_teach=False)
    house.day()
    house.server.deliver(mail := raw())
    house.day()
    house.mark(mail, "$Junk")
    assert house.day() == []


def test_the_users_word_outlasts_another_scan(house: House) -> None:
    """What he marked as not junk is not filed by `scan --apply` either."""
    from mailtagger.pipeline import scan

    house.work = job(house.journal, lessons=house.lessons, mode="observe")
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.server.folders["INBOX"].messages[1].flags = {"$NotJunk"}
    assert house.day() == [("ham", "keyword")]
    work = job(house.journal, lessons=house.lessons, judge_anew=True, release=True)
    [outcome] = scan(work, connected(house.mailbox), "INBOX")
    assert (outcome.verdict, outcome.decided_by, outcome.action) == ("ham", "user", "keyword")
    assert house.where(mail)[0] == "INBOX"


# What may happen in between


def test_away_and_back_while_our_move_waits_teaches_nothing_and_is_not_filed(house: House) -> None:
    """The spam folder is full; the user puts the mail into the archive and back: nobody knows that it was no rescue."""
    house.server.folders["Junk"].refuse = "[OVERQUOTA] full"
    house.server.deliver(mail := raw("spam"))
    house.day()
    house.drag(mail, "Archive")
    house.drag(mail, "INBOX")
    house.server.folders["Junk"].refuse = ""
    assert house.day() == house.day() == []
    assert (house.taught(), house.where(mail)[0]) == ([], "INBOX")


def test_nor_does_it_when_its_twin_was_moved_meanwhile(house: House) -> None:
    """Of two equal ones our move of one came to nothing that anybody saw, and the other's twin lies in Junk."""
    house.server.folders["Junk"].refuse = "[OVERQUOTA] full"
    house.server.deliver(mail := raw("spam"))
    house.server.deliver(mail)
    house.day()
    for folder, target in (("INBOX", "Archive"), ("Archive", "INBOX")):
        house.server.user_moves(min(house.server.folders[folder].messages), folder, target)
    house.server.folders["Junk"].refuse = ""
    assert house.day() == house.day() == []
    assert (house.taught(), house.server.raws("INBOX"), house.server.raws("Junk")) == ([], [mail], [mail])


@pytest.mark.parametrize("text", ["ham", "spam"])
def test_what_was_deleted_and_is_delivered_again_into_the_spam_folder_is_no_word(house: House, text: str) -> None:
    """By the server's own filter; when it arrived tells it from what was judged, which a move would have kept."""
    house.server.deliver(mail := raw(text))
    house.day()
    folder, uid = house.where(mail)
    house.server.user_deletes(uid, folder)
    house.server.deliver(mail, "Junk")
    assert house.day() == house.day() == []
    assert house.taught() == []


@pytest.mark.parametrize("state", ["failed", "open"])
def test_a_mark_of_ours_whose_answer_was_lost_is_nobody_elses(journal: Journal, state: str) -> None:
    """Spam that was marked, moved on before that was known, and dragged into Junk is the user's word: whether it has
    been looked for in vain meanwhile or not yet."""
    house = House(journal, mode="observe")
    house.day()
    house.server.deliver(mail := raw("spam"))
    house.day()
    why = GONE if state == "failed" else ""
    journal.write("UPDATE intents SET state = ?, why = ? WHERE act = 'keyword'", state, why)
    house.drag(mail, "Archive")
    house.look()
    house.drag(mail, "Junk")
    assert house.look() == [("spam", "moved")]


def test_after_renumbering_nothing_is_learned_twice_and_nothing_filed_again(house: House) -> None:
    """A change of UIDVALIDITY, in the inbox and in the spam folder."""
    house.server.deliver(rescued := raw("spam"))
    house.server.deliver(dragged := raw())
    house.day()
    house.drag(rescued, "INBOX")
    house.drag(dragged, "Junk")
    house.day()
    before = house.taught()
    assert len(before) == 2
    for folder in ("INBOX", "Junk", "Archive"):
        house.server.renumber(folder)
    house.first = 1
    house.day()
    assert house.taught() == before
    assert (house.where(rescued)[0], house.where(dragged)[0]) == ("INBOX", "Junk")


def test_the_personal_layer_learns_at_once(house: House) -> None:
    """The next message of the kind scores differently."""
    letters = [raw("weekly offers", f"dear reader, spam number {n} of our garden club is here") for n in range(3)]
    house.server.deliver(letters[0])
    [before] = house.sweep()
    house.look()
    house.drag(letters[0], "INBOX")
    house.day()
    house.server.deliver(letters[1])
    [after] = house.sweep()
    assert before.score is not None and after.score is not None
    assert after.score < before.score


def test_a_look_that_is_cut_is_made_again(house: House) -> None:
    """What was learned before the connection broke is learned once; the rest is learned by the next look."""
    letters = [raw(f"letter {n}") for n in range(7)]
    for letter in letters:
        house.server.deliver(letter)
    house.day()
    for letter in letters:
        house.drag(letter, "Junk")
    house.mailbox.fail("fetch", TryLater("cut"))
    with pytest.raises(TryLater):
        house.look()
    assert len(house.look()) == 7
    assert house.look() == []


# Everything at once, against a model of ten lines

FOLDERS = ("INBOX", "Junk", "Archive", "Trash", "Friends")


@dataclass
class Expected:
    """What one message should have taught."""

    content: bytes
    place: str = "INBOX"  # at the last look
    uid: int = 0
    was_spam: bool = False  # it has been seen in the spam folder
    label: str | None = None

    def look(self, now: str, uid: int, ours: bool) -> None:
        if now == "Junk" and (self.place, self.uid) != (now, uid) and not ours:
            self.label = "spam"
        if now in ("INBOX", "Archive") and self.was_spam and self.place not in ("INBOX", "Archive"):
            self.label = "ham"
        self.was_spam, self.place, self.uid = self.was_spam or now == "Junk", now, uid


class Corrections(RuleBasedStateMachine):
    """A user who moves mail about, a daemon that is killed and started again, and what must have been learned."""

    @initialize()
    def begin(self) -> None:
        self.stack = contextlib.ExitStack()
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.server = MemoryServer()
        self.house = House(self.stack.enter_context(journal_in(self.directory)), self.server)
        self.house.day()
        self.mail: list[Expected] = []

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            with self.stack:
                self.learned_what_was_taught()

    @precondition(lambda self: len(self.mail) < 8)
    @rule(subject=st.sampled_from(["hello", "spam", "unsure"]))
    def deliver(self, subject: str) -> None:
        content = raw(subject)
        self.server.deliver(content)
        self.mail.append(Expected(content))
        self.observe()

    @precondition(lambda self: self.mail)
    @rule(data=st.data(), folder=st.sampled_from((*FOLDERS, "Junk", "Archive")), seen=st.booleans())
    def user_moves(self, data: st.DataObject, folder: str, seen: bool) -> None:
        content = data.draw(st.sampled_from(self.mail)).content
        if self.house.where(content)[0] != folder:
            self.house.drag(content, folder)
        if seen:
            self.observe()

    @rule()
    def killed_and_started(self) -> None:
        self.house.journal.close()
        self.house = House(self.stack.enter_context(journal_in(self.directory)), self.server)

    @rule(method=st.sampled_from(["fetch", "heads", "status", "examine", "uids", "keyworded", "move", "add_keywords"]),
          after=st.booleans())
    def connection_breaks(self, method: str, after: bool) -> None:
        self.house.mailbox.fail(method, TryLater("cut"), after=after)

    @rule()
    def observe(self) -> None:
        for _ in range(30):
            with contextlib.suppress(TryLater):
                self.house.day()
                break
        for one in self.mail:
            now, uid = self.house.where(one.content)
            ident, message_id = identify(one.content), one.content.split(b"<")[1].split(b">")[0].decode()
            moved = self.house.journal.moves("home", ident, message_id)
            ours = bool(moved) and one.place == "INBOX" and not one.was_spam
            one.look(now, uid, ours)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "mail"):
            there = [content for name in self.server.folders for content in self.server.raws(name)]
            assert sorted(there) == sorted(one.content for one in self.mail)

    @rule()
    def learned_what_was_taught(self) -> None:
        self.observe()
        found = {lesson.ident: lesson.label for lesson in self.house.lessons.all()}
        assert found == {identify(one.content): one.label for one in self.mail if one.label}
        assert self.house.day() == []


Corrections.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCorrections = Corrections.TestCase
