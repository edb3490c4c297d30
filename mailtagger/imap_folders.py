"""Which of the server's folders is meant; pure.

Servers put the user's own folders below a prefix or not (`INBOX.Junk`, `Junk`), separate levels by "." or "/", mark the
spam folder with `\\Junk`, `\\junk` or not at all, and call it by several names.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

SPAM_NAMES = ("junk", "spam", "junk e-mail", "junk email", "junk mail", "bulk mail")


@dataclass(frozen=True, slots=True)
class FolderInfo:
    """A folder that can be selected, with its attributes (RFC 6154: `\\Junk`) as the server spells them."""

    name: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where the user's own folders are (RFC 2342): prefix "INBOX." and delimiter ".", or "" and "/".

    `foreign`: the prefixes below which are those of others and those of all.
    """

    prefix: str = ""
    delimiter: str = ""
    foreign: tuple[str, ...] = ()

    def own(self, name: str) -> str:
        """The server's spelling of a folder that a person calls so."""
        return self.prefix + self._levels(name.removeprefix(self.prefix))

    def spelling(self, wanted: str, names: Collection[str]) -> str | None:
        """The one of the server's names that is meant: with or without prefix, with the server's delimiter or "/"."""
        spellings = [wanted, self._levels(wanted), self.prefix + wanted, self.own(wanted)]
        if wanted[:6].upper() in ("INBOX.", "INBOX/"):  # a prefix that this server lacks
            spellings += [wanted[6:], self._levels(wanted[6:])]
        if wanted.upper() == "INBOX":  # RFC 3501, 5.1: the one name without case
            spellings += [name for name in names if name.upper() == "INBOX"]
        return next((name for name in spellings if name in names), None)

    def spam_folders(self, folders: Iterable[FolderInfo]) -> list[str]:
        """The candidates, best first: marked and well named, marked, well named; of equals the first by name.

        Spam of this user's has no business in the folder of another.
        """
        ranks = {}
        for folder in folders:
            if folder.name.startswith(self.foreign):
                continue
            last = folder.name.removeprefix(self.prefix).rsplit(self.delimiter or "\0")[-1].lower()
            marked = "\\junk" in {flag.lower() for flag in folder.flags}
            if marked or last in SPAM_NAMES:
                ranks[folder.name] = (not marked, SPAM_NAMES.index(last) if last in SPAM_NAMES else len(SPAM_NAMES))
        return sorted(ranks, key=lambda name: (ranks[name], name))

    def _levels(self, name: str) -> str:
        return name.replace("/", self.delimiter) if self.delimiter else name
