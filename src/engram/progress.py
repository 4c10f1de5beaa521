"""How far a loop has come, for a person at a terminal and in a log file alike."""

import sys

from tqdm import tqdm

CODE_VERSION = 1  # nothing that is computed depends on this file

SECONDS_BETWEEN_LINES = 5.0
LINE = (
    "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
)


def progress(items, what, unit="rows", done=0):
    """A progress bar with speed and time left; in a log file a whole line every few seconds.

    Args:
        items: what to iterate over, or the total as an int (None if unknown); then call
            `update(n)` on the result.
        what: says what is going on, e.g. the name of the model.
        unit: plural of what is counted; "bytes" are shown as k, M, G.
        done: how many an earlier run finished; they do not count for the speed.

    Returns:
        A tqdm bar: an iterable and a context manager.
    """
    items, total = (None, items) if isinstance(items, int) else (items, None)
    in_file = {"file": _Lines(), "mininterval": SECONDS_BETWEEN_LINES, "bar_format": LINE}
    return tqdm(
        items,
        desc=what,
        total=total,
        unit=f" {unit}",
        unit_scale=unit == "bytes",
        initial=done,
        miniters=1,
        **({} if sys.stderr.isatty() else in_file),
    )


class _Lines:
    """Turns a bar that redraws itself into lines."""

    def write(self, text):
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self):
        sys.stderr.flush()
