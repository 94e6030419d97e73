"""The runbooks as pages: what to do about each alert, served by the collector beside its status page.

Enters: the name of an alert. Leaves: an HTML page, or None if no runbook has that name. The texts are files of the
package `dashboards`; a name is looked up among them, never made into a path. Of Markdown they use bold, code and links
to one another, which are shown as such; their lines stay as they were written.
"""

import re
from importlib import resources

from markupsafe import Markup, escape

from collectors.page import PAGES

_FOLDER = resources.files("dashboards") / "runbooks"
_MARKUP = {
    re.compile(r"\*\*(.+?)\*\*", re.S): r"<b>\1</b>",
    re.compile(r"`([^`]+)`"): r"<code>\1</code>",
    re.compile(r"\[(\w+)\]\(\1\)"): r'<a href="\1">\1</a>',
}


def names() -> list[str]:
    """The alerts that have one."""
    return sorted(file.name.removesuffix(".md") for file in _FOLDER.iterdir() if file.name.endswith(".md"))


def page(name: str) -> bytes | None:
    """The runbook of the alert `name`, as UTF-8."""
    if name not in names():
        return None
    text = (_FOLDER / f"{name}.md").read_text("utf-8").removeprefix(f"# {name}\n").strip()
    return PAGES.get_template("runbook.html").render(name=name, text=_marked_up(text)).encode()


def index() -> bytes:
    """A page with a link to each."""
    return PAGES.get_template("runbooks.html").render(names=names()).encode()


def _marked_up(text: str) -> Markup:
    html = str(escape(text))
    for pattern, replacement in _MARKUP.items():
        html = pattern.sub(replacement, html)
    return Markup(html)
