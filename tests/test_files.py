"""files.py: every message behind the paths a person names, in order, and a reason for each that cannot be read."""

import io
import os
from pathlib import Path

import pytest

from mailtagger.files import Source, read

ONE = b"Subject: one\n\nfirst\n"
TWO = b"Subject: two\n\nsecond\n\nFrom here on it is text, and it rained until 2026\n"
POSTMARK = b"From alice@example.org Mon Nov 16 11:20:02 2026\n"


def test_file_is_one_message_byte_for_byte(tmp_path: Path) -> None:
    """A file without a postmark line is one message, whatever its name."""
    path = tmp_path / "a.eml"
    path.write_bytes(b"Subject: x\r\n\r\n\x00\xff")
    assert list(read([str(path)])) == [Source(str(path), b"Subject: x\r\n\r\n\x00\xff")]


def test_mbox_is_split_at_postmarks_only(tmp_path: Path) -> None:
    """A sentence that begins with "From " stays in its message; each message is named by its number."""
    path = tmp_path / "box"
    path.write_bytes(POSTMARK + ONE + b"\n" + POSTMARK + TWO + b"\n" + POSTMARK + ONE)
    assert list(read([str(path)])) == [
        Source(f"{path}#1", ONE), Source(f"{path}#2", TWO), Source(f"{path}#3", ONE)
    ]


def test_quoted_from_lines_lose_one_quote(tmp_path: Path) -> None:
    """The `>From ` quoting that an mbox adds is taken off again."""
    path = tmp_path / "box"
    path.write_bytes(POSTMARK + b"Subject: x\n\n>From the start\n>>From further up\n> From mail\n")
    assert next(iter(read([str(path)]))).raw == b"Subject: x\n\nFrom the start\n>From further up\n> From mail\n"


def test_single_message_with_a_postmark_keeps_its_plain_path(tmp_path: Path) -> None:
    """Public corpora keep one message with its postmark per file: the path is the file's own."""
    path = tmp_path / "0001.txt"
    path.write_bytes(POSTMARK + ONE)
    assert list(read([str(path)])) == [Source(str(path), ONE)]


def test_maildir_gives_new_and_cur_and_not_tmp_nor_index_files(tmp_path: Path) -> None:
    """Of a Maildir only delivered messages count; its subfolders follow."""
    for name in ("cur", "new", "tmp", ".Junk/cur", ".Junk/new"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cur/2:2,S", "new/1", "tmp/half", ".Junk/cur/3:2,", "dovecot-uidlist"):
        (tmp_path / name).write_bytes(ONE)
    found = [str(Path(source.path).relative_to(tmp_path)) for source in read([str(tmp_path)])]
    assert found == [".Junk/cur/3:2,", "cur/2:2,S", "new/1"]


def test_unreadable_files_are_errors_and_the_others_are_read(tmp_path: Path) -> None:
    """A missing file, a broken link and a directory without rights each give a reason; nothing stops the rest."""
    (tmp_path / "a.eml").write_bytes(ONE)
    (tmp_path / "b.eml").symlink_to(tmp_path / "nowhere")
    sources = list(read([str(tmp_path / "missing.eml"), str(tmp_path), "nul\0name"]))
    assert [bool(source.error) for source in sources] == [True, False, True, True]
    assert sources[0].error == os.strerror(2)


def test_fifo_in_a_directory_is_passed_by(tmp_path: Path) -> None:
    """A FIFO would be waited on for ever."""
    os.mkfifo(tmp_path / "pipe")
    assert list(read([str(tmp_path)])) == []


def test_link_to_a_directory_above_does_not_loop(tmp_path: Path) -> None:
    """Links to directories are not followed."""
    (tmp_path / "a.eml").write_bytes(ONE)
    (tmp_path / "up").symlink_to(tmp_path)
    assert len(list(read([str(tmp_path)]))) == 1


def test_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads one message, or an mbox, from standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ONE)))
    assert list(read(["-"])) == [Source("-", ONE)]
