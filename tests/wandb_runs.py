"""What a run of Weights & Biases left behind: read from its file, or taken by a server here."""

import json
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BLOCK = 32768  # of the log format of LevelDB, which the file of a run has
FIRST, MIDDLE = 2, 3


def records(path):
    """The records of a `.wandb` file, as its protocol names them, checksums compared."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = Path(path).read_bytes()
    assert data[:7] == struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    at, whole = 7, b""
    while at < len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        assert zlib.crc32(bytes([kind]) + part) == checksum
        at, whole = at + 7 + length, whole + part
        if kind not in (FIRST, MIDDLE):
            yield Record.FromString(whole)
            whole = b""


def items(found):
    """{key: value} of a record's items; nested keys are joined by dots."""
    return {
        one.key or ".".join(one.nested_key): json.loads(one.value_json)
        for one in found
        if not (one.key or one.nested_key[0]).startswith("_")
    }


class Offline:
    """One offline run.

    Attributes:
        run: its first record: project, names, tags, host.
        config, summary: dicts.
        history: one dict a step.
        artifacts: records of logged artifacts.
    """

    def __init__(self, folder):
        (path,) = Path(folder).glob("*.wandb")
        self.config, self.summary, self.history, self.artifacts = {}, {}, [], []
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= items(record.run.config.update)
            elif kind == "config":
                self.config |= items(record.config.update)
            elif kind == "summary":
                self.summary |= items(record.summary.update)
            elif kind == "history":
                step = {"_step": record.history.step.num}
                self.history.append(items(record.history.item) | step)
            elif kind == "artifact":
                self.artifacts.append(record.artifact)


class Server:
    """A stand-in for the server of Weights & Biases on loopback; a context manager.

    Attributes:
        url: of its root.
        requests: (method, path, headers, body as text) of every request so far.
    """

    def __enter__(self):
        self.requests = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.owner = True, self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def upserts(self):
        """Variables of the requests that write down a run, without those that are empty."""
        for _, path, _, body in self.requests:
            if path == "/graphql" and "mutation UpsertBucket" in body:
                variables = json.loads(body)["variables"]
                yield {key: value for key, value in variables.items() if value is not None}

    def streamed(self, name):
        """The lines that were sent for a file of the run, parsed."""
        bodies = [json.loads(b) for _, path, _, b in self.requests if path.endswith("/file_stream")]
        files = [body["files"][name] for body in bodies if name in body.get("files", {})]
        return [json.loads(line) for file in files for line in file["content"]]

    def uploaded(self):
        """{name: text} of the files that were sent."""
        return {path.removeprefix("/upload/"): body for method, path, _, body in self.requests
                if method == "PUT"}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode("utf-8", "replace")
        owner = self.server.owner
        owner.requests.append((self.command, self.path, dict(self.headers), body))
        asked = json.loads(body) if self.path == "/graphql" else {"query": ""}
        reply = json.dumps(self.reply(asked["query"], asked.get("variables"))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = do_PUT = do_CONNECT = answer

    def reply(self, query, variables):
        if "mutation UpsertBucket" in query:
            owner = {"id": "e", "name": "lab"}
            project = {"id": "p", "name": variables["project"], "entity": owner}
            bucket = {"id": "b", "name": variables["name"], "config": "{}", "project": project,
                      "displayName": variables["displayName"], "historyLineCount": 0}  # fmt: skip
            return {"data": {"upsertBucket": {"inserted": True, "bucket": bucket}}}
        if "mutation CreateRunFiles" in query:
            url = f"{self.server.owner.url}/upload"
            files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return {"data": {}}
