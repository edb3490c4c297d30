"""Faults 29 to 35: folders that go, are missing, are called otherwise, or are there twice."""

import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from imapclient import IMAPClient

from tests.faults.conftest import kept
from tests.faults.house import Cyrus, House, Tap
from tests.imap_server import Tool, needs_tools
from tests.running import Bench, Daemon

pytestmark = needs_tools

SOON_AGAIN = "from mailtagger import watch; watch.RETRY_WAIT = 2.0; worker.STUCK_WAIT = 2.0"


@pytest.fixture(params=["dovecot", "cyrus"])
def bare_house(request: pytest.FixtureRequest, bench: Bench) -> Iterator[House]:
    """A house on a server without a spam folder."""
    if request.param == "dovecot":
        with Tool("dovecot-up", "--no-folders") as server:
            yield from kept(server, bench)
        return
    cyrus = request.getfixturevalue("_cyrus")
    cyrus.empty()
    with cyrus.client("alice") as alice:
        delete_junk(alice)
        try:
            yield from kept(cyrus, bench)
        finally:
            cyrus.empty()  # makes Junk anew
            special(alice, "Junk", '"\\\\Junk"')


def special(alice: IMAPClient, folder: str, use: str) -> None:
    """The folder has this special use from now on (RFC 6154, 5.4), which Cyrus can be told."""
    assert patiently(lambda: alice._imap.xatom("SETMETADATA", f'"{folder}"', f"(/private/specialuse {use})")[0] == "OK")


def delete_junk(alice: IMAPClient) -> None:
    """Junk is gone; Cyrus takes away no folder with a special use."""
    [flags] = [flags for flags, _, name in alice.list_folders() if name == "Junk"]
    if alice.has_capability("METADATA") and b"\\junk" in {flag.lower() for flag in flags}:
        special(alice, "Junk", "NIL")
    assert patiently(lambda: alice._imap.delete("Junk")[0] == "OK")


def patiently(act: Callable[[], bool]) -> bool:
    """Whether an act succeeds in the end: Cyrus refuses it while another session has the folder's lock."""
    return any(act() or time.sleep(0.1) for _ in range(50))


@pytest.fixture(params=["dovecot", "cyrus"])
def prefixed_house(request: pytest.FixtureRequest, bench: Bench) -> Iterator[House]:
    """A house on a server that has all folders below INBOX and a dot between levels."""
    dotted = ("--prefix", "INBOX.", "--sep", ".")
    with Tool("dovecot-up", *dotted) if request.param == "dovecot" else Cyrus("--altoff") as server:
        yield from kept(server, bench)


def files(house: House, daemon: Daemon, folder: str = "INBOX", spam_folder: str = "Junk") -> None:
    """Spam that arrives in this folder is moved to that one."""
    [one] = house.drop(house.spam(), folder=folder)
    daemon.until(lambda: one in house.inside(spam_folder) and house.settled())


def notes(house: House) -> list[tuple[Any, ...]]:
    return house.rows("SELECT folder, kind, text FROM notes")


GOES = [pytest.param("rename", marks=pytest.mark.fault(29)), pytest.param("delete", marks=pytest.mark.fault(30))]


@pytest.mark.parametrize("how", GOES)
def test_29_30_watched_folder_goes_while_it_is_selected(house: House, how: str) -> None:
    """It is reported and looked for again, slowly; the others go on; when it is back it is watched as before."""
    user = house.user()
    user.create_folder("Lists")
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy, folders=["INBOX", "Lists"])
    daemon = house.bench.start_with(SOON_AGAIN).ready()
    files(house, daemon, "Lists")
    if how == "rename":
        house.deliver(house.ham(), folder="Lists")
        user.rename_folder("Lists", "Old lists")
        house.deliver(house.spam(), folder="Old lists")
    else:
        user.delete_folder("Lists")
    daemon.until(lambda: "has no folder Lists for alice. There are: " in daemon.log)
    files(house, daemon)
    daemon.until(lambda: len(tap.commands('^SELECT "Lists"')) >= 3)  # it is looked for again
    assert daemon.log.count("has no folder Lists") == 1
    user.create_folder("Lists")
    daemon.until(lambda: {kind for _, kind, _ in notes(house)} == {"numbering"})  # a new folder of the same name
    files(house, daemon, "Lists")
    files(house, daemon)
    assert daemon.log.count("is not followed") <= 1
    assert daemon.log.count("Traceback") == 0
    assert len(tap.commands('^SELECT "Lists"')) < 20


@pytest.mark.fault(31)
def test_31_no_spam_folder(bare_house: House) -> None:
    """Spam is marked and stays, which is said once with the names there are; once the folder is there, it is moved."""
    house = bare_house
    house.configure(house.proxy(tap=(tap := Tap())), spam_folder="Junk")
    daemon = house.bench.start_with(SOON_AGAIN).ready()
    ids = house.deliver(house.spam(), house.spam())
    daemon.until(lambda: all("MailtaggerSpam" in flags for _, _, _, flags in house.everything("INBOX")))
    sentence = "Spam is marked and stays where it is: 127.0.0.1 has no folder Junk for alice. There are: "
    daemon.until(lambda: "tried again later" in daemon.log)
    assert daemon.log.count(sentence) == 1
    assert tap.commands("^CREATE|UID (MOVE|COPY)") == []
    house.user().create_folder("Junk")
    daemon.until(lambda: house.inside("Junk") == set(ids) and house.settled())
    daemon.until(lambda: notes(house) == [])


@pytest.mark.fault(31)
def test_31_spam_folder_is_made_once(bare_house: House) -> None:
    """As configured it is created and subscribed, once, although two watched folders want it at the same moment."""
    house = bare_house
    house.user().create_folder("Lists")
    house.configure(house.proxy(tap=(tap := Tap())), create_spam_folder=True, folders=["INBOX", "Lists"])
    daemon = house.start()
    files(house, daemon, "Lists")
    files(house, daemon)
    assert "Junk" in [name for _, _, name in house.user().list_sub_folders()]
    assert daemon.log.count("created the folder Junk") == 1
    assert notes(house) == []
    assert len(tap.commands('^SUBSCRIBE "Junk"')) == 1


@pytest.mark.fault(31)
def test_31_two_make_the_spam_folder_at_the_same_moment(bare_house: House) -> None:
    """Whoever comes second takes the one that is there."""
    house = bare_house
    made = iter([True])
    proxy = house.proxy()
    proxy.rules.append(Tap('^CREATE "Junk"', lambda: next(made, False) and house.user().create_folder("Junk")))
    house.configure(proxy, create_spam_folder=True)
    daemon = house.start()
    files(house, daemon)
    assert next(made, None) is None
    assert notes(house) == []


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.fault(31)
def test_31_spam_folder_goes_while_it_runs(bare_house: House, create: bool) -> None:
    """TRYCREATE: the mail stays, marked, which is said with the way out; later it is moved, as configured."""
    house = bare_house
    user = house.user()
    user.create_folder("Junk")
    house.configure(create_spam_folder=create)
    daemon = house.bench.start_with(SOON_AGAIN).ready()
    delete_junk(user)
    [one] = house.drop(house.spam())
    daemon.until(lambda: "tried again later" in daemon.log and "Create the folder, or name another." in daemon.log)
    if not create:
        daemon.until(lambda: "Spam is marked and stays where it is" in daemon.log)
        assert house.inside("INBOX") == {one}
        user.create_folder("Junk")
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    daemon.until(lambda: notes(house) == [])


WAYS = [
    ("INBOX", None), ("Lists/python", "Junk"), ("INBOX.Lists.python", "INBOX.Junk"),
    ("INBOX/Lists/python", "INBOX/Junk"),
]


@pytest.mark.fault(32)
def test_32_prefix_and_dots(prefixed_house: House) -> None:
    """The spam folder is found by its attribute; names work with and without the prefix, with dots and slashes."""
    house = prefixed_house
    house.user().create_folder("INBOX.Lists.python")
    for folder, spam_folder in WAYS:
        house.configure(folders=[folder], spam_folder=spam_folder)
        daemon = house.start()
        files(house, daemon, "INBOX" if folder == "INBOX" else "INBOX.Lists.python", "INBOX.Junk")
        daemon.end()
        assert notes(house) == []
    assert {name for (name,) in house.rows("SELECT name FROM folders")} == {"INBOX", "INBOX.Lists.python"}


@pytest.fixture
def shared_house(bench: Bench) -> Iterator[House]:
    """A house on a Cyrus of its own, where bob lets alice into his Junk, and hers is called Spam."""
    with Cyrus() as server:
        with server.client("bob") as bob:
            bob._imap.setacl("Junk", "alice", "lrswipkxte")
        with server.client("alice") as alice:
            alice.rename_folder("Junk", "Spam")
        yield from kept(server, bench)


@pytest.mark.fault(32)
def test_32_a_folder_of_another_user(shared_house: House) -> None:
    """Spam goes to one's own spam folder, be it less usually named, and never to that of another user."""
    house = shared_house
    proxy = house.proxy(("server", "sub", r"^(\* LIST .*)\\junk(.*)", r"\1\\x-junk\2"))
    house.configure(proxy)
    daemon = house.start()
    files(house, daemon, spam_folder="Spam")
    assert "Other Users/bob/Junk" in {name for _, _, name in house.user().list_folders()}
    assert house.inside("Other Users/bob/Junk") == set()


@pytest.mark.fault(32)
def test_32_a_prefix_that_this_server_lacks(house: House) -> None:
    """Names from another server's configuration work here as well; of one that does not exist the error says which."""
    house.configure(folders=["INBOX.Archive", "INBOX", "INBOX.Nowhere"], spam_folder="INBOX.Junk")
    daemon = house.start()
    files(house, daemon)
    files(house, daemon, "Archive")
    assert "no folder INBOX.Nowhere for alice. There are: Archive, " in daemon.log


@pytest.mark.fault(33)
def test_33_special_use_in_lower_case(house: House) -> None:
    """The spam folder is found by its attribute in whatever case, be it called as it may."""
    rename = [("server", "sub", r"^(\* LIST .*)\\archive(.*)", r"\1\\x-archive\2"),
              ("server", "sub", r"^(\* LIST .*)\\junk(.*)", r"\1\\x-junk\2"),
              ("server", "sub", r"^(\* LIST .*)\\x-archive(.*)", r"\1\\jUnK\2")]  # fmt: skip
    house.configure(house.proxy(*rename))
    daemon = house.start()
    files(house, daemon, spam_folder="Archive")


@pytest.mark.quick
@pytest.mark.fault(33)
def test_33_no_special_use(house: House) -> None:
    """The spam folder is found by its usual name."""
    house.configure(house.proxy(("server", "sub", r"^(\* LIST .*)\\junk(.*)", r"\1\\x-junk\2")))
    daemon = house.start()
    files(house, daemon)
    assert notes(house) == []


@pytest.mark.fault(33)
def test_33_neither_attribute_nor_usual_name(bare_house: House) -> None:
    """It must be named: the message says so, with the setting; the mail stays, and is moved when it is."""
    house = bare_house
    house.user().create_folder("Unwanted")
    house.configure()
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: "tried again later" in daemon.log)
    assert "no folder marked \\Junk for alice. There are: " in daemon.log
    assert "`spam_folder`" in daemon.log
    daemon.end()
    assert house.where() == {one: "INBOX"}
    house.configure(spam_folder="Unwanted")
    daemon = house.start()
    daemon.until(lambda: house.inside("Unwanted") == {one} and house.settled())


@pytest.mark.quick
@pytest.mark.fault(34)
def test_34_two_folders_marked_junk(house: House) -> None:
    """The one with the usual name is taken, and the log names both and the choice; spam in the other stays there."""
    user = house.user()
    user.create_folder("Held back")
    house.configure(house.proxy(("server", "sub", r"^\* LIST \((.*Held back)", r"* LIST (\\Junk \1")))
    house.deliver(house.spam(), folder="Held back")
    daemon = house.start()
    files(house, daemon)
    line = next(line for line in daemon.log.splitlines() if "marked \\Junk" in line)
    assert "Held back" in line
    assert line.endswith("Junk is taken")
    assert len(house.inside("Held back")) == 1
    assert daemon.log.count("marked \\Junk") <= 2  # by the watcher, and by who follows what the user does
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]


@pytest.mark.fault(34)
def test_34_a_spam_folder_is_watched(house: House) -> None:
    """It is refused, with the way out, and followed: what the user takes out of it is never filed again; the others go
    on."""
    house.configure(folders=["INBOX", "Junk"])
    daemon = house.start()
    daemon.until(lambda: "Take it out of `folders`." in daemon.log)
    daemon.until(lambda: house.rows("SELECT 1 FROM followed WHERE name = 'Junk'"))
    [one] = house.deliver(house.spam(), folder="Junk")
    daemon.until(lambda: house.rows("SELECT 1 FROM sightings"))
    user = house.user()
    user.select_folder("Junk")
    user.move(user.search(), "INBOX")
    user.unselect_folder()
    daemon.until(lambda: house.rows("SELECT folder, verdict FROM messages") == [("INBOX", "ham")])
    [other] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {other} and house.settled())
    assert house.where() == {one: "INBOX", other: "Junk"}
    assert house.lessons() == [("ham", "moved")]


NAMES = [
    "Größe & Maß", 'a "quoted" name', "back\\slash", "two  spaces and a [bracket]", "📬 Post", "ends with &", "&AOQ-",
    "日本語",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.fault(35)
def test_35_names_of_folders(house: House, name: str) -> None:
    """They come unchanged from the configuration through log and journal, in watching, in moving and in learning."""
    user, junk = house.user(), f"Müll {name}"
    for folder in (name, junk):
        try:
            user.create_folder(folder)
        except user.Error as refusal:
            pytest.skip(f"the server takes no such name: {refusal}")
    house.configure(folders=[name], spam_folder=junk)
    daemon = house.start()
    files(house, daemon, name, junk)
    [one] = house.inside(junk)
    daemon.until(lambda: house.rows("SELECT ident FROM sightings WHERE folder = ?", junk))
    user.select_folder(junk)
    user.move(user.search(), name)
    daemon.until(lambda: house.rows("SELECT folder, label FROM lessons") == [(name, "ham")])
    assert house.where() == {one: name}
    assert f"home/{name} UID" in daemon.log
    assert house.rows("SELECT DISTINCT folder, target FROM intents WHERE act = 'move'") == [(name, junk)]
    assert house.rows("SELECT name FROM folders") == [(name,)]
    assert notes(house) == []
    daemon.end()
    again = house.start()
    files(house, again, name, junk)
    assert house.inside(name) == {one}
    assert house.rows("SELECT count(*) FROM lessons") == [(1,)]
    assert shlex.quote(name) not in again.log.replace(name, "")  # nothing is said about it that a shell must be spared
