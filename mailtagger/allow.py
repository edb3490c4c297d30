"""Whether a message is proven to be from somebody the user writes to; a bare From proves nothing.

What counts as proof is the word of the user's own server, Authentication-Results (RFC 8601) under its name, and only
where no sender can have written it. A server writes its lines above those that a message comes with, so all that
stands below its Received field may be forged. Read is what stands above the first Received field that tells of mail
taken in; the hand-over to the mailbox (LMTP) is within the house. All fields so far must name the server's own domain.
A server that writes its results below its own Received field (Google) proves nothing here: where its check fails to
run, a sender's own would stand in the same place.

    dmarc=pass   for the very domain of From: the server has compared the domains, with a list of public suffixes
    dkim=pass    by a signature of the very domain of From; without that list, `mail.example` and `co.uk` look alike
    spf=pass     not alone: it proves the machine that sent, which others share with the domain's owner
    no           where any of the server's own lines says other than pass or none for dmarc, or is not well formed
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header

from mailtagger import correspondents
from mailtagger.config import Account
from mailtagger.correspondents import ADDRESS
from mailtagger.journal import Journal

HEADER_BYTES = 262_144  # a longer header proves nothing
FIELD_BYTES = 10_000
DEPTH = 20  # comments within comments

_VALUE = r'(?:"(?:[^"\\]|\\.)*+"|[^\s;="\\]++)++'  # possessive: no way back, so no hostile field takes long
_SERVER = re.compile(rf"\s*+({_VALUE})(?:\s++\d++)?+\s*+(?=;|\Z)")
_PAIR = re.compile(rf"\s*+({_VALUE})\s*+=\s*+({_VALUE})(?=[\s;]|\Z)")
_NEXT = re.compile(r"\s*+(;|\Z)")
_NONE = re.compile(r"\s*+none\s*+(?=;|\Z)", re.IGNORECASE)
_BY = re.compile(r"(?<!\S)by\s++([^\s;]++)", re.IGNORECASE)
_WITH = re.compile(r"(?<!\S)with\s++([^\s;]++)", re.IGNORECASE)
_HANDED_OVER = frozenset({"lmtp", "lmtps", "lmtpa", "lmtpsa"})  # RFC 3848
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MAILBOX = re.compile(r'\s*+(?:(?:"(?:[^"\\@]|\\.)*+"|[^<>"@,;:\\])*+<([^<>\s]++)>|([^<>"\s,;:]++))\s*+')


@dataclass
class Result:
    """One `method=result` with its properties, names in lower case."""

    method: str
    result: str
    properties: dict[str, str] = field(default_factory=dict)


def known(journal: Journal, account: Account, raw: bytes, sender: str) -> bool:
    """True when the user's own server has authenticated the sender's domain, and the user writes to that sender."""
    return bool(
        account.authserv_id
        and correspondents.writes_to(journal, account.name, sender)
        and proven(raw, sender, account.authserv_id)
    )


def proven(raw: bytes, sender: str, server: str) -> bool:
    """Whether that server tells that the one address in From is `sender`, and that it comes from its domain."""
    fields = _fields(raw)
    if fields is None or _author(fields) != sender:
        return False
    domain = sender.rpartition("@")[2]
    results: list[Result] = []
    for own in _written_by(server, fields):
        if own is None:
            return False
        results += own
    if any(result.method == "dmarc" and result.result not in ("pass", "none") for result in results):
        return False
    return any(
        result.result == "pass" and result.properties.get(name, "").lower() == domain
        for result in results for method, name in (("dmarc", "header.from"), ("dkim", "header.d"))
        if result.method == method
    )


def _fields(raw: bytes) -> list[tuple[str, str]] | None:
    """(name in lower case, value on one line) of each header field, in order; None where the header is not plain."""
    end = re.search(rb"\n\r?\n", raw[:HEADER_BYTES])
    if not end:
        return None
    found: list[tuple[str, str]] = []
    for line in re.split(r"\r?\n(?![ \t])", raw[: end.start()].removesuffix(b"\r").decode("latin-1")):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!-9;-~]+[ \t]*", name):
            return None
        found.append((name.strip().lower(), re.sub(r"\r?\n(?=[ \t])", "", value)))
    return found


def _author(fields: list[tuple[str, str]]) -> str:
    """The address in From, in lower case; "" unless there is exactly one, and nothing beside it looks like another."""
    authors = [value for name, value in fields if name == "from"]
    if len(authors) != 1 or _CONTROL.search(authors[0]) or "@" in _words(authors[0]):
        return ""
    text = _without_comments(authors[0])
    found = _MAILBOX.fullmatch(text) if text is not None else None
    address = (found[1] or found[2]).lower() if found else ""
    return address if authors[0].count("@") == 1 and ADDRESS.fullmatch(address) else ""


def _words(value: str) -> str:
    """What the encoded words (RFC 2047) in a field say; "@", which is refused, where they cannot be read."""
    try:
        return "".join(
            part.decode(charset or "ascii") for part, charset in decode_header(value)
            if isinstance(part, bytes) and charset
        )
    except (ValueError, LookupError, HeaderParseError):
        return "@"


def _written_by(server: str, fields: list[tuple[str, str]]) -> Iterator[list[Result] | None]:
    """What that server says in each of its lines; None for one that is not well formed."""
    proof: list[list[Result] | None] = []
    for name, value in fields:
        if name == "received":
            text = _without_comments(value) or ""
            hosts = _BY.findall(text)
            if not hosts or not all(_of_the_house(host, server) for host in hosts):
                return
            ways = {way.lower() for way in _WITH.findall(text)}
            if not ways or not ways <= _HANDED_OVER:
                yield from proof
                return
        elif name == "authentication-results" and (own := _said(value, server)) != []:
            proof.append(own)


def _of_the_house(host: str, server: str) -> bool:
    """Whether the host is that server, below its name, or beside it: mx.example.org and imap.example.org."""
    host, server = host.lower().rstrip("."), server.lower()
    above = server.partition(".")[2]
    return host == server or host.endswith(f".{server}") or ("." in above and host.endswith(f".{above}"))


def _said(value: str, server: str) -> list[Result] | None:
    """The results in one field; none where another server wrote it; None where it is this server's and not well formed.

    RFC 8601, 2.2. Whatever stands in comments and quoted strings, which repeat what senders say, is no result.
    """
    text = _without_comments(value)
    if text is None or len(value) > FIELD_BYTES or not text.replace("\t", " ").isprintable():
        return None
    head = _SERVER.match(text)
    if not head or _unquoted(head[1]).lower() != server.lower():
        return []
    at, results = head.end(), []
    while at < len(text):
        at += 1  # the semicolon
        if none := _NONE.match(text, at):
            at = none.end()
            continue
        result: Result | None = None
        while pair := _PAIR.match(text, at):
            key, said, at = pair[1].lower(), _unquoted(pair[2]), pair.end()
            if result is None:
                method, _, version = key.partition("/")
                if version not in ("", "1"):
                    return None
                result = Result(method, said.lower())
            elif result.properties.setdefault(key, said) != said:
                return None  # twice, and not the same
        following = _NEXT.match(text, at)
        if not following:
            return None
        at = following.start(1)
        results += [result] if result else []
    return results or [Result("", "none")]


def _unquoted(value: str) -> str:
    return re.sub(r'\\(.)|"', r"\1", value)


def _without_comments(text: str) -> str | None:
    """The text with a space for each comment (RFC 5322, 3.2.2); None where comments or quotes do not close."""
    kept, depth, quoted = [], 0, False
    for token in re.findall(r'\\.|[()"\\]|[^()"\\]++', text, re.DOTALL):
        if token == '"' and not depth:
            quoted = not quoted
        elif token == "(" and not quoted:
            kept += [" "] if not depth else []
            depth += 1
            if depth > DEPTH:
                return None
            continue
        elif token == ")" and not quoted:
            depth -= 1
            if depth < 0:
                return None
            continue
        kept += [] if depth else [token]
    return None if depth or quoted else "".join(kept)
