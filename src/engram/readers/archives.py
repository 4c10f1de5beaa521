"""Zip archives from elsewhere, before a library unpacks them into memory."""

import zipfile
from pathlib import Path

#: Bytes that the members of an archive may have beyond those of the archive itself: code and notes,
#: which are packed; numbers lie in it as they are.
SLACK = 64 << 20


def refuse_bomb(path):
    """Refuse a zip archive whose members are much larger than it; other files pass.

    Raises:
        ValueError: says how large they are.
    """
    if not zipfile.is_zipfile(path):
        return
    size = Path(path).stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > size + SLACK:
        raise ValueError(f"its archive inflates to {unpacked >> 20} MiB")
