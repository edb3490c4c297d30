"""Faults on the way to a server, one after the other, drawn by chance: cuts, stalls, refusals, delays, resets."""

import random
from typing import Any

COMMANDS = (
    "UID FETCH", "UID FETCH", "UID STORE", "UID MOVE", "UID MOVE", "UID COPY", "UID EXPUNGE", "UID SEARCH", "SELECT",
    "EXAMINE", "STATUS", "LOGIN", "IDLE", "NOOP", "LIST",
)
FAULTS = "cut", "bytes", "stall", "refuse", "slow", "bye", "reset", "down", "frozen"
CUTS = (("client", "cut"), ("client", "cutpast"), ("reply", "cut"), ("reply", "cutlast"), ("reply", "cutpast"))
REFUSALS = (
    ("UID (MOVE|COPY)", "NO [OVERQUOTA] Quota exceeded"), ("UID STORE", "NO [LIMIT] Too many keywords"),
    ("UID (FETCH|SEARCH|MOVE|COPY)", "NO [UNAVAILABLE] Try later"), ("SELECT|EXAMINE|LOGIN", "NO [UNAVAILABLE] Later"),
)


class Weather:
    """Faults on the way to the server: a new one every few commands."""

    def __init__(self, proxy: Any, draw: random.Random) -> None:
        self._proxy, self._draw, self._rules = proxy, draw, list[Any]()
        self._other = 0

    def change(self) -> None:
        proxy, draw = self._proxy, self._draw
        self._calm()
        proxy.rst = draw.random() < 0.5
        nth, command = draw.randint(1, 2), draw.choice(COMMANDS)
        match draw.choices(FAULTS, (40, 12, 5, 14, 6, 8, 6, 5, 2))[0]:
            case "cut":
                where, action = draw.choice(CUTS)
                self._add(where, f"{action}@{nth}", command)
            case "bytes":
                proxy.cut_at[draw.choice(("client", "server", "server", "server"))] = draw.randint(300, 20_000)
                proxy.times = 1
            case "stall":
                self._add("reply", f"stall@{nth}", command)
            case "refuse":
                refused, answer = draw.choice(REFUSALS)
                self._add("client", f"refuse@{nth}", refused, answer)
            case "slow":
                proxy.delay, proxy.throttle = draw.choice(((0.05, 0), (0.0, 20_000)))
            case "bye":
                self._add("server", f"inject@{4 * nth}", r"^\S+ OK", "* BYE The server goes down")
                self._add("server", f"cut@{4 * nth}", r"^\S+ OK")
            case "reset":
                self._other += 1
                proxy.cut_all()
            case "down":
                self._other += 1
                proxy.closed = True
                proxy.cut_all()
            case "frozen":
                self._other += 1
                proxy.frozen = True

    def struck(self) -> int:
        """How many faults there were."""
        return self._other + sum(rule.seen >= rule.nth for rule in self._rules)

    def end(self) -> int:
        """All faults gone; how many there were."""
        self._calm()
        self._proxy.cut_all()  # what was stalled stays so otherwise
        return self.struck()

    def _add(self, *rule: str) -> None:
        self._rules.append(self._proxy.add(*rule))

    def _calm(self) -> None:
        """Nothing but what has not struck yet."""
        self._other += self._proxy.times == 0
        self._proxy.cut_at, self._proxy.times = {"client": None, "server": None}, 1
        self._proxy.delay, self._proxy.throttle, self._proxy.frozen, self._proxy.closed = 0.0, 0, False, False
        self._proxy.rules = [rule for rule in self._proxy.rules if rule.seen < rule.nth][-5:]
