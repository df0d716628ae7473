"""The documents, for those who test what stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


def fenced(page):
    """Give every fenced block of a page: language, stage, text."""
    return re.findall(r"^```(\w*) ?(\w*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


def shell(stage):
    """Give the page and the text of every block of a shell's commands at that stage."""
    return [
        (page, text)
        for page in sorted(PAGES)
        for language, where, text in fenced(page)
        if (language, where) == ("sh", stage)
    ]


def is_make(text):
    """Tell whether a block only calls make."""
    return all(line.startswith(("make ", "#")) for line in text.splitlines() if line.strip())
