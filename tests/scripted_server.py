"""An IMAP server that says what a test tells it to, for what no real server can be made to do.

    with Scripted({"SELECT": "* 1 EXISTS\\n{tag} OK [READ-ONLY] done"}) as server: ...

A rule is a pattern for a client's line and the answer: text in which {tag} is the command's tag, HANG_UP, or a function
of the line. The first that matches counts; what no rule matches is answered as by a server with one empty INBOX.
"""

import re
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

HANG_UP = "\0"
CAPABILITIES = "IMAP4rev1 AUTH=PLAIN IDLE MOVE UIDPLUS NAMESPACE SPECIAL-USE"
SELECTED = (
    "* FLAGS (\\Seen \\Deleted)\n* OK [PERMANENTFLAGS (\\Seen \\Deleted \\*)] any\n* 3 EXISTS\n* 0 RECENT\n"
    "* OK [UIDVALIDITY 7] valid\n* OK [UIDNEXT 4] next\n"
)
USUAL = {
    "^LOGIN|^NOOP|^CREATE|^SUBSCRIBE|^DONE": "{tag} OK done",
    "^SELECT": SELECTED + "{tag} OK [READ-WRITE] done",
    "^EXAMINE": SELECTED + "{tag} OK [READ-ONLY] done",
    "^LIST": '* LIST () "/" INBOX\n* LIST (\\Junk) "/" Junk\n{tag} OK done',
    "^NAMESPACE": '* NAMESPACE (("" "/")) NIL NIL\n{tag} OK done',
    "^IDLE": "+ idling",
    "^LOGOUT": "* BYE\n{tag} OK bye",
    "": "{tag} BAD not in the script",
}
Answer = str | Callable[[str], str]


class Scripted:
    """The server; `heard` has all lines of all clients, without their tags."""

    def __init__(
        self, rules: dict[str, Answer] | None = None, *, greeting: str = "* OK ready", capabilities: str = CAPABILITIES
    ) -> None:
        announced = {"^CAPABILITY": f"* CAPABILITY {capabilities}\n{{tag}} OK done"}
        self._rules: list[tuple[str, Answer]] = [*(rules or {}).items(), *announced.items(), *USUAL.items()]
        self._greeting, self._open = greeting, list[socket.socket]()
        self.heard: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listening.getsockname()[:2]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listening, *self._open):
            sock.close()

    def send(self, data: bytes) -> None:
        """Unasked, to the client that came last."""
        self._open[-1].sendall(data)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        tag = "*"
        try:
            with sock, sock.makefile("rb") as lines:
                self._send(sock, self._greeting, tag)
                for line in lines:
                    first, _, rest = line.decode(errors="replace").rstrip("\r\n").partition(" ")
                    tag, said = (first, rest) if rest else (tag, first)  # DONE and SASL answers have no tag
                    self.heard.append(said)
                    answer = next(answer for pattern, answer in self._rules if re.search(pattern, said))
                    if not self._send(sock, answer if isinstance(answer, str) else answer(said), tag):
                        return
        except OSError:
            return  # the client or the test has hung up

    @staticmethod
    def _send(sock: socket.socket, text: str, tag: str) -> bool:
        text, cut, _ = text.partition(HANG_UP)
        if text:
            sock.sendall(text.replace("{tag}", tag).rstrip("\n").replace("\n", "\r\n").encode() + b"\r\n")
        if cut:
            sock.shutdown(socket.SHUT_RDWR)
        return not cut
