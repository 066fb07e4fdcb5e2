"""Slack's markup (mrkdwn) as HTML: links, bold, italic, strike, code, quotes, a few emoji. Everything else is escaped.

There is no kept library for this direction. Rules: Slack's "Formatting text for app surfaces".
"""

from __future__ import annotations

import html
import re
from urllib.parse import urlsplit

from markupsafe import Markup

# Slack decodes these three and no others.
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
_EMOJI = {
    "fire": "\N{FIRE}",
    "warning": "\N{WARNING SIGN}\N{VARIATION SELECTOR-16}",
    "rotating_light": "\N{POLICE CARS REVOLVING LIGHT}",
    "white_check_mark": "\N{WHITE HEAVY CHECK MARK}",
    "information_source": "\N{INFORMATION SOURCE}\N{VARIATION SELECTOR-16}",
    "red_circle": "\N{LARGE RED CIRCLE}",
    "large_yellow_circle": "\N{LARGE YELLOW CIRCLE}",
    "large_green_circle": "\N{LARGE GREEN CIRCLE}",
}
# What must not be formatted inside: code, <links>, bare addresses. Each is put aside under a placeholder.
_ATOMS = re.compile(
    # A full stop behind an address belongs to the sentence.
    r"```(?P<block>.+?)```\n?|`(?P<code>[^`\n]+)`|<(?P<link>[^<>\n]+)>|(?P<bare>https?://[^\s<>|*`]+(?<![.,;:!?)]))",
    re.S,
)
_PLACEHOLDER = re.compile("\x00(\\d+)\x00")
_STYLES = tuple(
    (re.compile(rf"(?<![\w{mark}]){re.escape(mark)}(?=\S)([^{mark}\n]+?)(?<=\S){re.escape(mark)}(?![\w{mark}])"), tag)
    for mark, tag in (("*", "strong"), ("_", "em"), ("~", "s"))
)


def render(text: str) -> Markup:
    """`text` as HTML that is safe to put into a page."""
    atoms: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        atoms.append(_atom(match))
        return f"\x00{len(atoms) - 1}\x00"

    escaped = html.escape(decode(_ATOMS.sub(put_aside, text.replace("\x00", ""))))
    for pattern, tag in _STYLES:
        escaped = pattern.sub(rf"<{tag}>\1</{tag}>", escaped)
    escaped = re.sub(r":([a-z_]+):", lambda match: _EMOJI.get(match[1], match[0]), escaped)
    lines = "\n".join(_quote(line) for line in escaped.split("\n")).replace("</blockquote>\n", "</blockquote>")
    return Markup(_PLACEHOLDER.sub(lambda match: atoms[int(match[1])], lines.replace("\n", "<br>")))


def safe_link(url: str) -> str | None:
    """`url` where it is an address that a message may link to (http, https, mailto), else None."""
    try:
        return url if urlsplit(url).scheme in {"http", "https", "mailto"} else None
    except ValueError:
        return None


def _atom(match: re.Match[str]) -> str:
    if match["block"] is not None:
        return f"<pre>{html.escape(decode(match['block'].strip(chr(10))))}</pre>"
    if match["code"] is not None:
        return f"<code>{html.escape(decode(match['code']))}</code>"
    if match["bare"] is not None:
        return _anchor(match["bare"], match["bare"])
    target, _, label = match["link"].partition("|")
    if target.startswith(("!", "@", "#")):  # <!here>, <@U123>, <#C123>
        return f'<span class="mention">@{html.escape(decode(label or target[1:]))}</span>'
    if safe_link(decode(target)) is None:
        return html.escape(match[0])  # No link, and nothing that should be hidden.
    return _anchor(target, label or target)


def _anchor(target: str, label: str) -> str:
    url = safe_link(decode(target))
    shown = html.escape(decode(label))
    if url is None:
        return shown
    return f'<a href="{html.escape(url)}" target="_blank" rel="noopener noreferrer">{shown}</a>'


def _quote(line: str) -> str:
    return f"<blockquote>{line[4:].lstrip()}</blockquote>" if line.startswith("&gt;") else line


def decode(text: str) -> str:
    """`text` with Slack's three escapes resolved, as Slack shows it where no markup is read (titles)."""
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text
