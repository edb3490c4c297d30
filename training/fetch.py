"""A URL → a file, whole or not at all: progress, resume of what a cut left (RFC 9110 §14), checksum, atomic rename."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mailtagger.errors import MailtaggerError

ENRON_URL = "https://github.com/MWiechmann/enron_spam_data/raw/master/enron_spam_data.zip"
ENRON_SHA256 = "85f19fa27d1991be9e215dddf4d09dab80727a71a967636a34f2baaabd912c6f"
TIMEOUT = 30  # seconds of silence
BLOCK = 1 << 16
ATTEMPTS = 3  # a connection that is cut is taken up again so often
LIMIT = 1 << 30  # bytes: no corpus is larger, and a disk is not without end


def fetch(url: str, path: Path, sha256: str, say: Callable[[str], None]) -> None:
    """Put what `url` gives at `path`, if its checksum is the one expected; the beginning of it waits in `path`.part."""
    part = path.with_name(f"{path.name}.part")
    by_hand = f"Put {url} at {path} by hand, or run the same command again: it goes on where it stopped."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            if _more(url, part, say):
                break
            say(f"The connection ended early, after {part.stat().st_size:,} bytes.")
        else:
            raise MailtaggerError(f"{url} stopped short {ATTEMPTS} times.", by_hand)
        found = _sha256(part)
        if found != sha256:
            part.unlink()
            raise MailtaggerError(
                f"{url} gave a file with the sha256 {found}, not {sha256}; it was removed.",
                "Where you trust another edition of it, --sha256 takes its checksum.",
            )
        part.replace(path)
    except urllib.error.HTTPError as error:
        raise MailtaggerError(f"{url} answered {error.code} {error.reason}.", by_hand) from error
    except urllib.error.URLError as error:
        raise MailtaggerError(f"{url} cannot be reached ({error.reason}).", by_hand) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no URL at all
        raise MailtaggerError(f"{url} cannot be fetched ({type(error).__name__}: {error}).", by_hand) from error


def _more(url: str, part: Path, say: Callable[[str], None]) -> bool:
    """Append what is still missing to `part`; whether that is all of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        return True  # nothing is left to send; the checksum tells whether that is right
    with answer, part.open("ab") as file:
        if answer.status != http.client.PARTIAL_CONTENT or not _goes_on(answer.headers.get("Content-Range", ""), have):
            file.truncate(0)  # the server sends it from its beginning
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        shown = 0
        try:
            while block := answer.read(BLOCK):
                file.write(block)
                have += len(block)
                if have > LIMIT:
                    raise ValueError(f"more than {LIMIT:,} bytes")
                if total and (tenth := 10 * have // total) > shown:
                    shown = tenth
                    say(f"{have / 1e6:,.1f} of {total / 1e6:,.1f} MB ({tenth}0 %)")
        except (http.client.IncompleteRead, ConnectionError, TimeoutError):
            return False
    return total is None or have >= total


def _goes_on(content_range: str, have: int) -> bool:
    return content_range.startswith(f"bytes {have}-")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
