"""Sections with pictures → one HTML page that needs neither network nor script; whatever comes from mail is escaped."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class Picture:
    """One plot: PNG by theme, the same for both where it has no ground of its own, and what it shows in words."""

    name: str  # of its files
    png: dict[str, bytes]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """What was looked at: the finding in a sentence or two, pictures, and the figures behind them."""

    title: str
    finding: str
    pictures: tuple[Picture, ...] = ()
    head: tuple[str, ...] = ()
    rows: Sequence[Sequence[object]] = field(default=())


_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --page: #f6f8fa; --ink: #1f2328; --soft: #57606a; --line: #d0d7de }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161b22; --page: #0d1117; --ink: #e6edf3; --soft: #9da7b3; --line: #30363d }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 0 0 .5rem }
header p, footer { color: var(--soft) }
main { columns: 26rem; column-gap: 1rem }
section { background: var(--ground); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem }
section { margin: 0 0 1rem; break-inside: avoid }
p { margin: .25rem 0 .75rem; overflow-wrap: anywhere }
figure { margin: 0 0 .75rem }
figcaption { color: var(--soft); font-size: .9rem }
img { display: block; width: 100%; height: auto }
summary { cursor: pointer; padding: .5rem 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right }
"""


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The page. It allows itself to load nothing: neither mail nor a mistake can make it ask a server."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    body = "\n".join(map(_section, sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(about)}</p></header>
<main>
{body}
</main>
<footer>Made by python -m training.explore. Words and figures are of the cleaned text, as a model reads it.</footer>
</body>
</html>
"""


def _section(section: Section) -> str:
    pictures = "\n".join(map(_picture, section.pictures))
    table = _table(section.head, section.rows) if section.rows else ""
    return (
        f"<section>\n<h2>{escape(section.title)}</h2>\n<p>{escape(section.finding)}</p>\n{pictures}\n{table}</section>"
    )


def _picture(picture: Picture) -> str:
    light, dark = (_data(picture.png[theme]) for theme in ("light", "dark"))
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">' if dark != light else ""
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    image = f'<img src="{light}" alt="{escape(picture.alt)}">'
    return f"<figure><picture>{source}{image}</picture>{caption}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    heads = "".join(f'<th scope="col"{_align(rows[0][i])}>{escape(name)}</th>' for i, name in enumerate(head))
    lines = "\n".join(f"<tr>{''.join(f'<td{_align(cell)}>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    scroll = '<div class="wide" tabindex="0" role="region" aria-label="The figures">'
    table = f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"
    return f"<details><summary>The figures</summary>{scroll}{table}</div></details>\n"


def _align(cell: object) -> str:
    return ' class="number"' if isinstance(cell, int | float) else ""


def _cell(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else escape(str(cell))


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
