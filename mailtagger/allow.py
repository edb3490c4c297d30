"""Whether a message is proven to be from somebody the user writes to; a bare From proves nothing."""

from mailtagger.config import Account
from mailtagger.journal import Journal


def known(journal: Journal, account: Account, raw: bytes, sender: str) -> bool:
    """True when the user's own server has authenticated the sender's domain, and the user writes to that sender."""
    return False
