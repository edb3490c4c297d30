"""The labelled corpora, each document cleaned the way live mail is; archives are read in place, nothing is unpacked.

They are not part of the project: $MAILTAGGER_CORPORA names a directory with the files that README.md describes.
"""

import csv
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from mailtagger.clean import clean, clean_text
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse, printable

Label = Literal["ham", "spam"]

ENRON, ENRON_CSV, ENRON_SPLIT = "enron_spam_data.zip", "enron_spam_data.csv", "enron_split.csv"
COLUMNS = ("Message ID", "Subject", "Message", "Spam/Ham", "Date")
PUBLISHED = 33_716  # rows
MORE = "…"  # the column of what a row has beyond its own
MANIFEST = "MANIFEST.csv"
SPLIT_WAY = f"training/README.md describes it; without it, {ENRON} is split anew."
_OWN = f"Pack mail of your own with a {MANIFEST} (file, label, kind, source); training/README.md describes it."
WAY = {  # file → how to get it
    ENRON: "Get it from https://github.com/MWiechmann/enron_spam_data, or by `python -m training.prepare --download`.",
    "spamassassin.tar.gz": "Pack the archives of https://spamassassin.apache.org/old/publiccorpus/ as ham/easy/, "
    "ham/hard/ and spam/, one raw message a file.",
    "phishing_to_2024.tar.gz": "Pack https://github.com/rf-peixoto/phishing_pot as phishing/YEAR/, one message a file.",
    "modern_ham_a.tar.gz": _OWN,
    "modern_ham_c.tar.gz": _OWN,
    "modern_spam_a.tar.gz": _OWN,
}
MADE_ENVELOPE = re.compile("modern/(?:wrapped|text)-")  # made for the text, so that its header tells nothing
_WRITERS = {
    "List-Id": r"<([^<>\s]+)>",
    "Mailing-List": r"list ([^\s;]+)",
    "X-Mailing-List": r"<([^<>\s]+)>",
    "From": r"@([^\s<>]+)",
}
_ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8
NAMES = ("enron", "spamassassin", "phishing", "modern_ham_a", "modern_ham_c", "modern_spam_a")


@dataclass(frozen=True)
class Document:
    """One mail."""

    corpus: str  # one of NAMES; own: added by the user
    source: str  # enron/3, spamassassin/hard/lockergnome.com, phishing/2023, modern/receipt/spree, own/Maildir
    key: str  # unique over all corpora
    label: Label | None  # None: nobody said, so that language models alone read it
    text: str  # cleaned
    missing: tuple[str, ...] = ()  # of "subject", "message": those that are blank

    @property
    def family(self) -> str:
        """What `foreign` leaves out in one piece: enron, spamassassin, phishing or modern; own."""
        return self.source.partition("/")[0]

    @property
    def is_spam(self) -> bool:
        return self.label == "spam"


@dataclass(frozen=True)
class Raw:
    """A document before cleaning: raw mail, or the subject and message that a table has of it."""

    corpus: str
    source: str
    key: str
    label: Label | None
    content: bytes | tuple[str, str]
    date: str = ""  # of a table's row; raw mail has its own
    part: str = ""  # train or test, where whoever made the corpus has said so


def home() -> Path:
    """The directory that $MAILTAGGER_CORPORA names."""
    named = os.environ.get("MAILTAGGER_CORPORA")
    if not named:
        raise MailtaggerError(
            "The corpora are not part of mailtagger, and $MAILTAGGER_CORPORA is not set.",
            "Set it to a directory with the files that training/README.md lists.",
        )
    return Path(named)


def read(name: str, root: Path, broken: list[str] | None = None) -> Iterator[Document]:
    """The documents of one corpus, in its own order; what cannot be used is named in `broken`."""
    return map(cleaned, raws(name, root, broken))


def cleaned(raw: Raw) -> Document:
    """The document in the one form that every corpus and live mail have."""
    if isinstance(raw.content, bytes):
        mail = parse(raw.content)
        subject, message = mail.subject, mail.body
        text = clean_text(subject, message) if MADE_ENVELOPE.match(raw.source) else clean(mail)
    else:
        subject, message = map(printable, raw.content)
        text = clean_text(subject, message)
    parts = {"subject": subject, "message": message}
    return Document(
        raw.corpus, raw.source, raw.key, raw.label, text, tuple(part for part in parts if not parts[part].strip())
    )


def raws(name: str, root: Path, broken: list[str] | None = None) -> Iterator[Raw]:
    """As `read`, before cleaning."""
    broken = [] if broken is None else broken
    match name:
        case "enron":
            return _enron(root, broken)
        case "spamassassin":
            return _spamassassin(root, broken)
        case "phishing":
            return _phishing(root)
        case "modern_ham_a" | "modern_ham_c" | "modern_spam_a":
            return _modern(name, root, broken)
    raise MailtaggerError(f"There is no corpus {name!r}.", f"Known: {', '.join(NAMES)}.")


@dataclass(frozen=True)
class EnronSplit:
    """A row of enron_split.csv."""

    mailbox: str
    near_group: str
    random: str
    dedup: str


def enron_split(root: Path) -> dict[str, EnronSplit]:
    """The mailbox, near-duplicate group and splits of each Enron key; nothing where enron_split.csv is not there."""
    path = root / ENRON_SPLIT
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                f"enron/{row['Message ID']}": EnronSplit(row["mailbox"], row["near_group"], row["random"], row["dedup"])
                for row in csv.DictReader(file)
            }
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise MailtaggerError(f"{path} cannot be read ({type(error).__name__}: {error}).", SPLIT_WAY) from error


def enron_table(root: Path) -> Iterator[dict[str, str]]:
    """The rows of Enron-Spam as published: `Message ID, Subject, Message, Spam/Ham, Date`; broken ones, too."""
    csv.field_size_limit(1 << 30)
    path = _found(root, ENRON)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(ENRON_CSV) as file:
            lines = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")  # one bad row is not all of them
            table = csv.DictReader(lines, restkey=MORE, restval="")
            if absent := {*COLUMNS} - {*(table.fieldnames or ())}:
                raise KeyError(f"no column {', '.join(sorted(absent))}")
            yield from table
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, csv.Error) as error:
        raise _unreadable(path, error) from error


def enron_counts(root: Path) -> str:
    """What stands in the file of Enron-Spam, before anything is left out."""
    counts: Counter[str] = Counter()
    for row in enron_table(root):
        counts.update(("rows", row["Spam/Ham"], *(column for column in ("Subject", "Message") if not row[column])))
    return (
        f"Enron-Spam: {counts['rows']:,} rows in the file ({PUBLISHED:,} as published), ham {counts['ham']:,}, "
        f"spam {counts['spam']:,}; Subject missing {counts['Subject']:,}, Message missing {counts['Message']:,}."
    )


def _enron(root: Path, broken: list[str]) -> Iterator[Raw]:
    split = enron_split(root)
    mailbox, before = 1, "ham"  # the six follow one another, each its ham before its spam
    for row in enron_table(root):
        key = f"enron/{row['Message ID']}".encode("utf-8", "backslashreplace").decode()
        label, subject, message = row["Spam/Ham"], row["Subject"], row["Message"]
        mailbox += (before, label) == ("spam", "ham")
        before = label if label in ("ham", "spam") else before
        if label not in ("ham", "spam"):
            broken.append(f"{key}: its label is {label!r}")
        elif MORE in row:
            broken.append(f"{key}: it has more columns than the table")
        elif _ESCAPED.search(subject + message):
            broken.append(f"{key}: it is no UTF-8")
        elif split and key not in split:
            broken.append(f"{key}: {ENRON_SPLIT} does not know it")
        elif not subject.strip() and not message.strip():
            broken.append(f"{key}: neither subject nor message")
        else:
            source = f"enron/{split[key].mailbox if split else mailbox}"
            yield Raw("enron", source, key, cast(Label, label), (subject, message), row["Date"])


def _spamassassin(root: Path, broken: list[str]) -> Iterator[Raw]:
    for member, content in _members(root, "spamassassin.tar.gz"):
        label, *kind = PurePosixPath(member).parts[:2]
        if label in ("ham", "spam"):
            source = f"spamassassin/{kind[0]}/{_writer(content)}" if label == "ham" else "spamassassin/spam"
            yield Raw("spamassassin", source, f"spamassassin/{member}", cast(Label, label), content)
        else:
            broken.append(f"spamassassin/{member}: it stands neither in ham/ nor in spam/")


def _writer(content: bytes) -> str:
    """The list that a mail came by, or the domain that it is from: SpamAssassin's good mail is that of many."""
    head = BytesHeaderParser().parsebytes(re.sub(rb"\AFrom [^\n]*\n", b"", content))
    for name, pattern in _WRITERS.items():
        if found := re.search(pattern, str(head.get(name, ""))):
            return re.sub("[^a-z0-9.@-]", "-", found[1].lower())
    return "unknown"


def _phishing(root: Path) -> Iterator[Raw]:
    for member, content in _members(root, "phishing_to_2024.tar.gz"):
        year = PurePosixPath(member).parts[-2]
        yield Raw("phishing", f"phishing/{year}", f"phishing/{member}", "spam", content)


def _modern(name: str, root: Path, broken: list[str]) -> Iterator[Raw]:
    archive = f"{name}.tar.gz"
    manifest = _manifest(root, archive)
    for member, content in _members(root, archive):
        if member == MANIFEST:
            continue
        row = manifest.pop(member, None)
        if row is None:
            broken.append(f"{name}/{member}: {MANIFEST} does not know it")
        elif row["label"] not in ("ham", "spam"):
            broken.append(f"{name}/{member}: its label is {row['label']!r}")
        else:
            source = f"modern/{row['kind']}/{row['source'].replace('/', '-')}"
            yield Raw(name, source, f"{name}/{member}", cast(Label, row["label"]), content)
    broken.extend(f"{name}/{member}: {MANIFEST} lists it, the archive has no such file" for member in manifest)


def _manifest(root: Path, archive: str) -> dict[str, dict[str, str]]:
    for member, content in _members(root, archive):
        if member == MANIFEST:
            table = csv.DictReader(io.StringIO(content.decode("utf-8", "replace"), newline=""), restval="")
            if {"file", "label", "kind", "source"} <= {*(table.fieldnames or ())}:
                return {row["file"]: row for row in table}
    raise MailtaggerError(f"{root / archive} has no {MANIFEST}, or one without its columns.", WAY[archive])


def _members(root: Path, archive: str) -> Iterator[tuple[str, bytes]]:
    """The regular files of a tar archive, names without a leading ./, in the order of the archive."""
    path = _found(root, archive)
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    yield member.name.removeprefix("./"), file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _found(root: Path, name: str) -> Path:
    path = root / name
    if not path.is_file():
        raise MailtaggerError(f"The corpus file {path} is not there.", f"{WAY[name]} --corpora does without.")
    return path


def _unreadable(path: Path, error: Exception) -> MailtaggerError:
    reason = f"{path} cannot be read to its end ({type(error).__name__}: {error})."
    return MailtaggerError(reason, f"Remove it. {WAY[path.name]}")
