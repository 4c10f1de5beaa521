"""The one error that a user can cause."""

CODE_VERSION = 1  # nothing that is computed depends on this file


class InputError(ValueError):
    """Bad input: the message names the file or key, what is wrong in it and what to do.

    A job that raises it logs the message alone, without a traceback.
    """
