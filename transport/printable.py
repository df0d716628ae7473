"""Text of strangers, made fit for logs and terminals: an escape sequence in a name could rewrite what stands there."""


def printable(text: str, instead: str = "\ufffd") -> str:
    """Put `instead` in the place of each character that is not printable (`str.isprintable`)."""
    return "".join(each if each.isprintable() else instead for each in text)
