"""MemoryMailbox behaves like the mailbox on a real server: one story, told to both, gives the same answers."""

import hashlib
from collections.abc import Callable
from typing import Any

from mailtagger.dovecot import Dovecot
from mailtagger.errors import MailboxError
from tests.fakes import MemoryMailbox, MemoryServer
from tests.imap_server import mailbox

MAILS = [f"Message-ID: <{number}@example.org>\r\n\r\nmail {number}\r\n".encode() for number in range(6)]


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def failure(deed: Callable[[], Any]) -> str:
    """The kind of error, as far as it matters to those who catch it."""
    try:
        deed()
    except MailboxError:
        return "MailboxError"
    except ValueError:
        return "ValueError"
    return "none"


def story(box: Any, deliver: Callable[..., Any]) -> list[Any]:
    """What a mailbox answers from the first message to the last."""
    for mail in MAILS[:5]:
        deliver(mail)
    opened = box.select("INBOX")
    state = opened.name, opened.uidnext, opened.messages, opened.keywords_ok, opened.writable
    read = [(mail.address.uid, mail.raw, mail.size, mail.partial) for mail in box.fetch([5, 1, 77])]
    added = box.add_keywords([1, 2, 77], ["$JUNK", "MailtaggerSpam"])
    again = box.add_keywords([3], ["$Junk"])
    removed = box.remove_keywords([2, 3, 77], ["mailtaggerspam"])
    flags = {uid: found - {"\\Recent"} for uid, found in box.flags([1, 2, 3, 77]).items()}
    subjects = box.subjects([1, 2, 77])
    moved = box.move([4, 2, 77], "Junk")
    nothing = box.move([2], "Nowhere")
    places = [box.locate(folder, f"{uid - 1}@example.org", digest, digest(MAILS[uid - 1]))
              for uid in (1, 2, 4) for folder in ("INBOX", "Junk")]
    forged = box.locate("Junk", "1@example.org", digest, digest(MAILS[2]))
    quiet = box.idle(0, lambda: False)
    deliver(MAILS[5])
    there = box.poll(), box.uids(), box.uids(5), box.uids(9)
    expunged = box.expunge([1])
    failures = [
        failure(lambda: box.move([3], "Nowhere")), failure(lambda: box.move([3], "INBOX")),
        failure(lambda: box.select("Nowhere")), failure(lambda: box.spam_folder("Nowhere")),
        failure(lambda: box.locate("Nowhere", "x", digest, "x")),
    ]
    junk = box.select(box.spam_folder(None))
    rest = [(mail.address.uid, mail.raw, mail.flags - {"\\Recent"}) for mail in box.fetch(box.uids())]
    return [state, read, added, again, removed, flags, subjects, moved, nothing, places, forged, quiet, there, expunged,
            failures, (junk.uidnext, junk.messages), rest, box.can_move, box.can_idle]


def test_same_story_on_both(dovecot: Dovecot) -> None:
    """Whatever the tests of the flow see of the double, they would see of a server."""
    server = MemoryServer()
    with MemoryMailbox(server) as double, mailbox(dovecot) as real:
        assert story(double, server.deliver) == story(real, lambda mail: dovecot.deliver("alice", mail))
