"""Which folders teach, and what; pure.

    spam      the spam folder, what the server marks as \\Junk, and `teach_spam`
    nothing   Trash (the spam folder or not), Drafts, Sent, and `neutral`; and every folder that is not named
    ham       watched folders, what the server marks as \\Archive, and `teach_ham`: for mail that comes out of the first
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Protocol

from mailtagger.decide import Word
from mailtagger.imap_folders import FolderInfo

NEUTRAL = frozenset({"\\trash", "\\drafts", "\\sent", "\\all", "\\flagged", "\\important"})  # RFC 6154, 8457
NEUTRAL_NAMES = frozenset({
    "trash", "deleted", "deleted items", "deleted messages", "bin", "drafts", "sent", "sent items", "sent messages",
    "outbox", "templates", "all mail",
})  # fmt: skip


class Teaching(Protocol):
    """What is read of `config.Account`."""

    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def teach_spam(self) -> tuple[str, ...]: ...
    @property
    def teach_ham(self) -> tuple[str, ...]: ...
    @property
    def neutral(self) -> tuple[str, ...]: ...


def teaches(account: Teaching, folder: FolderInfo, spam_folder: str | None) -> Word | None:
    """What mail in this folder is by its user's word; None where that says nothing."""
    flags = {flag.lower() for flag in folder.flags}
    if named(folder.name, account.neutral):
        return None
    if "\\junk" in flags or named(folder.name, account.teach_spam):
        return "spam"
    if thrown_or_own(folder):
        return None
    if folder.name == spam_folder:
        return "spam"
    if "\\archive" in flags or named(folder.name, account.folders) or named(folder.name, account.teach_ham):
        return "ham"
    return None


def thrown_or_own(folder: FolderInfo) -> bool:
    """Whether a folder holds what the user threw away or wrote himself, or mail from all the others."""
    return bool({flag.lower() for flag in folder.flags} & NEUTRAL) or _levels(folder.name)[-1] in NEUTRAL_NAMES


def named(folder: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits, whatever prefix and sign between levels the server has."""
    levels = _levels(folder)
    names = {"/".join(levels), "/".join(levels[1:]) if levels[0] == "inbox" and levels[1:] else "inbox"} - {
        "inbox" if levels != ["inbox"] else ""
    }
    wanted = [re.sub(r"[\[?]", r"[\g<0>]", "/".join(_levels(pattern))) for pattern in patterns]  # only * is special
    return any(fnmatchcase(name, pattern) for pattern in wanted for name in names)


def _levels(folder: str) -> list[str]:
    return folder.lower().replace(".", "/").split("/")
