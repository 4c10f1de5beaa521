"""The one error that a user can cause."""

CODE_VERSION = 1  # nothing that is computed depends on this file


class InputError(ValueError):
    """Bad input: the message names the file or key, what is wrong in it and what to do.

    A job that raises it logs the message alone, without a traceback.
    """

    def __str__(self):
        # Names and answers of others may hold newlines and escapes, which forge lines of a log.
        text = super().__str__()
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
