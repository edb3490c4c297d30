"""What tests of the flow share: messages, a scorer that looks for words, and a job on an account in memory."""

import itertools
from pathlib import Path
from typing import Any

from mailtagger.config import Account, Keywords
from mailtagger.decide import Policy
from mailtagger.imap import Mailbox
from mailtagger.journal import Journal
from mailtagger.judge import Job
from mailtagger.score import Score
from tests.fakes import MemoryMailbox

POLICY = Policy(ham_cutoff=0.2, spam_cutoff=0.8)
_numbers = itertools.count(1)


def raw(subject: str = "hello", body: str = "some words", message_id: str | None = None) -> bytes:
    """A message; a subject of spam, unsure or poison makes it so for Words."""
    id_ = message_id or f"{next(_numbers)}@example.org"
    return f"Message-ID: <{id_}>\r\nFrom: a@example.org\r\nSubject: {subject}\r\n\r\n{body}\r\n".encode()


class Words:
    """Scores by one word of the text: spam 0.97, unsure 0.5, else 0.01; foreign spam is unfamiliar; poison raises."""

    def __init__(self, model: str = "words-1") -> None:
        self.model = model
        self.texts: list[str] = []

    def score(self, text: str) -> Score:
        self.texts.append(text)
        if "poison" in text:
            raise ZeroDivisionError("poison in the text")
        p = 0.97 if "spam" in text else 0.5 if "unsure" in text else 0.01
        return Score(p, 0.0, len(text.split()), 0.1 if "foreign" in text else 0.9)


def account(**fields: Any) -> Account:
    """An account that may move."""
    return Account.model_validate({"name": "home", "host": "localhost", "username": "alice", "mode": "apply", **fields})


def job(journal: Journal, scorer: Words | None = None, **fields: Any) -> Job:
    """A job under POLICY; settings of the account may be given among the fields of Job."""
    own = {name: fields.pop(name) for name in list(fields) if name in Account.model_fields}
    return Job(account(**own), Keywords(), POLICY, scorer or Words(), journal, **fields)


def connected(mailbox: MemoryMailbox) -> Mailbox:
    """The double, online, in the place of the real one."""
    mailbox.connect()
    return mailbox  # type: ignore[return-value]


def journal_in(directory: Path) -> Journal:
    return Journal(directory / "state" / "journal.sqlite3")
