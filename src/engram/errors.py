"""The one error that a user can cause."""

CODE_VERSION = 1  # nothing that is computed depends on this file


class InputError(ValueError):
    """Bad input: the message names the file or key, what is wrong in it and what to do.

    A job that raises it logs the message alone, without a traceback.
    """

    def __str__(self):
        return printable(super().__str__())


def printable(text) -> str:
    """A text on one line, newlines and escapes as Python spells them.

    Names and answers of others may hold some, which forge lines of a log or a terminal.
    """
    text = str(text)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
