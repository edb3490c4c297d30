"""imap_syntax.py: the grammar that is written and read, on answers as servers send them and as they should not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtagger.imap_syntax import (
    CHUNK,
    Fetched,
    copied,
    fetched,
    flag_list,
    folder_name,
    listed,
    numbers,
    portions,
    printable,
    quoted,
    response_code,
    told,
    uid_set,
)


def members(text: str) -> set[int]:
    """The numbers that a `sequence-set` stands for."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition(":")
        found.update(range(int(first), int(last or first) + 1))
    return found


@given(st.sets(st.integers(1, 2**32 - 1), min_size=1, max_size=CHUNK))
def test_uid_set_stands_for_exactly_these_uids_and_fits_in_a_command(uids: set[int]) -> None:
    """No UID more or less, in at most 4 kB, however they lie."""
    assert members(uid_set(uids)) == uids
    assert len(uid_set(uids)) <= 4096


def test_neighbours_become_a_range() -> None:
    assert uid_set([9, 4, 6, 5, 7, 4]) == "4:7,9"


def test_portions_keep_the_order_and_lose_nothing() -> None:
    """In the order given, each once; no portion of none."""
    uids = list(range(1000, 0, -1))
    found = list(portions([*uids, 5, 6]))
    assert [uid for portion in found for uid in portion] == uids
    assert [len(portion) for portion in found] == [CHUNK, CHUNK, 1000 - 2 * CHUNK]
    assert list(portions([])) == []


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_folder_name_is_one_line_of_ascii_and_comes_back(name: str) -> None:
    """A line end in a name cannot end the command."""
    sent = folder_name(name)
    assert sent.isascii() and sent.isprintable()
    ((_, _, back),) = listed([b'(\\HasNoChildren) "/" ' + sent.encode()])
    assert back == name


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([b'(\\HasNoChildren \\Junk) "/" Junk'], ({"\\HasNoChildren", "\\Junk"}, "/", "Junk")),
        ([b'() "." "INBOX.a b"'], (set(), ".", "INBOX.a b")),
        ([b'() NIL a[b'], (set(), "", "a[b")),
        ([b'() "\\\\" "q\\"\\\\"'], (set(), "\\", 'q"\\')),
        ([b'() "/" "Gr&APYA3w-e &- Ma&AN8-"'], (set(), "/", "Größe & Maß")),
        ([(b'() "/" {8}', b'a "(b)\\ c'), b""], (set(), "/", 'a "(b)\\ c')),
        ([b'() "/" "A & B"'], (set(), "/", "A & B")),
        (['() "/" Größe'.encode()], (set(), "/", "Größe")),
        ([b'() "/" 123'], (set(), "/", "123")),
    ],
)
def test_list_responses(entries: list[bytes | tuple[bytes, bytes]], expected: tuple[set[str], str, str]) -> None:
    """Atoms, quoted strings, literals; modified UTF-7, and what servers send instead of it."""
    attributes, delimiter, name = expected
    assert listed(entries) == [(frozenset(attributes), delimiter, name)]


def test_list_without_folders() -> None:
    """imaplib gives [None] for no response at all."""
    assert listed([None]) == []


def test_fetch_responses_in_any_order_and_form() -> None:
    """The body as a literal or a quoted string, before or behind the rest; NIL is a body that is gone."""
    assert fetched([
        (b"1 (UID 5 FLAGS (\\Seen $Junk) RFC822.SIZE 5 BODY[] {5}", b"UID 7"), b")",
        (b"2 (BODY[]<0> {3}", b"a)b"), b" RFC822.SIZE 9 FLAGS () UID 6)",
        b'3 (UID 8 BODY[] "say \\"UID 9\\" (FLAGS (x))" FLAGS ([odd))',
        b"4 (UID 10 BODY[] NIL FLAGS ())",
        b"5 (uid 11 flags (\\Deleted) modseq (12))",
    ]) == {
        5: Fetched(frozenset({"\\Seen", "$Junk"}), 5, b"UID 7"),
        6: Fetched(frozenset(), 9, b"a)b"),
        8: Fetched(frozenset({"[odd"}), None, b'say "UID 9" (FLAGS (x))'),
        10: Fetched(frozenset(), None, None),
        11: Fetched(frozenset({"\\Deleted"}), None, None),
    }


def test_unsolicited_fetch_is_no_answer() -> None:
    """`* 3 FETCH (FLAGS …)` is about the third message, not about UID 3; later news of a UID is added to it."""
    assert fetched([
        (b"1 (UID 3 FLAGS () BODY[] {1}", b"x"), b")",
        b"1 (UID 3 FLAGS (\\Seen))",
        b"3 (FLAGS (\\Deleted))",
    ]) == {3: Fetched(frozenset({"\\Seen"}), None, b"x")}


def test_section_that_was_asked_for_is_the_body() -> None:
    """One section is asked for at a time; its name may have words and parentheses."""
    header = b"Subject: UID 9\r\n\r\n"
    assert fetched([(b"1 (FLAGS () BODY[HEADER.FIELDS (SUBJECT)] {18}", header), b" UID 3)"]) == {
        3: Fetched(frozenset(), None, header)
    }


@given(st.lists(st.binary(max_size=40) | st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=6))
def test_nothing_a_server_says_raises(entries: list[bytes | tuple[bytes, bytes]]) -> None:
    """Garbage is not understood, and that is all."""
    fetched(entries)
    listed(entries)
    numbers(entries)
    copied(entries)


def test_copyuid_pairs_belong_together_by_place() -> None:
    """RFC 4315, 3: sets and ranges, in several responses; what is malformed proves nothing."""
    assert copied([b"38505 304,319:320 3956:3958", b"38505 7 9"]) == {304: 3956, 319: 3957, 320: 3958, 7: 9}
    assert copied([b"38505 304", b"", b"1 x y"]) == {}


def test_text_behind_a_response_code_may_have_brackets() -> None:
    """imaplib takes all up to the last one for the code."""
    assert copied([b"38505 304 3956] Moved [it"]) == {304: 3956}
    assert told([b"[UIDVALIDITY 7] valid [x]", b"[PERMANENTFLAGS (a] \\*)] limited", b"[ALERT] 5", b"ready", None]) == {
        "UIDVALIDITY": "7", "PERMANENTFLAGS": "(a] \\*)",
    }


def test_copyuid_of_four_thousand_million_is_cut() -> None:
    """A range is text of a stranger: it is not expanded to more than was asked for."""
    assert len(copied([b"1 1:4294967295 1:4294967295"])) == CHUNK


def test_search_may_answer_in_several_lines() -> None:
    assert numbers([b"1 2", b"", b"3", None]) == [1, 2, 3]


def test_flag_list_takes_atoms_only() -> None:
    """System flags and keywords; nothing that could be read as more than one."""
    assert flag_list(["\\Flagged", "$Junk"]) == "(\\Flagged $Junk)"
    for wrong in ("a b", "a)", "", "\\", "x\r\n", "ü", "a]"):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            flag_list([wrong])


def test_response_codes() -> None:
    assert response_code("[OVERQUOTA] Quota exceeded") == "OVERQUOTA"
    assert response_code("MOVE failed: [NoPerm] no") == "NOPERM"
    assert response_code("nothing [here]") == "HERE"
    assert response_code("no") == ""


def test_words_of_a_server_stay_on_one_line() -> None:
    """No terminal escape and no line end reaches a log."""
    assert printable(b"a\x1b[31m\r\nb\xff ") == "a?[31m??b\ufffd"


def test_quoted_strings() -> None:
    assert quoted('a "b" \\c') == '"a \\"b\\" \\\\c"'
