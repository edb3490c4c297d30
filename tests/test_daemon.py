"""daemon: `mailtagger run` as a process, against a real Dovecot, with signals, kills and two accounts."""

import json
import os
import random
import re
import signal
import socket
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from mailtagger import artifact, config
from mailtagger.daemon import Model
from mailtagger.dovecot import PASSWORD, Dovecot
from mailtagger.errors import ConfigError, ModelError
from mailtagger.imap import Mailbox
from mailtagger.journal import FILE, Journal
from mailtagger.notify import Systemd
from mailtagger.score import open_scorer
from mailtagger.watch import Watcher
from tests.imap_server import fault_proxy, needs_dovecot, needs_tools
from tests.running import SOON, WON, Bench, Daemon, account, found, ham, message, spam
from tests.scripted_server import Answer, Scripted
from tests.tiny_model import tiny_model

# The usual


def test_new_mail_is_marked_and_moved_within_a_second(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """Told by IDLE, spam ends in Junk with its keywords, ham is untouched and unread, old mail is left alone."""
    dovecot.deliver("alice", spam("old"))
    bench.configure(account(dovecot, poll_seconds=3600))
    daemon = bench.start().ready()
    for content in (ham("1"), spam("1")):
        dovecot.deliver("alice", content)
    daemon.until(lambda: daemon.log.count(" UID ") >= 3)
    assert found(alice, "INBOX") == {"spam-old": set(), "ham-1": set()}
    assert found(alice, "Junk") == {"spam-1": {"MailtaggerSpam", "$Junk"}}
    assert max(float(ms) for ms in re.findall(r" in (\d+) ms", daemon.log)) < 1000
    assert daemon.end() < 5
    assert daemon.hears("STOPPING=1")


def test_log_lines_tell_what_was_done_and_nothing_of_the_text(bench: Bench, dovecot: Dovecot) -> None:
    """One line a message, as JSON with fields; neither body nor subject nor password stands in it."""
    subject = "=?utf-8?q?evil=1B[31m=0D=0Aline?="
    bench.configure(account(dovecot), log={"format": "json"})
    daemon = bench.start().ready()
    dovecot.deliver("alice", message(WON, "x", subject))
    daemon.until(lambda: '"verdict"' in daemon.log)
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    [told] = [line for line in lines if "verdict" in line]
    assert {"account", "folder", "uid", "ident", "score", "verdict", "model", "action", "done", "ms"} <= told.keys()
    assert (told["verdict"], told["action"], told["done"], told["model"]) == ("spam", "move", True, bench.model.name)
    assert not re.search(f"bonus|evil|{PASSWORD}", daemon.log)


def test_the_subject_is_logged_at_debug_on_one_harmless_line(bench: Bench, dovecot: Dovecot) -> None:
    """Line ends and escape sequences in a subject do nothing to the terminal; the body is not there even now."""
    bench.configure(account(dovecot), log={"level": "debug"})
    daemon = bench.start().ready()
    dovecot.deliver("alice", message(WON, "x", "=?utf-8?q?evil=1B[31m=0D=0Aline?="))
    daemon.until(lambda: "subject: " in daemon.log)
    assert re.search(r"UID 1 subject: evil.*line\n", daemon.log)
    assert "\x1b" not in daemon.log
    assert not re.search(f"bonus|{PASSWORD}", daemon.log)


def test_the_user_may_take_it_back(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """A message dragged out of Junk, back to INBOX, stays there: ham, by the user's word."""
    bench.configure(account(dovecot))
    daemon = bench.start().ready()
    dovecot.deliver("alice", spam("1"))
    daemon.until(lambda: "moved" in daemon.log)
    alice.select("Junk")
    alice.move(alice.uids(), "INBOX")
    daemon.until(lambda: "ham by user" in daemon.log)
    assert found(alice, "INBOX").keys() == {"spam-1"}
    assert found(alice, "Junk") == {}


@needs_tools
def test_idle_that_never_notifies_is_no_harm(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """The server takes IDLE and says nothing of new mail: polling finds it."""
    with fault_proxy(dovecot, ("server", "drop*", r"^\* \d+ (EXISTS|RECENT)")) as proxy:
        bench.configure(account(proxy, poll_seconds=1))
        daemon = bench.start().ready()
        dovecot.deliver("alice", spam("1"))
        daemon.until(lambda: "moved" in daemon.log)
    assert found(alice, "Junk").keys() == {"spam-1"}


@needs_tools
@pytest.mark.parametrize("rule", [
    ("client", "cut", "UID MOVE"), ("reply", "cut", "UID MOVE"), ("reply", "cutlast", "UID MOVE"),
    ("client", "cut", "UID STORE"), ("reply", "cut", "UID STORE"),
])
def test_a_cut_in_an_act_is_looked_up(bench: Bench, dovecot: Dovecot, alice: Mailbox, rule: tuple[str, ...]) -> None:
    """Whether the command or its answer was lost, the message ends in Junk once."""
    with fault_proxy(dovecot, rule) as proxy:
        bench.configure(account(proxy))
        daemon = bench.start().ready()
        dovecot.deliver("alice", spam("1"))
        daemon.until(lambda: found(alice, "Junk"))
        with bench.journal() as journal:
            daemon.until(lambda: not journal.open_intents_of("home"))
    assert found(alice, "Junk") == {"spam-1": {"MailtaggerSpam", "$Junk"}}
    assert found(alice, "INBOX") == {}


@needs_tools
@pytest.mark.parametrize("cut", ["UID COPY", "UID STORE"])
def test_without_move_a_cut_copy_is_finished(bench: Bench, dovecot: Dovecot, alice: Mailbox, cut: str) -> None:
    """COPY done and cut before the original was deleted, or before it was expunged: one message is left, in Junk."""
    # The first STORE sets keywords; it is the second that marks the original as deleted.
    rule = ("reply", "cutpast" if cut == "UID COPY" else "cutpast@2", cut)
    with fault_proxy(dovecot, rule, strip=["MOVE"]) as proxy:
        bench.configure(account(proxy))
        daemon = bench.start().ready()
        dovecot.deliver("alice", spam("1"))
        daemon.until(lambda: found(alice, "Junk") and not found(alice, "INBOX"))
        with bench.journal() as journal:
            daemon.until(lambda: not journal.open_intents_of("home"))
    assert found(alice, "Junk").keys() == {"spam-1"}


def test_a_new_uidvalidity_while_running(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """Dovecot hangs up and renumbers: nothing old is judged again, what comes then is, and `status` tells."""
    bench.configure(account(dovecot, poll_seconds=1))
    daemon = bench.start().ready()
    dovecot.deliver("alice", ham("1"))
    daemon.until(lambda: daemon.log.count(" UID ") >= 2)
    dovecot.doveadm("mailbox", "update", "--uid-validity", "77", "-u", "alice", "INBOX")
    with bench.journal() as journal:
        daemon.until(lambda: [note.kind for note in journal.notes()] == ["numbering"])
        row = journal.folder("home", "INBOX")
        assert row is not None
        assert row.uidvalidity == 77
    dovecot.deliver("alice", spam("2"))
    daemon.until(lambda: "moved" in daemon.log)
    assert daemon.log.count("ham by") == 1
    assert found(alice, "INBOX").keys() == {"ham-1"}


@needs_dovecot
def test_a_crashed_server_comes_back(bench: Bench) -> None:
    """Killed and started again: the daemon finds its way back by itself."""
    with Dovecot() as server:
        bench.configure(account(server))
        daemon = bench.start().ready()
        server.kill()
        daemon.until(lambda: "cannot be reached" in daemon.log or "lost" in daemon.log)
        server.start()
        server.deliver("alice", spam("1"))
        daemon.until(lambda: "moved" in daemon.log)


def test_two_accounts_one_of_them_dead(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """A server that does not answer holds up neither the other account nor READY."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        port = silent.getsockname()[1]
        dead = account(dovecot, name="work", port=port, connect_timeout=1, read_timeout=1)
        bench.configure(dead, account(dovecot), account(dovecot, name="third", username="bob"))
        daemon = bench.start(MAILTAGGER_THIRD_PASSWORD=PASSWORD).ready()
        for user in ("alice", "bob"):
            dovecot.deliver(user, spam(user))
        daemon.until(lambda: daemon.log.count("moved") >= 2)
        assert f"work/INBOX: 127.0.0.1:{port}" in daemon.log
        assert daemon.end() < 5
    assert found(alice, "Junk").keys() == {"spam-alice"}


# Settings that are wrong


def test_a_wrong_password_names_the_account_once(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """One line for three folders, and the other account works."""
    wrong = account(dovecot, name="work", username="bob", folders=["INBOX", "Archive", "Sent"])
    bench.configure(wrong, account(dovecot))
    daemon = bench.start(MAILTAGGER_WORK_PASSWORD="no").ready()
    dovecot.deliver("alice", spam("1"))
    daemon.until(lambda: "moved" in daemon.log)
    [line] = [line for line in daemon.log.splitlines() if "WARNING work" in line]
    assert "password" in line
    assert found(alice, "Junk").keys() == {"spam-1"}


def test_without_any_password_it_ends_as_a_configuration_error(bench: Bench, dovecot: Dovecot) -> None:
    """With exit status 78 a service manager does not start it again."""
    bench.configure(account(dovecot, name="nobody"))
    daemon = bench.start()
    assert daemon.process.wait(SOON) == 78
    assert "MAILTAGGER_NOBODY_PASSWORD" in daemon.log


def test_a_second_run_is_refused_with_the_pid_of_the_first(bench: Bench, dovecot: Dovecot) -> None:
    """Two daemons on one journal would both act."""
    bench.configure(account(dovecot))
    first = bench.start().ready()
    second = bench.start()
    assert second.process.wait(SOON) == 1
    assert f"(process {first.process.pid}) already runs" in second.log


# Signals


def test_sighup_reads_the_file_again_and_a_broken_one_changes_nothing(
    bench: Bench, dovecot: Dovecot, alice: Mailbox
) -> None:
    """The line of the mistake is said and the old settings stay; a good file is taken up without a restart."""
    bench.configure(account(dovecot, mode="observe"))
    daemon = bench.start().ready()
    good = bench.path.read_text()
    bench.path.write_text(good.replace("mode: observe", "mode: obey"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: re.search(r"config.yaml:\d+: accounts\[0\].mode", daemon.log))
    dovecot.deliver("alice", spam("1"))
    daemon.until(lambda: "marked" in daemon.log)
    assert found(alice, "INBOX").keys() == {"spam-1"}
    bench.path.write_text(good.replace("mode: observe", "mode: apply"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "was reloaded" in daemon.log)
    dovecot.deliver("alice", spam("2"))
    daemon.until(lambda: "moved" in daemon.log)
    assert found(alice, "Junk").keys() == {"spam-2"}


def test_sighup_starts_and_ends_accounts(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """A new account is watched, one that is gone is not, and one that did not change keeps its connection."""
    bob = account(dovecot, name="work", username="bob")
    bench.configure(account(dovecot))
    daemon = bench.start().ready()
    bench.configure(account(dovecot), bob)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "work/INBOX: watched from now on" in daemon.log)
    dovecot.deliver("bob", spam("b"))
    daemon.until(lambda: "moved" in daemon.log)
    bench.configure(bob)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: daemon.log.count("was reloaded") == 2)
    dovecot.deliver("alice", spam("a"))
    dovecot.deliver("bob", spam("c"))
    daemon.until(lambda: daemon.log.count("moved") == 2)
    assert found(alice, "INBOX").keys() == {"spam-a"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_soon_while_it_waits(bench: Bench, dovecot: Dovecot, number: signal.Signals) -> None:
    """In IDLE, with several folders: exit status 0 within seconds."""
    bench.configure(account(dovecot, folders=["INBOX", "Archive", "Sent"]))
    assert bench.start().ready().end(number) < 3


def stalled() -> Scripted:
    """A server that stops talking in the middle of a session."""
    return Scripted({"^UID SEARCH": ""})


def test_it_ends_in_a_stalled_read(bench: Bench) -> None:
    """The server says nothing any more and the read would wait for a minute: it ends within five seconds."""
    with stalled() as server:
        bench.configure(account(server))
        daemon = bench.start()
        daemon.until(lambda: any(line.startswith("UID SEARCH") for line in server.heard))
        assert daemon.end() < 5


def test_a_second_sigterm_ends_it_at_once(bench: Bench) -> None:
    """Without waiting for anything."""
    with stalled() as server:
        bench.configure(account(server))
        daemon = bench.start()
        daemon.until(lambda: any(line.startswith("UID SEARCH") for line in server.heard))
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(SOON) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 1


# Whatever happens, each message exists once


def load(dovecot: Dovecot, count: int) -> set[str]:
    """Mail of both kinds, appended at once; the Message-IDs."""
    with dovecot.client("alice") as client:
        contents = [spam(str(n)) if n % 4 == 0 else ham(str(n)) for n in range(count)]
        client.multiappend("INBOX", contents)
    return {f"spam-{n}" if n % 4 == 0 else f"ham-{n}" for n in range(count)}


def check_ledger(bench: Bench, daemon: Daemon, alice: Mailbox, ids: set[str]) -> None:
    """Ham in INBOX, spam in Junk with its keywords, each once; all judged, no intent open, the journal whole."""
    wanted = {id_ for id_ in ids if id_.startswith("spam")}
    daemon.until(lambda: found(alice, "INBOX").keys() == ids - wanted)
    assert found(alice, "Junk") == {id_: {"MailtaggerSpam", "$Junk"} for id_ in wanted}
    assert set().union(*found(alice, "INBOX").values()) == set()
    with bench.journal() as journal:
        daemon.until(lambda: not journal.open_intents_of("home") and journal.counts("home").judged == len(ids))
        counts = journal.counts("home")
    assert (counts.spam, counts.moved, counts.failed) == (len(wanted), len(wanted), 0)
    with sqlite3.connect(bench.directory / "state" / FILE) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
@pytest.mark.parametrize("point", [
    "Mailbox fetch before 2", "Journal record after 30", "Journal open_intents before 1",
    "Journal open_intents after 1", "Mailbox add_keywords after 1", "Journal close_intents before 2",
    "Mailbox move before 1", "Mailbox move after 1", "Journal close_intents after 2", "Journal watermark before 1",
])
def test_kill_9_anywhere_loses_and_doubles_nothing(bench: Bench, dovecot: Dovecot, alice: Mailbox, point: str) -> None:
    """Killed in the middle of a batch, at each step, and started again: exactly one action a message."""
    bench.configure(account(dovecot))
    bench.start().ready().end()
    ids = load(dovecot, 60)
    dead = bench.start_to_die(point)
    assert dead.process.wait(SOON) == -signal.SIGKILL, dead.log
    check_ledger(bench, bench.start(), alice, ids)


@pytest.mark.slow
def test_sigterm_at_any_time_loses_and_doubles_nothing(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """Ended at random moments of one batch, again and again: status 0 within five seconds, and the sum is right."""
    bench.configure(account(dovecot, brake={"messages": 1000}))
    bench.start().ready().end()
    ids = load(dovecot, 300)
    draw = random.Random(0)
    for _ in range(6):
        daemon = bench.start()
        begun = daemon.log.count(" model ")
        daemon.until(lambda log=daemon, begun=begun: log.log.count(" model ") > begun)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.6))
        assert daemon.end() < 5
    check_ledger(bench, bench.start(), alice, ids)


# systemd


@needs_dovecot
def test_the_watchdog_is_fed_only_by_answers(bench: Bench) -> None:
    """It hears of us while the server answers, and nothing any more when it does not."""
    with Dovecot() as server:
        bench.configure(account(server, poll_seconds=3600))
        daemon = bench.start(WATCHDOG_USEC="1500000").ready()
        for _ in range(3):
            daemon.told.clear()
            daemon.until(lambda: daemon.hears("WATCHDOG=1"), 1.5)
        server.kill()
        time.sleep(0.2)
        daemon.hears("")
        daemon.told.clear()
        time.sleep(1.5)
        assert not daemon.hears("WATCHDOG=1")


@pytest.mark.parametrize(("rule", "sooner"), [
    ({"^SELECT": "{tag} NO there is no such folder"}, "worker.STUCK_WAIT = 30"),
    ({"^LOGIN": "{tag} NO [AUTHENTICATIONFAILED] no"}, "worker.FEW = worker.REFUSED_WAIT = 0.5"),
])
def test_the_watchdog_is_fed_by_refusals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Answer], sooner: str
) -> None:
    """They are answers: killed and started again, it would hear the same, and try a wrong password again so often."""
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    with Scripted(rule) as server:
        bench.configure(account(server))
        daemon = bench.start_with(sooner)
        for _ in range(3):
            daemon.told.clear()
            daemon.until(lambda: daemon.hears("WATCHDOG=1"), 3)


def test_ready_needs_every_folder_to_speak_and_one_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed does not hold the others up; as long as nobody answered, nobody is told that we are ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0mailtagger-test-{os.getpid()}-ready")
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@mailtagger-test-{os.getpid()}-ready")
        monkeypatch.setenv("WATCHDOG_USEC", "9000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))  # the watchdog is for somebody else
        one, two, three = (Watcher.__new__(Watcher) for _ in range(3))
        systemd = Systemd()
        systemd.expect({one, two, three})
        systemd.heard(one, OSError())
        systemd.heard(two, OSError())
        systemd.heard(three, OSError())
        systemd.heard(one, OSError())
        assert not systemd.ready
        systemd.heard(two, None)
        assert systemd.ready
        assert heard.recv(100) == b"READY=1"
        with pytest.raises(BlockingIOError):
            heard.recv(100)


# The model


def test_a_new_current_model_is_taken_up_and_a_broken_one_is_not(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """`current` points elsewhere: that model scores from now on; if it cannot be used, the old one goes on."""
    caplog.set_level("INFO")
    bench.path.write_text(yaml.safe_dump({
        "state_dir": str(bench.directory / "state"), "accounts": [{"name": "a", "host": "h", "username": "u"}]}))
    settings = config.load(bench.path)
    (bench.directory / "state").mkdir()
    artifact.install(bench.model, settings.state_dir, open_scorer)
    model = Model(settings)
    (bench.directory / "other").mkdir()
    artifact.install(tiny_model(bench.directory / "other", "tiny-2"), settings.state_dir, open_scorer)
    model.refresh(settings)
    assert model.scorer.model == "tiny-2"
    (bench.directory / "third").mkdir()
    artifact.install(tiny_model(bench.directory / "third", "tiny-3"), settings.state_dir, open_scorer)
    (settings.state_dir / "models" / "tiny-3" / "model.int8.onnx").write_bytes(b"broken")
    for _ in range(3):
        model.refresh(settings)
    assert model.scorer.model == "tiny-2"
    assert len([record for record in caplog.records if "tiny-2 goes on" in record.message]) == 1


def test_a_file_that_is_read_again_keeps_the_loaded_model_unless_it_names_another(bench: Bench) -> None:
    """Each graph that is opened leaves the process larger; cutoffs are held against the model all the same."""
    own = {"name": "a", "host": "h", "username": "u"}
    model = Model(config.load(bench.configure(own)))
    assert Model(config.load(bench.configure(own | {"spam_cutoff": 0.97})), model).scorer is model.scorer
    with pytest.raises(ConfigError, match="crosses"):
        Model(config.load(bench.configure(own | {"ham_cutoff": 0.9})), model)
    (bench.directory / "other").mkdir()
    other = tiny_model(bench.directory / "other", "tiny-2")
    assert Model(config.load(bench.configure(own, model=str(other))), model).scorer.model == "tiny-2"


def test_cutoffs_that_cross_the_models_are_a_configuration_error(bench: Bench) -> None:
    """Found at the start, not at the first message."""
    bench.configure({"name": "a", "host": "h", "username": "u", "ham_cutoff": 0.9})
    with pytest.raises(ConfigError, match="crosses"):
        Model(config.load(bench.path))


def test_a_missing_model_is_an_error_at_the_start(bench: Bench) -> None:
    """Without a model nothing can be judged."""
    bench.configure({"name": "a", "host": "h", "username": "u"}, model=str(bench.directory / "none"))
    with pytest.raises(ModelError):
        Model(config.load(bench.path))


def test_pruning_keeps_what_must_not_be_forgotten(bench: Bench) -> None:
    """Old verdicts go; the user's word, done moves and open intents stay."""
    from mailtagger.decide import Decision
    from mailtagger.imap import Address
    from mailtagger.journal import Intent

    with Journal(bench.directory / "state" / FILE, clock=lambda: 0.0) as journal:
        for uid, by in ((1, "model"), (2, "user")):
            journal.record("a", Address("INBOX", 1, uid), str(uid), "", None, Decision("ham", by, None), (), "m")
        intent = Intent("a", "INBOX", 1, 1, "1", "", "move", "Junk")
        ids = journal.open_intents([intent] * 3)
        journal.close_intents(ids[:1], "done")
        journal.close_intents(ids[1:2], "failed")
        assert journal.prune(datetime.now(UTC) - timedelta(days=400)) == 1
        assert journal.judged("a", Address("INBOX", 1, 1)) is None
        assert journal.judged("a", Address("INBOX", 1, 2)) is not None
        assert len(journal.moves("a", "1", "")) == 1
        assert [act.id for act in journal.acts("a", Address("INBOX", 1, 1))] == [ids[0], ids[2]]
