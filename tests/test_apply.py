"""apply: what a verdict asks for, and that it happens once, whatever breaks in between."""

from dataclasses import replace
from typing import Any

import pytest

from mailtagger import apply
from mailtagger.apply import GONE, NO_FOLDER, NOT_KEPT, Means, means, perform, plan, settle
from mailtagger.config import Keywords
from mailtagger.decide import Decision
from mailtagger.errors import MailboxError, StateError, TryLater
from mailtagger.imap import Address, FolderState
from mailtagger.journal import UNSEEN, Intent, Journal
from mailtagger.parse import identify
from mailtagger.places import Places
from tests.fakes import MemoryMailbox
from tests.flow import raw

ALL = Means({"spam": ("MailtaggerSpam", "$Junk"), "unsure": ("MailtaggerUnsure",)}, "Junk")
MESSAGE = Intent("home", "INBOX", 1, 7, "ident", "a@b", "keyword", "", "b1")
KEYWORD = replace(MESSAGE, target="MailtaggerSpam $Junk")
MOVE = replace(MESSAGE, act="move", target="Junk")


@pytest.fixture
def mailbox() -> MemoryMailbox:
    mailbox = MemoryMailbox()
    mailbox.connect()
    mailbox.select("INBOX")
    return mailbox


def deliver(mailbox: MemoryMailbox, content: bytes, **fields: Any) -> list[Intent]:
    """A delivered message, and the intents to mark and to move it."""
    message_id = content.split(b"<")[1].split(b">")[0].decode()
    uid = mailbox.server.deliver(content)
    about = replace(MESSAGE, uid=uid, ident=identify(content), message_id=message_id, **fields)
    return [replace(about, act="move", target="Junk"), replace(about, target="MailtaggerSpam $Junk")]


def looked(mailbox: MemoryMailbox, journal: Journal, target: str | None = "Junk") -> list[tuple[str, str, str]]:
    """settle on a new connection: act, state and reason of each intent."""
    mailbox.connect()
    found = settle(mailbox, journal, "home", mailbox.select("INBOX"), target, identify)
    return [(intent.act, intent.state, intent.why) for intent in found]


# What a verdict asks for


def test_spam_is_marked_and_then_moved() -> None:
    """Keywords come first: they travel with the message."""
    assert plan(MESSAGE, "spam", ALL) == [KEYWORD, MOVE]


def test_unsure_is_marked_and_ham_is_not_touched() -> None:
    """Only spam is ever moved."""
    assert plan(MESSAGE, "unsure", ALL) == [replace(MESSAGE, target="MailtaggerUnsure")]
    assert plan(MESSAGE, "ham", ALL) == []


@pytest.mark.parametrize("target", [None, "INBOX"])
def test_without_a_target_or_in_the_target_nothing_is_moved(target: str | None) -> None:
    """Observe mode, and the spam folder itself."""
    assert plan(MESSAGE, "spam", replace(ALL, target=target)) == [KEYWORD]


def test_what_is_done_or_waits_is_not_planned_again() -> None:
    """A failed act may be tried again; a move that waits is one move, wherever it goes."""
    done = [replace(KEYWORD, state="done"), replace(MOVE, target="", state="open")]
    assert plan(MESSAGE, "spam", ALL, done) == []
    assert plan(MESSAGE, "spam", ALL, [replace(act, state="failed") for act in done]) == [KEYWORD, MOVE]
    assert plan(MESSAGE, "unsure", ALL, done) == [replace(MESSAGE, target="MailtaggerUnsure")]


def state(**fields: Any) -> FolderState:
    return replace(FolderState("INBOX", 1, 1, 0, keywords_ok=True, writable=True, modseq=None), **fields)


def test_where_keywords_are_kept_all_are_set() -> None:
    """The usual case, with and without $Junk."""
    assert means(Keywords(), state(), "Junk") == ALL
    assert means(Keywords(junk=False), state(), None).keywords["spam"] == ("MailtaggerSpam",)


@pytest.mark.parametrize(
    ("permanent", "setting", "spam"),
    [
        ({"\\seen"}, "move_only", ()),
        ({"\\seen", "\\flagged"}, "flagged", ("\\Flagged",)),
        ({"\\seen", "$junk"}, "flagged", ("$Junk",)),
    ],
)
def test_where_keywords_are_not_kept_it_falls_back_and_says_so(
    permanent: set[str], setting: str, spam: tuple[str, ...]
) -> None:
    """A keyword from the server's fixed list is used; without one, what the configuration says."""
    found = means(Keywords(), state(keywords_ok=False, permanent=frozenset(permanent)), "Junk", setting)
    assert (found.keywords["spam"], found.keywords["unsure"], found.target) == (spam, (), "Junk")
    assert "no keywords" in found.note
    assert [intent.act for intent in plan(MESSAGE, "spam", found)] == ["keyword", "move"][not spam :]


def test_in_a_read_only_folder_nothing_is_done() -> None:
    """Mail is judged there, and no command that must fail is sent."""
    found = means(Keywords(), state(writable=False, keywords_ok=False), "Junk")
    assert plan(MESSAGE, "spam", found) == []
    assert "read-only" in found.note


# Doing it


def test_done_acts_are_journalled_as_done(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The message is in Junk with its keywords, unread as before, and the journal knows its new UID."""
    content = raw("spam")
    results = perform(mailbox, journal, deliver(mailbox, content), identify)
    assert [(intent.act, intent.state, intent.new_uid) for intent in results] == [
        ("keyword", "done", None), ("move", "done", 1)]
    assert mailbox.server.raws("INBOX") == []
    assert mailbox.server.raws("Junk") == [content]
    assert mailbox.server.flags(1, "Junk") == {"MailtaggerSpam", "$Junk"}
    assert [move.new_uid for move in journal.moves("home", results[0].ident, results[0].message_id)] == [1]
    assert journal.open_intents_of("home") == []


def test_no_act_without_its_intent(mailbox: MemoryMailbox, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the journal cannot be written, the server is told nothing."""

    def full(intents: object) -> list[int]:
        raise StateError("The disk is full.")

    acts = deliver(mailbox, raw("spam"))
    monkeypatch.setattr(journal, "open_intents", full)
    mailbox.calls.clear()
    with pytest.raises(StateError):
        perform(mailbox, journal, acts, identify)
    assert mailbox.calls == []


def test_many_messages_are_two_commands(mailbox: MemoryMailbox, journal: Journal) -> None:
    """One STORE and one MOVE for a whole group: moving one by one was measured to be 190 times slower."""
    acts = [act for _ in range(40) for act in deliver(mailbox, raw("spam"))]
    mailbox.calls.clear()
    perform(mailbox, journal, acts, identify)
    assert mailbox.calls == ["add_keywords", "move"]
    assert len(mailbox.server.raws("Junk")) == 40


def test_the_user_is_faster(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A message that has left its place is not looked for: the acts failed, the others are done."""
    acts = deliver(mailbox, raw("spam")) + deliver(mailbox, raw("spam"))
    mailbox.server.user_deletes(acts[0].uid)
    results = perform(mailbox, journal, acts, identify)
    assert sorted((intent.uid, intent.act, intent.state, intent.why) for intent in results) == [
        (1, "keyword", "failed", GONE), (1, "move", "failed", GONE),
        (2, "keyword", "done", ""), (2, "move", "done", ""),
    ]


def test_a_keyword_that_the_server_drops_has_failed(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Some servers answer OK and keep nothing: only what is shown counts. The move is done all the same."""
    mailbox.server.folders["INBOX"].keywords_ok = False
    results = perform(mailbox, journal, deliver(mailbox, raw("spam")), identify)
    assert [(intent.act, intent.state, intent.why) for intent in results] == [
        ("keyword", "failed", NOT_KEPT), ("move", "done", "")]


def test_a_refused_move_waits(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Quota, rights: the mail stays with its keyword, and the move is done when the server takes it."""
    mailbox.server.folders["Junk"].refuse = "[OVERQUOTA] full"
    results = perform(mailbox, journal, deliver(mailbox, raw("spam")), identify)
    assert (results[1].state, "OVERQUOTA" in results[1].why) == ("open", True)
    assert mailbox.server.flags(1) == {"MailtaggerSpam", "$Junk"}
    assert looked(mailbox, journal)[0][:2] == ("move", "open")
    mailbox.server.folders["Junk"].refuse = ""
    assert looked(mailbox, journal) == [("move", "done", "")]
    assert looked(mailbox, journal) == []
    assert len(mailbox.server.raws("Junk")) == 1


def test_a_move_waits_for_a_missing_spam_folder(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Planned without a target, it goes to the one that is there at last, and the journal knows where it went."""
    move, _ = deliver(mailbox, raw("spam"))
    [result] = perform(mailbox, journal, [replace(move, target="")], identify)
    assert (result.state, result.why) == ("open", NO_FOLDER)
    assert looked(mailbox, journal, target="") == [("move", "open", NO_FOLDER)]
    assert looked(mailbox, journal, target="Junk") == [("move", "done", "")]
    assert [found.target for found in journal.moves("home", move.ident, move.message_id)] == ["Junk"]


def test_a_server_that_cannot_move_keeps_the_mail(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Without MOVE and UIDPLUS the message is marked, and the move has failed for good."""
    mailbox.server.can_move = False
    results = perform(mailbox, journal, deliver(mailbox, raw("spam")), identify)
    assert [intent.state for intent in results] == ["done", "failed"]
    assert len(mailbox.server.raws("INBOX")) == 1


# After a crash


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", ["add_keywords", "move"])
def test_a_cut_connection_repeats_only_what_did_not_happen(
    mailbox: MemoryMailbox, journal: Journal, method: str, after: bool
) -> None:
    """Command lost or answer lost look the same to the client; in the end the message is in Junk, once and marked."""
    content = raw("spam")
    mailbox.fail(method, TryLater("cut"), after=after)
    with pytest.raises(TryLater):
        perform(mailbox, journal, deliver(mailbox, content), identify)
    mailbox.calls.clear()
    assert {found[:2] for found in looked(mailbox, journal)} <= {("keyword", "done"), ("move", "done")}
    assert mailbox.calls.count("move") == (0 if (method, after) == ("move", True) else 1)
    assert mailbox.server.raws("INBOX") == []
    assert mailbox.server.raws("Junk") == [content]
    assert mailbox.server.flags(1, "Junk") == {"MailtaggerSpam", "$Junk"}


def test_a_copy_without_its_delete_is_finished_not_repeated(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Cut between COPY and EXPUNGE on a server without MOVE: the original is removed, and no second copy made."""
    content = raw("spam")
    move, _ = deliver(mailbox, content)
    journal.open_intents([move])
    mailbox.server.folders["Junk"].add(replace(mailbox.server.folders["INBOX"].messages[1]))
    mailbox.server.moves_whole = False
    mailbox.calls.clear()
    assert looked(mailbox, journal) == [("move", "done", "")]
    assert "move" not in mailbox.calls
    assert (mailbox.server.raws("INBOX"), mailbox.server.raws("Junk")) == ([], [content])


@pytest.mark.parametrize("known", ["it was sighted", "its UID was told"])
def test_a_copy_that_was_taken_away_since_is_not_made_again(
    mailbox: MemoryMailbox, journal: Journal, known: str
) -> None:
    """Cut between COPY and EXPUNGE, and the user has taken the copy away meanwhile: the original is removed."""
    content = raw("spam", message_id="once@example.org")
    move, _ = deliver(mailbox, content)
    [id_] = journal.open_intents([move])
    copy = mailbox.server.deliver(content, "Junk")
    if known == "it was sighted":
        Places(journal).saw("home", Address("Junk", 1, copy), "once@example.org", len(content), identify(content))
    else:
        journal.copied({id_: copy})
    mailbox.server.user_deletes(copy, "Junk")
    mailbox.server.moves_whole = False
    assert looked(mailbox, journal) == [("move", "done", "")]
    assert (mailbox.server.raws("INBOX"), mailbox.server.raws("Junk")) == ([], [])


def test_a_duplicate_in_the_spam_folder_is_not_taken_for_the_copy(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A message delivered twice: the copy of the first, moved earlier, is no proof that the second was copied."""
    content = raw("spam", message_id="twice@example.org")
    perform(mailbox, journal, deliver(mailbox, content)[:1], identify)
    journal.open_intents(deliver(mailbox, content)[:1])
    assert looked(mailbox, journal) == [("move", "done", "")]
    assert mailbox.server.raws("Junk") == [content, content]


@pytest.mark.parametrize("known", [
    "by MOVE", "it was sighted before", "its like was judged", "it arrived later", "it has no mark of ours",
])
def test_nothing_is_deleted_because_of_a_twin_in_the_spam_folder(
    mailbox: MemoryMailbox, journal: Journal, known: str
) -> None:
    """The user or the server put it there while our move was refused: this one was never copied."""
    content = raw("spam", message_id="twice@example.org")
    mailbox.server.moves_whole = known == "by MOVE"
    twin = mailbox.server.deliver(content, "Junk")
    if known == "it was sighted before":
        Places(journal).saw("home", Address("Junk", 1, twin), "twice@example.org", len(content), identify(content))
    [move, mark] = deliver(mailbox, content)
    if known == "it has no mark of ours":
        perform(mailbox, journal, [mark], identify)
    if known != "it arrived later":  # its like may have come within the same second
        mailbox.server.folders["INBOX"].messages[1].arrived = mailbox.server.folders["Junk"].messages[twin].arrived
    if known == "its like was judged":
        decision = Decision("spam", "model", 0.9, ())
        journal.record("home", Address("INBOX", 1, 99), move.ident, move.message_id, 0.9, decision, (), "model")
    journal.open_intents([move])
    assert looked(mailbox, journal) == [("move", "done", "")]
    assert (mailbox.server.raws("INBOX"), mailbox.server.raws("Junk")) == ([], [content, content])


def test_two_equal_messages_moved_and_unanswered_are_both_found(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Each of them is accounted for by a copy of its own."""
    content = raw("spam", message_id="twice@example.org")
    acts = deliver(mailbox, content)[:1] + deliver(mailbox, content)[:1]
    mailbox.fail("move", TryLater("cut"), after=True)
    with pytest.raises(TryLater):
        perform(mailbox, journal, acts, identify)
    assert looked(mailbox, journal) == [("move", "done", "")] * 2
    assert sorted(move.new_uid or 0 for move in journal.moves("home", acts[0].ident, acts[0].message_id)) == [1, 2]


def test_what_the_user_took_away_meanwhile_is_left_to_the_user(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Neither here nor in the spam folder: the user moved or deleted it, and that stands."""
    journal.open_intents(deliver(mailbox, raw("spam")))
    mailbox.server.folders["Archive"] = type(mailbox.server.folders["Junk"])()
    mailbox.server.user_moves(1, "INBOX", "Archive")
    assert looked(mailbox, journal) == [("move", "failed", GONE), ("keyword", "failed", GONE)]
    assert len(mailbox.server.raws("Archive")) == 1


def test_a_rescue_before_we_looked_is_still_a_rescue(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Moved, the answer lost, and the user took it back at once: it counts as moved, so it is not moved again."""
    move, _ = deliver(mailbox, raw("spam"))
    mailbox.fail("move", TryLater("cut"), after=True)
    with pytest.raises(TryLater):
        perform(mailbox, journal, [move], identify)
    mailbox.server.user_moves(1, "Junk", "INBOX")
    assert looked(mailbox, journal) == [("move", "done", UNSEEN)]
    assert len(journal.moves("home", move.ident, move.message_id)) == 1
    assert len(mailbox.server.raws("INBOX")) == 1


@pytest.mark.parametrize("flag", ["\\Deleted", "\\Draft", "$NotJunk", "NonJunk"])
def test_a_mark_of_somebody_else_ends_a_waiting_act(mailbox: MemoryMailbox, journal: Journal, flag: str) -> None:
    """What was deleted or called good while the act waited is not touched any more."""
    journal.open_intents(deliver(mailbox, raw("spam"))[:1])
    mailbox.add_keywords([1], [flag])
    assert [found[:2] for found in looked(mailbox, journal)] == [("move", "failed")]
    assert len(mailbox.server.raws("INBOX")) == 1


def test_back_to_observe_ends_waiting_moves(mailbox: MemoryMailbox, journal: Journal) -> None:
    """When nothing is to be moved any more, an old intent moves nothing; one that did happen is known as done."""
    journal.open_intents(deliver(mailbox, raw("spam"))[:1])
    content = raw("spam")
    moved, _ = deliver(mailbox, content)
    journal.open_intents([moved])
    mailbox.server.user_moves(moved.uid, "INBOX", "Junk")
    assert [found[:2] for found in looked(mailbox, journal, target=None)] == [("move", "failed"), ("move", "done")]
    assert len(mailbox.server.raws("INBOX")) == 1


def test_another_spam_folder_in_the_settings(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A move that was refused goes to the folder that is set now."""
    journal.open_intents([replace(deliver(mailbox, raw("spam"))[0], target="Wrong")])
    assert looked(mailbox, journal, target="Junk") == [("move", "done", "")]
    assert len(mailbox.server.raws("Junk")) == 1


def test_open_intents_survive_a_renumbering(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Under a new UIDVALIDITY the message is found by Message-ID and content, and every duplicate for itself. It is
    marked, and stays where it is: it may have been moved, and taken back by its user."""
    twice = raw("spam", message_id="twice@example.org")
    acts = [act for content in (raw("spam"), twice, twice) for act in deliver(mailbox, content)]
    journal.open_intents(acts)
    mailbox.server.renumber("INBOX")
    assert sorted(looked(mailbox, journal)) == [("keyword", "done", "")] * 3 + [("move", "done", UNSEEN)] * 3
    assert len(mailbox.server.raws("INBOX")) == 3
    assert mailbox.server.raws("Junk") == []


def test_settling_stops_at_the_first_refusal(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A thousand refused moves are not looked up one by one each time."""
    journal.open_intents([act for _ in range(apply.LOOK + 20) for act in deliver(mailbox, raw("spam"))[:1]])
    mailbox.server.folders["Junk"].refuse = "[OVERQUOTA]"
    mailbox.calls.clear()
    assert len(looked(mailbox, journal)) == apply.LOOK
    assert mailbox.calls.count("move") == 1


def test_a_missing_spam_folder_is_no_error_while_looking(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The folder of an old intent was deleted: the message is still here, and waits for the new folder."""
    journal.open_intents(deliver(mailbox, raw("spam"))[:1])
    del mailbox.server.folders["Junk"]
    with pytest.raises(MailboxError):
        mailbox.locate("Junk", "", identify, "")
    assert looked(mailbox, journal, target="")[0][:2] == ("move", "open")


def test_other_folders_and_accounts_are_none_of_our_business(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Only intents of the selected folder are looked up: UIDs of another mean nothing here."""
    move, _ = deliver(mailbox, raw("spam"))
    journal.open_intents([replace(move, folder="Other"), replace(move, account="work")])
    assert looked(mailbox, journal) == []
    assert len(mailbox.server.raws("INBOX")) == 1
