"""What a server says instead of a file: web pages, error documents, pointers to a file."""

import codecs
import json
import re

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

HEAD = 1 << 16  # bytes of a file that are looked at
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
BEFORE = re.compile(
    r"\s+|<!--.*?(-->|\Z)|<\?.*?(\?>|\Z)|<!doctype\s+(?!html\b)[^>\[]*>", re.S | re.I
)
PAGE = re.compile(
    r"<(!doctype\s+html|html|head|body|title|script|style|meta|link|center|h[1-6]|p|div)\b"
)
FAULT = re.compile(r"<(\w+:)?(\w*errors?|error\w*|\w*faults?|exception\w*)[\s>/]")
ENVELOPE = re.compile(
    r"<(\w+:)?(envelope|response|result|rsp)\b.*?<(\w+:)?(fault|error\w*)[\s>/]", re.S
)
POINTERS = ("version https://git-lfs.github.com/spec/", "/annex/objects/")
#: Keys of a small JSON object that is an error, and those that may stand beside them.
ERRORS = {"error", "errors", "fault", "exception", "error_description", "errormessage"}
MESSAGES = {"message", "msg", "detail", "details", "title", "reason", "description"}
CODES = {"code", "status", "statuscode", "status_code", "errorcode", "error_code", "type"}
ADDED = {
    "documentation_url", "requestid", "request_id", "request", "timestamp", "path", "instance",
    "success", "ok", "data", "result", "meta", "url", "errorid", "trace", "traceid", "resource",
}  # fmt: skip


def instead(head, name) -> str | None:
    """What came instead of the file `name`: "a web page", "an error document", ...; None: nothing.

    Args:
        head: the first `HEAD` bytes of the file, or all of them.
        name: of the file: a page may be what is wanted.
    """
    text = _text(head)
    if not text:
        return None
    text = _without_preamble(text)
    if not text:  # comments alone, as far as one can see
        text = "<html"
    if text.startswith(POINTERS):
        return "a pointer to the file (Git LFS, git-annex)"
    lower = text[:4096].lower()
    if FAULT.match(lower) or ENVELOPE.match(lower) or _is_json_error(text, name):
        return "an error document"
    return "a web page" if PAGE.match(lower) and not is_page_name(name) else None


def is_page_name(name) -> bool:
    return name.lower().endswith((".html", ".htm", ".xhtml"))


def _text(head):
    """The beginning of a text in whatever encoding; None of other data."""
    for mark, encoding in BOMS:
        if head.startswith(mark):
            return head[len(mark) :].decode(encoding, "replace")
    zeros = bytes(0 if byte == 0 else ord(".") for byte in head[:4])
    encoding = {b"..\0\0": None, b".\0\0\0": "utf-32-le", b"\0\0\0.": "utf-32-be"}.get(zeros)
    encoding = encoding or {b".\0.\0": "utf-16-le", b"\0.\0.": "utf-16-be"}.get(zeros, "utf-8")
    text = head.decode(encoding, "replace")
    return text if text.lstrip()[:1] in ("<", "{", "[", "v", "/", '"') else None


def _without_preamble(text):
    """A text without blanks, comments, XML declarations and types before its first element."""
    at = 0
    while found := BEFORE.match(text, at):
        at = found.end()
    return text[at:]


def _is_json_error(text, name):
    """Whether a text is one JSON object that says what went wrong and nothing else."""
    if len(text) >= HEAD:
        return False
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return False
    keys = {key.lower() for key in found}
    telling = MESSAGES if not name.lower().endswith(".json") else {"message", "msg", "detail"}
    if keys & ERRORS:
        return keys <= ERRORS | MESSAGES | CODES | ADDED
    return bool(keys & telling) and keys <= MESSAGES | CODES | ADDED
