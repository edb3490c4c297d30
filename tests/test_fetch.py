"""fetch.py against a server on loopback: whole or not at all, resumed where a connection was cut."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.errors import MailtaggerError
from training import corpora, fetch, prepare

CONTENT = bytes(range(256)) * 4000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Gives CONTENT; `cuts` says after how many bytes each of the next connections ends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []  # the Range of each request
        self.cuts: list[int] = []
        self.ranges = True
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/corpus.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if self.server.status != 200 or first >= len(CONTENT):
            self.send_error(416 if first else self.server.status)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[first : first + cut])

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_comes_whole_and_the_progress_is_told(server: Server, tmp_path: Path) -> None:
    """The file is there under its name, in a directory that was not; each tenth of it was told."""
    said: list[str] = []
    fetch.fetch(server.url, tmp_path / "new" / "corpus.zip", SUM, said.append)
    assert (tmp_path / "new" / "corpus.zip").read_bytes() == CONTENT
    assert said[-1] == "1.0 of 1.0 MB (100 %)" and len(said) >= 5
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["corpus.zip"]


def test_a_cut_connection_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    """Only what is missing is asked for again, within a run and in the next one."""
    server.cuts = [300_000, 200_000, 100_000]
    path = tmp_path / "corpus.zip"
    with pytest.raises(MailtaggerError, match=r"stopped short 3 times.*goes on where it stopped"):
        fetch.fetch(server.url, path, SUM, lambda _: None)
    assert not path.exists()
    fetch.fetch(server.url, path, SUM, lambda _: None)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["", "bytes=300000-", "bytes=500000-", "bytes=600000-"]


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    """Where a server ignores the Range, what it sends is not put behind the old beginning."""
    server.ranges = False
    (tmp_path / "corpus.zip.part").write_bytes(CONTENT[:1000])
    fetch.fetch(server.url, tmp_path / "corpus.zip", SUM, lambda _: None)
    assert (tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """A run that was killed between the last byte and the renaming needs no byte more."""
    (tmp_path / "corpus.zip.part").write_bytes(CONTENT)
    fetch.fetch(server.url, tmp_path / "corpus.zip", SUM, lambda _: None)
    assert (tmp_path / "corpus.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    """What is not the file that was expected stays under no name, and both sums are told."""
    with pytest.raises(MailtaggerError, match=f"{SUM}, not {'0' * 64}; it was removed.*--sha256"):
        fetch.fetch(server.url, tmp_path / "corpus.zip", "0" * 64, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_an_endless_file_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends more than any corpus has does not fill the disk."""
    monkeypatch.setattr(fetch, "LIMIT", 500_000)
    with pytest.raises(MailtaggerError, match="more than 500,000 bytes"):
        fetch.fetch(server.url, tmp_path / "corpus.zip", SUM, lambda _: None)


def test_no_network_and_no_file_are_a_sentence(server: Server, tmp_path: Path) -> None:
    """A refused connection, a missing page and what is no URL say what to do by hand."""
    server.status = 404
    for url, why in (
        ("http://127.0.0.1:9/corpus.zip", "cannot be reached"),
        (server.url, "answered 404"),
        ("corpus.zip", "cannot be fetched"),
    ):
        with pytest.raises(MailtaggerError, match=f"{why}.*by hand"):
            fetch.fetch(url, tmp_path / "corpus.zip", SUM, lambda _: None)


def test_prepare_downloads_only_when_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --download nothing is asked for, and the way to get the file is told; with it, it is put in its place."""
    monkeypatch.setenv("MAILTAGGER_CORPORA", str(tmp_path / "corpora"))
    monkeypatch.setattr(prepare, "ENRON_URL", server.url)
    arguments = ["--corpora", "enron", "--out", str(tmp_path / "out"), "--jobs", "1"]
    with pytest.raises(MailtaggerError, match=r"is not there.*--download"):
        prepare.main(arguments)
    assert not server.asked
    with pytest.raises(MailtaggerError, match="cannot be read to its end"):  # CONTENT is no zip
        prepare.main([*arguments, "--download", "--sha256", SUM])
    assert (tmp_path / "corpora" / corpora.ENRON).read_bytes() == CONTENT
