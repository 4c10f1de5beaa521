"""Names that end up in paths: those of recordings, and those that a configuration gives.

Standard library only, like `engram.planning.plan`.
"""

import re
import unicodedata

#: Bytes of a name at most: a file system takes 255, and suffixes are put behind names.
LONGEST = 100


#: Matches paths in which nothing is looked for: no sign in them means something else.
PLAIN = re.compile(r"[\w./-]*").fullmatch


def fault_of_unit(name) -> str | None:
    """Why a folder cannot be called like a unit or a subject, and what may; None if it can."""
    if not name.isascii():  # letters that consist of several signs
        name = "".join(c for c in name if not unicodedata.category(c).startswith("M"))
    if not re.fullmatch(r"\w(?:[\w .@+()-]*[\w@+()-])?", name):
        return (
            "use letters, digits and any of _-.@+() or blanks within, and a letter or digit first"
        )
    return _too_long(name)


def fault_of_scan(name) -> str | None:
    """Why a row cannot be called after a scan, and what may; None if it can."""
    if "/" in name or not name.isprintable():
        return "leave out `/` and what does not print: it is a part of the names of rows"
    return _too_long(name)


def fault_of_key(name) -> str | None:
    """Why nothing in a configuration can have this name, and what may; None if it can."""
    if not re.fullmatch(r"\w[\w-]*", name):
        return "use letters, digits, '_' and '-', and a letter or digit first: it is part of paths"
    return _too_long(name)


def fault_of_path(path) -> str | None:
    """Why no file or folder is found under a path, and what to write; None if one may be."""
    if len(path) <= 60 and PLAIN(path):  # nearly every one of many thousands
        return None
    if "\\" in path:
        return "write / between folders, which works everywhere"
    if "://" in path:
        return "an address is no file; fetch it into the folder, or give the dataset a `source`"
    if "{" in path or "}" in path:
        return "the workflow takes what stands in braces for a wildcard; rename it"
    if re.search(r"<\w+>", path):
        return "the workflow takes what stands in <> for a part of its own paths; rename it"
    if path.startswith("~"):
        return "`~` is no folder here; write the path out"
    if not path.isprintable():
        return "leave out what does not print"
    if any(len(part.encode()) > 255 for part in path.split("/")):
        return "a name of more than 255 bytes is on no disk; shorten it"
    return None


def _too_long(name):
    if len(name.encode()) > LONGEST:
        return f"it has more than {LONGEST} bytes; shorten it"
    return None


def alike(name) -> str:
    """What names have in common that differ in nothing but case or in the form of letters."""
    return unicodedata.normalize("NFKC", name).casefold()
