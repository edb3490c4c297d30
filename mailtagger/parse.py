"""Raw bytes to Mail: subject, visible text and what the structure tells; never raises on ugly mail.

Bounds, so that a message takes milliseconds whatever it holds: headers cut to 10 kB each before decoding, at most
100 parts, 20 levels, 1 MB of text. What was cut or broken is recorded in `Mail.notes`.
"""

import email
import email.message
import email.policy
import hashlib
import re
from dataclasses import dataclass
from email.header import decode_header
from email.utils import getaddresses
from itertools import islice
from urllib.parse import urlsplit

import chardet
from selectolax.lexbor import LexborHTMLParser, LexborNode

HEADER_LIMIT = 10_000
PART_LIMIT = 100
DEPTH_LIMIT = 20
TEXT_LIMIT = 1_000_000
HTML_DEPTH_LIMIT = 1_000
LINK_LIMIT = 200  # links whose hosts are looked at, in each part
PARAMETERS_LIMIT = 4_000  # bytes of a Content-Type: the standard library's time grows with their square
SHORT = 200  # characters: a body so short may only point at what is attached, so attached text is read as well
RAW_LIMIT = 4_000_000  # beyond this the standard library's parser alone takes over a second

_BLOCKS = frozenset(
    "address article aside blockquote br dd div dl dt fieldset footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol "
    "p pre section table tbody td tfoot th thead tr ul".split()
)
_SILENT = frozenset(("script", "style", "head", "title", "template", "noscript", "object", "svg"))
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0*(?:\.0+)?(?:px|pt|em|%)?\s*(?:;|!|$)|opacity\s*:\s*0(?:\.0+)?\s*(?:;|!|$)"
    r"|mso-hide\s*:\s*all|max-height\s*:\s*0(?:px)?\s*(?:;|!|$)",
    re.I,
)
_COLOUR = re.compile(r"(?<![-\w])color\s*:\s*([#\w(),. ]+?)\s*(?:;|!|$)", re.I)
_GROUND = re.compile(r"background(?:-color)?\s*:\s*([#\w(),. ]+?)\s*(?:;|!|$)", re.I)
_HOST = re.compile(r"^\s*(?:https?://)?((?:[\w-]+\.)+[a-z]{2,24})(?:[/:?#]\S*)?\s*$", re.I)
_NESTING = re.compile(
    r"<(/?)(?!(?:p|li|tr|td|th|dt|dd|option|br|img|hr|meta|link|input|col|area|base|wbr|source)\b)[a-z]", re.I
)
_TAG = re.compile(
    r"</?(?:a|b|body|br|center|div|font|html|i|img|p|span|strong|table|td|tr)(?:\s[^<>]{0,500})?/?>", re.I
)
_NESTS = (  # what opens a level, how often it may, and what is put in its place from then on
    (re.compile(rb"boundary(\s*=)", re.I), 3 * DEPTH_LIMIT, rb"x-bound\1"),
    (re.compile(rb"(?<![^\r\n])(content-type\s*:\s*)message/", re.I), PART_LIMIT, rb"\1x-message/"),
)
_PARAMETERS = re.compile(
    rb"(?<![^\r\n])content-(?:type|disposition)[ \t]*:(?:[^\r\n]++|(?:\r\n|\r|\n)[ \t])*+", re.I
)
_LINK = re.compile(r"\bhttps?://[^\s<>\"']{1,300}", re.I)
_FOLD = re.compile(r"\r?\n[ \t]+")
_EXTENSION = re.compile(r"\.([a-z0-9]{1,5})\s*$", re.I)


@dataclass(frozen=True)
class Mail:
    """What one message says: decoded subject and visible text, and the facts of its structure."""

    subject: str = ""
    body: str = ""
    sender: str = ""  # address of From, lower case
    reply_to: str = ""  # address of Reply-To, lower case
    message_id: str = ""  # without the angle brackets
    attachments: tuple[str, ...] = ()  # extensions, lower case
    html_only: bool = False
    hidden: bool = False  # some HTML text was made invisible
    mismatch: bool = False  # a link shows one host and leads to another
    named: bool = True  # From says a name beside the address
    recipient: str = ""  # address of To, the first, lower case; "" where it names nobody
    hosts: tuple[str, ...] = ()  # that links lead to, each once, lower case
    pictures: bool = False  # some are fetched from elsewhere
    notes: tuple[str, ...] = ()


def parse(raw: bytes) -> Mail:
    """Return the Mail of a raw message (RFC 5322), whatever its state."""
    notes: list[str] = []
    if not raw.strip():
        return Mail(notes=("empty",))
    if len(raw) > RAW_LIMIT:
        raw = raw[:RAW_LIMIT]
        notes.append("cut to 4 MB")
    raw = _without_envelope(raw)
    try:
        message = email.message_from_bytes(_flattened(raw, notes), policy=email.policy.compat32)
        parts = _parts(message, notes)
    except (RecursionError, ValueError, LookupError, AttributeError, TypeError, IndexError) as error:
        notes.append(f"broken MIME ({type(error).__name__})")  # all six were seen from the standard library
        return Mail(body=_decode(raw[:TEXT_LIMIT], None, notes), notes=tuple(notes))
    plain: list[str] = []
    html: list[str] = []
    attached: list[tuple[email.message.Message, bool]] = []  # what may be read where the body is short
    attachments: list[str] = []
    size = 0

    def text_of(part: email.message.Message) -> str:
        nonlocal size
        data = _payload(part, notes)
        if size + len(data) > TEXT_LIMIT:
            data = data[: max(0, TEXT_LIMIT - size)]
            notes.append("text cut to 1 MB")
        size += len(data)
        return _decode(data, _charset(part), notes)

    for part in parts:
        kind, extension = _kind(part)
        if extension:
            attachments.append(extension)
            if kind in ("text/plain", "text/html") or extension in ("txt", "htm", "html"):
                attached.append((part, kind == "text/html" or extension in ("htm", "html")))
        elif kind in ("text/plain", "text/html"):
            text = text_of(part)
            if text.strip():
                (html if kind == "text/html" or _looks_html(text) else plain).append(text)
    pages = [_page(source) for source in html]
    body = "\n".join(plain) if plain else "\n".join(page.text for page in pages)
    links = [link for page in pages for link in page.links]
    links += [found[0] for text in plain for found in islice(_LINK.finditer(text), LINK_LIMIT)]
    if len(body) < SHORT:
        for part, of_html in attached:
            text = text_of(part)
            body += "\n" + (_page(text).text if of_html or _looks_html(text) else text)
    subject = _header(message, "Subject", notes)
    name, sender = _address(message, "From", notes)
    if not body.strip() and not subject.strip():
        notes.append("no text")
    return Mail(
        subject=subject,
        body=body,
        sender=sender,
        named=bool(name) or not sender,
        recipient=_address(message, "To", notes)[1],
        reply_to=_address(message, "Reply-To", notes)[1],
        message_id=_message_id(message),
        attachments=tuple(attachments),
        html_only=bool(html) and not plain,
        hidden=any(page.hidden for page in pages),
        mismatch=any(page.mismatch for page in pages),
        hosts=tuple(dict.fromkeys(host for link in links if (host := _host(link)))),
        pictures=any(page.pictures for page in pages),
        notes=tuple(dict.fromkeys(notes)),
    )


def identify(raw: bytes) -> str:
    """Return the ident of a message: sha256 hex of its canonical identity headers and its body.

    Line ends and trailing blank lines do not count, nor do headers that servers add on the way (Received, X-…).
    """
    head, _, body = _without_envelope(raw).replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n\n")
    head = re.sub(rb"\n[ \t]+", b" ", head)
    kept = []
    for line in head.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"message-id", b"date", b"from", b"to", b"subject"):
            kept.append(name.strip().lower() + b":" + b" ".join(value.split()))
    body = body.rstrip(b"\n")
    if not kept and not body:
        body = head.rstrip(b"\n")  # or all messages of unknown headers alone would be the same one
    digest = hashlib.sha256(b"\n".join(sorted(kept)) + b"\n\n" + body)
    return digest.hexdigest()


def printable(text: str) -> str:
    """Return text without NUL, escapes and lone surrogates, which neither logs nor SQLite take."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", " ", text)


def _without_envelope(raw: bytes) -> bytes:
    """Drop an mbox `From ` line and blank lines before the headers."""
    raw = raw.lstrip(b"\r\n")
    if raw.startswith((b"From ", b">From ")):
        raw = raw.partition(b"\n")[2]
    return raw


def _flattened(raw: bytes, notes: list[str]) -> bytes:
    """Return raw without what the standard library's parser takes seconds for, or a RecursionError.

    It recurses once a level and scans each line against all open boundaries: beyond the limit none is declared.
    """
    short = _PARAMETERS.sub(lambda field: field[0][:PARAMETERS_LIMIT], raw)
    if len(short) < len(raw):
        raw = short
        notes.append("header cut")
    for declares, limit, instead in _NESTS:
        declared = [m.start() for m in declares.finditer(raw)]
        if len(declared) > limit:
            notes.append("too many nested parts")
            raw = raw[: declared[limit]] + declares.sub(instead, raw[declared[limit] :])
    return raw


def _parts(message: email.message.Message, notes: list[str]) -> list[email.message.Message]:
    """Return the leaves in order, within the limits of parts and depth."""
    leaves: list[email.message.Message] = []
    stack: list[tuple[email.message.Message, int]] = [(message, 0)]
    while stack:
        part, depth = stack.pop()
        children = part.get_payload() if part.is_multipart() else None
        if not isinstance(children, list):
            leaves.append(part)
        elif depth >= DEPTH_LIMIT:
            notes.append("nested too deep")
        else:
            stack.extend(
                (child, depth + 1)
                for child in reversed(children[:PART_LIMIT])
                if isinstance(child, email.message.Message)
            )
            if len(children) > PART_LIMIT:
                notes.append("too many parts")
        if len(leaves) >= PART_LIMIT:
            if stack:
                notes.append("too many parts")
            break
    if any(part.defects for part in leaves) or message.defects:
        notes.append("broken MIME")
    return leaves


def _raw_header(message: email.message.Message, name: str) -> str:
    """Return the header as it stands, with 8-bit bytes decoded as UTF-8 or Latin-1 (RFC 6532), cut to the limit."""
    wanted = name.lower()
    for key, value in message.raw_items():
        if key.lower() == wanted:
            data = str(value)[:HEADER_LIMIT].encode("utf-8", "surrogateescape")
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError:
                return data.decode("latin-1")
    return ""


def _header(message: email.message.Message, name: str, notes: list[str]) -> str:
    """Return a header with its encoded words (RFC 2047) decoded, on one line."""
    return _decoded(_raw_header(message, name), name, notes)


def _decoded(value: str, name: str, notes: list[str]) -> str:
    if "=?" in value:
        try:
            value = "".join(
                piece if isinstance(piece, str) else _decode(piece, charset, notes)
                for piece, charset in decode_header(_FOLD.sub(" ", value))
            )
        except (ValueError, LookupError, email.errors.HeaderParseError):
            notes.append(f"broken {name}")
    return " ".join(printable(value).split())


def _address(message: email.message.Message, name: str, notes: list[str]) -> tuple[str, str]:
    """Return (name, address in lower case) of the first address that a header has, or two times "".

    Encoded words are decoded after the header was taken apart: there may be commas in them (RFC 2047 §6.2).
    """
    value = " ".join(printable(_FOLD.sub(" ", _raw_header(message, name)[:1000])).split())
    try:
        found = next(((whose, address) for whose, address in getaddresses([value]) if "@" in address), ("", ""))
    except (ValueError, IndexError):
        notes.append(f"broken {name}")
        return "", ""
    return _decoded(found[0], name, notes).strip(), found[1].lower()


def _message_id(message: email.message.Message) -> str:
    value = printable(_raw_header(message, "Message-ID"))
    found = re.search(r"<\s*([^<>\s]{1,900})\s*>", value)
    return found.group(1) if found else next(iter(value.split()), "")[:900]


def _kind(part: email.message.Message) -> tuple[str, str]:
    """Return (content type, extension where the part is an attachment)."""
    try:
        kind = part.get_content_type()
        name = str(part.get_filename() or "")[:300]
        disposition = (part.get_content_disposition() or "").lower()
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeError):
        return "application/octet-stream", "bin"  # a parameter the library cannot read
    if kind in ("text/plain", "text/html") and disposition != "attachment":
        return kind, ""
    if kind.startswith("multipart/") or (kind.startswith("message/") and not name):
        return "text/plain" if kind.startswith("multipart/") else kind, ""
    found = _EXTENSION.search(name)
    subtype = re.sub(r"[^a-z0-9]", "", kind.partition("/")[2].lower())[:5]
    return kind, found.group(1).lower() if found else subtype or "bin"


def _payload(part: email.message.Message, notes: list[str]) -> bytes:
    try:
        data = part.get_payload(decode=True)
    except (ValueError, LookupError, TypeError, AssertionError, UnicodeError):
        notes.append("broken transfer encoding")
        data = None
    if isinstance(data, bytes):
        return data
    text = part.get_payload()
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else b""


def _charset(part: email.message.Message) -> str | None:
    try:
        charset = part.get_content_charset()
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeError):
        return None
    return charset


def _decode(data: bytes, charset: str | None, notes: list[str]) -> str:
    """Decode by the declared charset, then UTF-8, then a detector, then Latin-1, which never fails."""
    for name in (charset, "utf-8"):
        if name is None or (name == "us-ascii" and not data.isascii()):
            continue
        try:
            return printable(data.decode(name))
        except (UnicodeError, LookupError, ValueError):
            if name == charset:
                notes.append("wrong charset")
    detected = chardet.detect(data[:4000]).get("encoding")
    try:
        return printable(data.decode(detected or "latin-1", "replace"))
    except (LookupError, ValueError):
        return printable(data.decode("latin-1"))


def _looks_html(text: str) -> bool:
    """Tell whether text declared as plain is HTML in truth, as in much spam."""
    begins = re.match(r"\s*(?:<!doctype html|<html|<body|<table|<div|<center)\b", text[:500], re.I)
    return bool(begins) or len(_TAG.findall(text[:20_000])) >= 5


@dataclass(frozen=True)
class _Page:
    """What an HTML document shows, and does not show."""

    text: str = ""  # what is visible
    hidden: bool = False  # some was not
    mismatch: bool = False  # a link lies about its host
    links: tuple[str, ...] = ()  # their targets
    pictures: bool = False  # some are fetched from elsewhere


def _page(source: str) -> _Page:
    """Return what an HTML document shows; what is hidden is left out, links and pictures in it as well."""
    tree = LexborHTMLParser(_shallow(source))
    root = tree.body or tree.root
    if root is None:
        return _Page()
    hidden = mismatch = pictures = False
    pieces: list[str] = []
    links: list[str] = []
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag
        enter = True
        if tag == "-text":
            pieces.append(node.text_content or "")
        elif tag in _SILENT:
            enter = False
        elif tag is not None and not tag.startswith("-"):
            if _is_hidden(node):
                hidden |= bool((node.text(deep=True) or "").strip())
                enter = False
            elif tag in ("a", "area"):
                mismatch |= _lies(node)
                if len(links) < LINK_LIMIT:
                    links.append(node.attributes.get("href") or "")
            elif tag == "img" and not pictures:
                pictures = _host(node.attributes.get("src") or "") != ""
            if tag in _BLOCKS:
                pieces.append("\n")
        following = node.child if enter else None
        while following is None and node is not None and node.mem_id != root.mem_id:
            following = node.next
            if node.tag in _BLOCKS:
                pieces.append("\n")
            if following is None:
                node = node.parent
        if node is None or (node.mem_id == root.mem_id and following is None):
            break
        node = following
    return _Page("".join(pieces), hidden, mismatch, tuple(links), pictures)


def _shallow(source: str) -> str:
    """Return the document up to where it is nested too deep: the parser's time grows with the square of the depth."""
    depth = 0
    for tag in _NESTING.finditer(source):
        depth += -1 if tag.group(1) else 1
        if depth > HTML_DEPTH_LIMIT:
            return source[: tag.start()]
    return source


def _is_hidden(node: LexborNode) -> bool:
    attributes = node.attributes
    if "hidden" in attributes:
        return True
    style = attributes.get("style") or ""
    if not style:
        return False
    if _HIDING.search(style):
        return True
    colour, ground = _COLOUR.search(style), _GROUND.search(style)
    return bool(colour and ground and colour.group(1).lower() == ground.group(1).lower())


def _lies(link: LexborNode) -> bool:
    """Tell whether a link's text names a host of another domain than its target."""
    shown = _HOST.match((link.text(deep=True) or "")[:300])
    if not shown:
        return False
    target = _host(link.attributes.get("href") or "")
    return bool(target) and target.split(".")[-2:] != shown.group(1).lower().split(".")[-2:]


def _host(link: str) -> str:
    """Return the host that a link leads to, in lower case; "" for what is none, as mailto: and cid: are."""
    try:
        found = urlsplit(link.strip())
        return (found.hostname or "") if found.scheme in ("http", "https", "") else ""
    except ValueError:
        return ""
