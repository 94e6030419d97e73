"""The runbooks as pages: what to do about each alert, served by the collector beside its status page.

Enters: the name of an alert. Leaves: an HTML page, or None if no runbook has that name. The texts are files of the
package `dashboards`; a name is looked up among them, never made into a path. They stay as they were written, but for
the links from one to another, so that no Markdown has to be understood here.
"""

import re
from importlib import resources

from collectors.page import PAGES

_FOLDER = resources.files("dashboards") / "runbooks"
_LINK = re.compile(r"\[(\w+)\]\(\1\)")


def names() -> list[str]:
    """The alerts that have one."""
    return sorted(file.name.removesuffix(".md") for file in _FOLDER.iterdir() if file.name.endswith(".md"))


def page(name: str) -> bytes | None:
    """The runbook of the alert `name`, as UTF-8."""
    if name not in names():
        return None
    lines = (_FOLDER / f"{name}.md").read_text("utf-8").removeprefix(f"# {name}\n").strip().split("\n")
    # each line as text, link, text, link, ..., text
    return PAGES.get_template("runbook.html").render(name=name, lines=[_LINK.split(line) for line in lines]).encode()


def index() -> bytes:
    """A page with a link to each."""
    return PAGES.get_template("runbooks.html").render(names=names()).encode()
