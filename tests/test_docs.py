"""README, docs, Makefile and pins: what they name exists, and their examples work."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.main import get_command

from mailtagger import __version__, config
from mailtagger.cli import app
from tests.faults.table import FAULTS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "training" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_readme_names_every_command_and_no_other() -> None:
    """The table of commands is the program's list of commands."""
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    named = {name.split()[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == commands


def test_makefile_has_the_targets_that_are_named() -> None:
    """Each `make TARGET` of the docs is in the list that `make help` prints."""
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in listed.splitlines()}
    said = "\n".join(code(page.read_text()) for page in PAGES)
    named = set(re.findall(r"(?<![\w.])make(?: -C \S+)? ([a-z][a-z-]*)\b", said))
    assert {"demo", "test"} <= named <= targets


def code(page: str) -> str:
    """What stands between back-ticks, on a line of its own each."""
    return "\n".join([*re.findall(r"`([^`\n]+)`", page), *blocks(page, "sh")])


def test_links_lead_somewhere() -> None:
    """Each relative link names a file, and a heading where it names one."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith("http"):
                name, _, anchor = target.partition("#")
                linked = (page.parent / name).resolve() if name else page
                assert linked.exists(), (page.name, target)
                headings = re.findall(r"^#+ (.*)", linked.read_text(), re.MULTILINE) if anchor else []
                assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_smallest_configuration_is_one(tmp_path: Path) -> None:
    """The YAML in the README can be used as it stands."""
    path = tmp_path / "config.yaml"
    path.write_text(blocks(README, "yaml")[0])
    assert config.load(path).accounts[0].mode == "observe"


def test_mail_page_names_the_defaults() -> None:
    """Keywords and brake in docs/mail.md and README are those of the configuration."""
    page = (ROOT / "docs" / "mail.md").read_text()
    keywords, brake = config.Keywords(), config.Brake()
    assert f"`{keywords.spam}`" in page and f"`{keywords.unsure}`" in page
    for text in page, README:
        assert f"{brake.messages} messages" in text or f"`brake.messages` ({brake.messages})" in text
        assert f"{100 * brake.share:.0f} %" in text


def test_every_dependency_is_pinned_within_its_range() -> None:
    """constraints.txt has one exact version for each requirement of pyproject.toml, and it satisfies it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {plain(name): version for name, _, version in (line.partition("==") for line in lines if line)}
    assert all(pins.values())
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        assert requirement.specifier.contains(pins[plain(requirement.name)]), requirement


def plain(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_changelog_has_the_version_or_something_unreleased() -> None:
    """What the program calls itself is in the changelog, or waits there to be released."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{__version__}]" in changelog or "## [Unreleased]" in changelog
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="apt-get install systemd")
def test_user_unit_is_correct(tmp_path: Path) -> None:
    """`systemd-analyze verify` accepts the unit of docs/user-service.md without a word."""
    unit = tmp_path / "mailtagger.service"
    text = blocks((ROOT / "docs" / "user-service.md").read_text(), "ini")[0]
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)], capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_fault_has_a_test_and_a_line() -> None:
    """Each of the 82 faults is made by a test, and the table in docs/faults.md names tests that are there."""
    sources = {path.name: path.read_text() for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    made = {int(number) for source in sources.values() for number in re.findall(r"mark\.fault\((\d+)\)", source)}
    page = (ROOT / "docs/faults.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .*?`(\w+\.py)::(?:\w+::)*(\w+)`", page, re.MULTILINE)
    assert made == {int(number) for number, _, _ in rows} == set(FAULTS)
    assert [row for row in rows if f"def {row[2]}(" not in sources.get(row[1], "")] == []


def test_every_fault_is_survived() -> None:
    """In the table of docs/faults.md no test has failed, and what was skipped is what a server cannot do, not what was
    missing where the table was made."""
    page = (ROOT / "docs/faults.md").read_text()
    outcomes = re.findall(r"^\| \d+ \|.*[^\\]\| ([^|]+) \|$", page, re.MULTILINE)
    assert len(outcomes) > 150
    assert [outcome for outcome in outcomes if not re.fullmatch(r"passed(, skipped: the server .+)?", outcome)] == []


def test_the_tests_that_keep_promises_are_there() -> None:
    """Each file that docs/promises.md names exists."""
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs/promises.md").read_text())
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []
