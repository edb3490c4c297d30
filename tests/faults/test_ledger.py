"""Fault 70, and most of the others, all at once: `tests/ledger.py` in small."""

from pathlib import Path
from typing import Any

import pytest

from tests.imap_server import needs_tools
from tests.ledger import play


@needs_tools
@pytest.mark.fault(70)
@pytest.mark.parametrize("strip", [(), ("MOVE",)])
def test_70_nothing_lost(server: Any, tmp_path: Path, strip: tuple[str, ...]) -> None:
    """Faults, kills and a busy user: each message is there once, whole, with its flags, and the journal is right."""
    line, wrong = play(server, tmp_path, 70, 40, strip)
    assert not wrong, "\n".join([line, *wrong])
