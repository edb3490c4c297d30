"""imap_folders.py: which folder a person means, on servers that spell it differently."""

import pytest

from mailtagger.imap_folders import FolderInfo, Namespace

PLAIN = Namespace("", "/")
BELOW_INBOX = Namespace("INBOX.", ".")


@pytest.mark.parametrize(
    ("own", "names", "wanted", "meant"),
    [
        (PLAIN, ["INBOX", "Junk"], "Junk", "Junk"),
        (PLAIN, ["INBOX", "Junk"], "INBOX.Junk", "Junk"),
        (PLAIN, ["INBOX", "Junk"], "inbox", "INBOX"),
        (PLAIN, ["Inbox", "Junk"], "INBOX", "Inbox"),
        (PLAIN, ["INBOX", "Junk"], "junk", None),
        (PLAIN, ["INBOX", "INBOX/Junk"], "INBOX/Junk", "INBOX/Junk"),
        (BELOW_INBOX, ["INBOX", "INBOX.Junk"], "Junk", "INBOX.Junk"),
        (BELOW_INBOX, ["INBOX", "INBOX.Junk"], "INBOX/Junk", "INBOX.Junk"),
        (BELOW_INBOX, ["INBOX", "INBOX.work.Junk"], "work/Junk", "INBOX.work.Junk"),
        (BELOW_INBOX, ["INBOX", "Junk", "INBOX.Junk"], "Junk", "Junk"),
        (Namespace("", ""), ["INBOX", "Junk"], "Junk", "Junk"),
    ],
)
def test_spelling(own: Namespace, names: list[str], wanted: str, meant: str | None) -> None:
    """With or without the prefix, with the server's delimiter or "/"; the exact name comes first, and case counts."""
    assert own.spelling(wanted, names) == meant


@pytest.mark.parametrize(
    ("folders", "best"),
    [
        ({"INBOX": "", "Junk": "\\Junk", "Spam": ""}, "Junk"),
        ({"INBOX": "", "Reklame": "\\junk", "Spam": ""}, "Reklame"),
        ({"INBOX": "", "Z": "\\Junk", "Spam": "\\Junk", "A": "\\Junk"}, "Spam"),
        ({"INBOX": "", "Z": "\\Junk", "A": "\\Junk"}, "A"),
        ({"INBOX": "", "INBOX.SPAM": "", "INBOX.Spammers": ""}, "INBOX.SPAM"),
        ({"INBOX": "", "INBOX.Junk E-mail": ""}, "INBOX.Junk E-mail"),
        ({"INBOX": "", "INBOX.Spammers": "\\Sent"}, None),
    ],
)
def test_spam_folders(folders: dict[str, str], best: str | None) -> None:
    """By attribute before name, whatever its case; of several marked ones the well-named, else the first."""
    infos = [FolderInfo(name, frozenset(flags.split())) for name, flags in folders.items()]
    assert next(iter(BELOW_INBOX.spam_folders(infos)), None) == best


def test_no_folder_of_others_takes_spam() -> None:
    """However it is marked or called: one of the user's own that is worse named is taken, or none."""
    own = Namespace("", "/", ("Other Users/", "Shared/"))
    folders = [FolderInfo("Other Users/bob/Junk", frozenset({"\\Junk"})), FolderInfo("Shared/Junk", frozenset())]
    assert own.spam_folders(folders) == []
    assert own.spam_folders([*folders, FolderInfo("Spam", frozenset())]) == ["Spam"]


def test_own_names() -> None:
    """What a new folder is called."""
    assert (PLAIN.own("work/Junk"), BELOW_INBOX.own("work/Junk")) == ("work/Junk", "INBOX.work.Junk")
    assert BELOW_INBOX.own("INBOX.Junk") == "INBOX.Junk"
