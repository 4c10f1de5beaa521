"""How fast one file comes over loopback, beside other clients.

    python benchmarks/transfer.py [--mib 256] [--folder DIR] [--engine ENGINE]

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (MiB a second) and
peak_mib.  Each engine runs in a process of its own, with its imports done, against a server in
another; the best of three downloads counts, each to a new file.  engram and pooch compute the
SHA-256 of what comes, engram also syncs the file to the disk; curl does neither.  An engine that is
not installed is left out.
"""

import argparse
import functools
import hashlib
import http.server
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

RUNS = 3


def engram(url, path, sha256):
    from engram.web.transfer import fetch

    fetch(url, path, checksums={"sha256": sha256})


def pooch(url, path, sha256):
    import pooch

    pooch.get_logger().setLevel("WARNING")
    pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent)


def curl(url, path, sha256):
    subprocess.run(["curl", "--silent", "--fail", "--output", path, url], check=True)


ENGINES = {"engram": engram, "pooch": pooch, "curl": curl}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        self.connection.sendfile(source)


def serve(folder, port):
    """Serve a folder until the process ends; its port goes into the queue `port`."""
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    port.put(server.server_port)
    server.serve_forever()


def publish(folder, name, mib):
    """Write a random file; return its SHA-256."""
    sha256 = hashlib.sha256()
    # In pieces: a process is born with the peak memory of its parent.
    with (Path(folder) / name).open("wb") as file:
        for _ in range(mib):
            piece = os.urandom(1 << 20)
            file.write(piece)
            sha256.update(piece)
    return sha256.hexdigest()


def spent():
    """CPU seconds of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(engine, base, sums, mib, folder, queue):
    """Put the result of one engine into a queue."""
    results = []
    for number, name in enumerate(["small", *["large"] * RUNS]):  # libraries warm up
        path = Path(folder) / f"{engine}-{number}"
        wall, cpu = time.perf_counter(), spent()
        ENGINES[engine](f"{base}/{name}", path, sums[name])
        results.append((time.perf_counter() - wall, spent() - cpu))
        path.unlink()
    seconds, cpu = min(results[1:])
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    result = {
        "case": f"{mib} MiB",
        "engine": engine,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "rate": round(mib / seconds),
        "peak_mib": max(resource.getrusage(kind).ru_maxrss for kind in kinds) // 1024,
    }
    queue.put(result)


def installed(engine):
    return shutil.which(engine) if engine == "curl" else importlib.util.find_spec(engine)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--folder", help="on the disk to measure; by default a temporary one")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    given = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        sums = {"small": publish(folder, "small", 1), "large": publish(folder, "large", given.mib)}
        port, queue = context.Queue(), context.Queue()
        server = context.Process(target=serve, args=(folder, port), daemon=True)
        server.start()
        base = f"http://127.0.0.1:{port.get()}"
        for engine in filter(installed, given.engine or ENGINES):
            arguments = (engine, base, sums, given.mib, folder, queue)
            process = context.Process(target=measure, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{engine}: failed")
            print(json.dumps(queue.get()), flush=True)
        server.terminate()


if __name__ == "__main__":
    main()
