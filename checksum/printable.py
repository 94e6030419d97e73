"""Foreign text, made fit for one line of a terminal, a log, a page or a notification.

Names come from firmware, agents, file systems and inventories, and may hold anything: sequences that a terminal obeys,
line ends that forge a line of a log, marks that turn the direction of writing. Enters: any text, also with the lone
surrogates that stand for bytes that aren't UTF-8. Leaves: text that shows as what it is. What HTML, a query or JSON
take as syntax is for the writer of that syntax to escape.
"""


def printable(text: str) -> str:
    r"""`text`, each character that isn't printable (as `str.isprintable` has it) as its escape, such as \x1b."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
