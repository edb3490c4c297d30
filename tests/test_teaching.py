"""teaching.py: which folders teach, whatever the server calls them."""

import pytest

from mailtagger.imap_folders import FolderInfo
from mailtagger.teaching import teaches
from tests.flow import account


@pytest.mark.parametrize(
    ("name", "flags", "word"),
    [
        ("INBOX", (), "ham"), ("inbox", (), "ham"), ("Junk", (), "spam"), ("Spam", ("\\Junk",), "spam"),
        ("Archive", (), "ham"), ("INBOX.Archive", (), "ham"), ("Archives/2026/11", (), "ham"),
        ("Old", ("\\archive",), "ham"),
        ("Trash", (), None), ("INBOX.Trash", (), None), ("Archive", ("\\Trash",), None), ("Sent Items", (), None),
        ("Drafts", (), None), ("Friends", (), None), ("[Gmail]/All Mail", ("\\All",), None),
    ],
)  # fmt: skip
def test_defaults(name: str, flags: tuple[str, ...], word: str | None) -> None:
    """By name and by what the server marks; a folder that nobody named teaches nothing."""
    assert teaches(account(), FolderInfo(name, frozenset(flags)), "Junk") == word


@pytest.mark.parametrize(("name", "flags"), [("Trash", ()), ("Papierkorb", ("\\Trash",)), ("Everything", ("\\All",))])
def test_what_is_thrown_away_is_no_word_wherever_spam_goes(name: str, flags: tuple[str, ...]) -> None:
    """With `spam_folder: Trash` good mail that the user deletes must not be learned as spam; a named folder may."""
    thrown = FolderInfo(name, frozenset(flags))
    assert teaches(account(spam_folder=name), thrown, name) is None
    assert teaches(account(spam_folder=name, teach_spam=[name]), thrown, name) == "spam"


def test_three_lists() -> None:
    """`neutral` outweighs `teach_spam`, that outweighs `teach_ham`; the spam folder needs no naming."""
    chosen = account(teach_spam=["Bad/*", "Both"], teach_ham=["Friends", "Both", "Off"], neutral=["Off", "Bad/Maybe"])
    names = ("Bad/Seen", "Bad", "Both", "Friends", "Off", "Bad/Maybe", "bad.seen", "INBOX.Friends", "Archive", "INBOX")
    words = [teaches(chosen, FolderInfo(name, frozenset()), "Junk") for name in names]
    assert words == ["spam", None, "spam", "ham", None, None, "spam", "ham", None, "ham"]


@pytest.mark.parametrize("name", ["[Gmail]/Wichtig", "Really?", "a [b"])
def test_only_the_asterisk_is_special(name: str) -> None:
    """A bracket or question mark in a folder's name is itself, so that Gmail's folders can be named."""
    assert teaches(account(teach_ham=[name]), FolderInfo(name, frozenset()), "Junk") == "ham"
    assert teaches(account(teach_ham=["Really?", "[ab]"]), FolderInfo("Reallyx", frozenset()), "Junk") is None
    assert teaches(account(teach_ham=["[ab]"]), FolderInfo("a", frozenset()), "Junk") is None
