"""A small web server on loopback that publishes files, speaks OSF, and misbehaves on request."""

import contextlib
import email.utils
import hashlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
MODIFIED = "Wed, 01 Jan 2020 00:00:00 GMT"


class Server:
    """Serves `files` under ``/data/`` and documents of `routes`; a context manager.

    Attributes:
        url: of the root.
        files: name -> bytes.
        faults: name -> what goes wrong with that file, see `Handler.fault_*`.
        routes: path -> function of (query, headers) that returns (status, headers, body).
        requests: (path with query, headers) of every request so far.
        together: most requests answered at one time.
    """

    def __init__(self, host="127.0.0.1"):
        self.files, self.faults, self.routes, self.requests = {}, {}, {}, []
        self.counts, self.lock, self.closing = Counter(), threading.Lock(), threading.Event()
        self.active = self.together = 0
        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.owner = self
        self.url = f"http://{host}:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def publish(self, name, data, fault=None):
        """The address of a new file."""
        self.files[name] = data
        self.faults[name] = fault
        return f"{self.url}/data/{quote(name)}"

    def asked(self, path):
        """Headers of the requests for `path` so far."""
        return [headers for found, headers in self.requests if urlsplit(found).path == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client has heard enough
            super().handle()

    def do_GET(self):
        owner = self.server.owner
        with owner.lock:
            owner.active += 1
            owner.together = max(owner.together, owner.active)
            owner.requests.append((self.path, dict(self.headers)))
            owner.counts[urlsplit(self.path).path] += 1
            self.turn = owner.counts[urlsplit(self.path).path]
        try:
            self.respond(owner)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with owner.lock:
                owner.active -= 1

    def do_HEAD(self):
        self.do_GET()

    def respond(self, owner):
        parts = urlsplit(self.path)
        if parts.path in owner.routes:
            return self.send(*owner.routes[parts.path](parse_qs(parts.query), self.headers))
        name = re.sub("%([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), parts.path)
        name = name.encode("latin-1").decode().removeprefix("/data/")
        if name not in owner.files:
            return self.send(404, {}, b"no such file")
        self.name, self.data = name, owner.files[name]
        fault = owner.faults[name]
        if fault is None:
            return self.file()
        word, _, argument = fault.partition(" ")
        return getattr(self, f"fault_{word}")(argument)

    def send(self, status, headers, body):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def file(self, upto=None, ranges=True, length=True, etag=None, pieces=None, deaf=False):
        """The file or the rest of it, and then perhaps no more than `upto` of its bytes."""
        etag = etag or f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and ranges and (deaf or self.headers.get("If-Range", etag) == etag):
            start = int(wanted[1])
            if start >= len(self.data):
                return self.send(416, {"Content-Range": f"bytes */{len(self.data)}"}, b"")
        self.send_response(206 if start else 200)
        if start:
            last = len(self.data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(self.data)}")
        if etag != "none":
            self.send_header("ETag", etag)
        self.send_header("Last-Modified", MODIFIED)
        self.send_header("Content-Type", "application/octet-stream")
        if length:
            self.send_header("Content-Length", str(len(self.data) - start))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        body = self.data[start : upto if upto is not None else len(self.data)]
        for at in range(0, len(body), pieces or len(body) or 1):
            self.wfile.write(body[at : at + (pieces or len(body))])
            if pieces and self.server.owner.closing.wait(0.005):
                break
        if upto is not None or not length:
            self.close_connection = True

    def fault_status(self, argument):
        """A status the first so many times: `status 500 2`."""
        status, times = map(int, argument.split())
        return self.send(status, {}, b"{}") if self.turn <= times else self.file()

    def fault_busy(self, argument):
        """429 with Retry-After, in seconds or as a date, the first so many times."""
        kind, value, times = argument.split()
        if self.turn > int(times):
            return self.file()
        date = email.utils.formatdate(time.time() + float(value), usegmt=True)
        return self.send(429, {"Retry-After": date if kind == "date" else value}, b"{}")

    def fault_cut(self, argument):
        """The body ends after a third; `once`, or `always` at the same place."""
        return self.file(len(self.data) // 3 if argument == "always" or self.turn == 1 else None)

    def fault_misplaced(self, argument):
        """Cut once, then the rest is answered with as many bytes from the beginning."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if self.turn == 1 or not wanted:
            return self.file(len(self.data) // 3 if self.turn == 1 else None)
        body = self.data[: len(self.data) - int(wanted[1])]
        span = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(self.data)}"}
        tag = {"ETag": f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'}
        return self.send(206, span | tag, body)

    def fault_drips(self, argument):
        """Every answer is cut after so many bytes."""
        start = int((re.findall(r"\d+", self.headers.get("Range", "")) or ["0"])[0])
        return self.file(start + int(argument))

    def fault_unlimited(self, argument):
        """No Content-Length; cut `once` after a third, or `never`."""
        cut = argument == "once" and self.turn == 1
        return self.file(len(self.data) // 3 if cut else None, length=False)

    def fault_chunked(self, argument):
        """Chunked encoding, cut once after a third."""
        cut = self.turn == 1
        body = self.data[: len(self.data) // 3] if cut else self.data
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(body), 1000):
            piece = body[at : at + 1000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def fault_wrong(self, argument):
        self.data = self.data[:-1] + bytes([self.data[-1] ^ 1])
        return self.file()

    def fault_longer(self, argument):
        self.data += b"more"
        return self.file(length=argument != "silently")

    def fault_page(self, argument):
        """A web page with status 200, called what it is or not."""
        return self.send(200, {"Content-Type": argument or "text/html; charset=utf-8"}, PAGE)

    def fault_loop(self, argument):
        return self.send(302, {"Location": f"/data/{quote(self.name)}?again={self.turn}"}, b"")

    def fault_redirect(self, argument):
        return self.send(302, {"Location": argument}, b"")

    def fault_heavy(self, argument):
        """A redirect whose own body never ends."""
        self.send_response(302)
        self.send_header("Location", argument)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        self.server.owner.closing.wait(30)
        self.close_connection = True

    def fault_stall(self, argument):
        """Half of the body, then silence: `once` or `always`."""
        if argument == "once" and self.turn > 1:
            return self.file()
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: len(self.data) // 2])
        self.server.owner.closing.wait(30)
        self.close_connection = True

    def fault_slow(self, argument):
        return self.file(pieces=int(argument))

    def fault_rigid(self, argument):
        """No ranges, and cut once."""
        return self.file(len(self.data) // 3 if self.turn == 1 else None, ranges=False)

    def fault_changes(self, argument):
        """Cut once; then it is another file of the same length, or `deaf` to If-Range too."""
        if self.turn > 1:
            self.data = self.data[::-1]
        deaf = argument == "deaf"
        return self.file(len(self.data) // 3 if self.turn == 1 else None, deaf=deaf)

    def fault_anonymous(self, argument):
        """Cut once, and no entity tag to recognise the file by."""
        return self.file(len(self.data) // 3 if self.turn == 1 else None, etag="none")


class Osf:
    """The part of the OSF's API that lists files, over a `Server`; contents lie on another host.

    A tree is a dict of names to bytes (files) or dicts (folders); a file may also be
    (bytes, hashes), the hashes that the API claims.

    Attributes:
        base: URL of the API.
        page_size: most entries of a page, whatever the client asks for.
        token: that a client must send, None for a public project.
    """

    def __init__(self, api, storage, page_size=2, token=None):
        self.api, self.storage, self.page_size, self.token = api, storage, page_size, token
        self.base = f"{api.url}/v2"
        self.count = 0

    def node(self, node, tree, children=(), providers=("osfstorage",)):
        """Publish a project and its components."""
        root = f"/v2/nodes/{node}"
        entries = [
            {
                "type": "files",
                "attributes": {"kind": "folder", "name": name, "provider": name, "path": "/"},
                "relationships": self.related(f"{root}/files/{name}/"),
            }
            for name in providers
        ]
        self.listing(f"{root}/files/", entries)
        self.listing(f"{root}/children/", [{"id": child, "type": "nodes"} for child in children])
        self.folder(f"{root}/files/osfstorage/", tree)

    def folder(self, path, tree):
        entries = []
        for name, content in tree.items():
            self.count += 1
            if isinstance(content, dict):
                below = f"{path}{self.count:024x}/"
                self.folder(below, content)
                attributes = {"kind": "folder", "name": name}
                entries.append({"attributes": attributes, "relationships": self.related(below)})
            else:
                entries.append(self.file(name, content))
        self.listing(path, entries)

    def file(self, name, content):
        data, hashes = content if isinstance(content, tuple) else (content, sums(content))
        stored = self.storage.publish(f"blob{self.count}", data)
        download = f"/download/{self.count}/"
        self.api.routes[download] = lambda query, headers: (
            302,
            {"Location": f"{stored}?signature=secret"},
            b"",
        )
        return {
            "attributes": {
                "kind": "file",
                "name": name,
                "size": len(data),
                "current_version": 3,
                "extra": {"hashes": hashes},
            },
            "links": {"download": f"{self.api.url}{download}"},
        }

    def related(self, path):
        return {"files": {"links": {"related": {"href": f"{self.api.url}{path}"}}}}

    def listing(self, path, entries):
        def answer(query, headers):
            if self.token and headers.get("Authorization") != f"Bearer {self.token}":
                return 401, {}, b"{}"
            number = int(query.get("page", ["1"])[0])
            size = min(int(query.get("page[size]", ["10"])[0]), self.page_size)
            some = entries[(number - 1) * size : number * size]
            more = number * size < len(entries)
            link = f"{self.api.url}{path}?page={number + 1}&page%5Bsize%5D={size}"
            body = {"data": some, "links": {"next": link if more else None}}
            return 200, {"Content-Type": "application/vnd.api+json"}, json.dumps(body).encode()

        self.api.routes[path] = answer


def sums(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data).hexdigest()}
