"""Buckets against moto, an S3-compatible server, and against servers that misbehave."""

import contextlib
import json
import socket
import socketserver
import threading
from urllib.parse import urlsplit

import botocore.session
import pytest
import requests
from moto.backends import get_backend
from moto.server import ThreadedMotoServer
from server import PAGE, Server, sums

from engram.errors import InputError
from engram.sources import read_lock, s3, write_lock
from engram.web.client import Limits
from engram.web.transfer import fetch, fetch_all

QUICK = Limits(connect=2, read=5, retries=1, backoff=0.001, longest_wait=0.05)
ACCOUNT = "123456789012"  # moto's

MANY = {f"many/{number:04}.txt": b"%d" % number for number in range(1020)}
DATA = {
    "data/sub-01/a b+(1)&ü~.npy": b"1a" * 100_000,
    "data/sub-01/eeg/b.npy": b"1b",
    "data/sub-02/a.npy": b"2a",
}


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """Neither proxies nor credentials of this machine."""
    words = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION")
    names = [f"AWS_{word}" for word in (*words, "PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_S3")]
    names += ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


def client(service, url, key="anyone", secret="anything"):
    session = botocore.session.Session()
    session.set_credentials(key, secret)
    return session.create_client(service, "us-east-1", endpoint_url=url)


@pytest.fixture(scope="module")
def moto():
    """URL of a server with one public bucket, `open-data`, of more than one page."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    owner = client("s3", url)
    owner.create_bucket(Bucket="open-data", ACL="public-read")
    for key, data in {**DATA, "data/": b""}.items():
        owner.put_object(Bucket="open-data", Key=key, Body=data, ACL="public-read")
    for key, data in MANY.items():
        get_backend("s3")[ACCOUNT]["aws"].put_object("open-data", key, data)
    yield url
    server.stop()


@pytest.fixture
def keys(moto):
    """Access key and secret of a person who may read, on a server that knows nobody else."""
    iam = client("iam", moto)
    iam.create_user(UserName="reader")
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    made = iam.create_access_key(UserName="reader")["AccessKey"]
    requests.post(f"{moto}/moto-api/reset-auth", data=b"0").raise_for_status()
    yield made["AccessKeyId"], made["SecretAccessKey"]
    requests.post(f"{moto}/moto-api/reset-auth", data=b"inf").raise_for_status()
    iam.delete_access_key(UserName="reader", AccessKeyId=made["AccessKeyId"])
    iam.delete_user_policy(UserName="reader", PolicyName="read")
    iam.delete_user(UserName="reader")


def become(monkeypatch, key, secret):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def below(folder):
    return {key.removeprefix(folder): data for key, data in DATA.items()}


# An S3-compatible server


def test_a_bucket_of_two_pages_is_listed_in_full(moto):
    files = s3.list_files("s3://open-data/", endpoint=moto, limits=QUICK)
    everything = DATA | MANY
    assert len(everything) > 1000  # of a page
    assert {file.path: file.size for file in files} == {k: len(v) for k, v in everything.items()}
    assert all(file.checksums == {"md5": sums(everything[file.path])["md5"]} for file in files)


def test_a_folder_is_fetched_without_credentials_and_verified(moto, tmp_path):
    files = s3.list_files("open-data/data/", endpoint=moto, limits=QUICK)
    write_lock(tmp_path / "lock.csv", files)
    reach = s3.access("open-data/data/", endpoint=moto)
    fetch_all(read_lock(tmp_path / "lock.csv"), tmp_path / "raw", limits=QUICK, **reach)
    assert contents(tmp_path / "raw") == below("data/")


def test_a_pattern_must_fit(moto):
    def listed(*include):
        return s3.list_files("open-data", include=include, endpoint=moto, limits=QUICK)

    assert [file.path for file in listed("data/sub-0?/a.npy")] == ["data/sub-02/a.npy"]
    with pytest.raises(InputError, match="no file fits the pattern 'nothing'"):
        listed("nothing")


def test_an_object_that_changed_since_the_listing_is_refused(moto, tmp_path):
    owner = client("s3", moto)
    owner.put_object(Bucket="open-data", Key="changing/x", Body=b"before", ACL="public-read")
    (file,) = s3.list_files("open-data/changing", endpoint=moto, limits=QUICK)
    owner.put_object(Bucket="open-data", Key="changing/x", Body=b"after!", ACL="public-read")
    with pytest.raises(InputError, match=f"md5 is {sums(b'after!')['md5']} instead of"):
        fetch_all([file], tmp_path / "raw", limits=QUICK)
    owner.delete_object(Bucket="open-data", Key="changing/x")


def test_the_tag_of_an_upload_in_parts_is_no_md5(moto):
    where = {"Bucket": "open-data", "Key": "parts/x"}
    owner = client("s3", moto)
    upload = where | {"UploadId": owner.create_multipart_upload(**where)["UploadId"]}
    tag = owner.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]
    owner.complete_multipart_upload(
        **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]}
    )
    (file,) = s3.list_files("open-data/parts", endpoint=moto, limits=QUICK)
    assert (file.checksums, file.version[-2:], file.size) == ({}, "-1", 4)
    owner.delete_object(**where)


def test_credentials_of_the_environment_list_and_fetch(moto, keys, tmp_path, monkeypatch):
    how = {"endpoint": moto, "anonymous": False}
    become(monkeypatch, *keys)
    files = s3.list_files("open-data/data", **how, limits=QUICK)
    assert {file.path for file in files} == set(below("data/"))
    assert not any(file.checksums for file in files)  # encrypted objects have other tags
    assert not any(secret in str(files) for secret in keys)
    fetch_all(files, tmp_path / "raw", limits=QUICK, **s3.access("open-data/data", **how))
    assert contents(tmp_path / "raw") == below("data/")
    assert len(s3.list_files("open-data", **how, limits=QUICK)) == len(DATA | MANY)


def test_a_profile_is_found_too(moto, keys, tmp_path, monkeypatch):
    text = "[lab]\naws_access_key_id = {}\naws_secret_access_key = {}\n".format(*keys)
    (tmp_path / "aws-credentials").write_text(text)
    how = {"endpoint": moto, "anonymous": False}
    with pytest.raises(InputError, match="needs credentials: set AWS_ACCESS_KEY_ID .* AWS_PROFILE"):
        s3.list_files("open-data", **how, limits=QUICK)
    with pytest.raises(InputError, match="S3 open-data: needs credentials"):
        s3.access("open-data", **how)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    (file,) = s3.list_files("open-data/data/sub-02", **how, limits=QUICK)
    fetch(file.url, tmp_path / "a.npy", limits=QUICK, **s3.access("open-data", **how))
    assert (tmp_path / "a.npy").read_bytes() == DATA["data/sub-02/a.npy"]
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(InputError, match=r"S3 open-data: The config profile \(other\) could not"):
        s3.list_files("open-data", **how, limits=QUICK)


def test_a_wrong_secret_is_one_clear_error(moto, keys, tmp_path, monkeypatch):
    how = {"endpoint": moto, "anonymous": False}
    become(monkeypatch, keys[0], "wrong-secret")
    with pytest.raises(InputError, match="the secret does not belong to the access key") as error:
        s3.list_files("open-data", **how, limits=QUICK)
    assert str(error.value).startswith(f"{moto}: S3 open-data: SignatureDoesNotMatch: ")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="status 403: access is refused: a token is .* wrong"):
        fetch(f"{moto}/open-data/x", tmp_path / "x", limits=QUICK, **s3.access("open-data", **how))
    become(monkeypatch, "AKIAUNKNOWN", "wrong-secret")
    with pytest.raises(InputError, match="does not know this access key"):
        s3.list_files("open-data", **how, limits=QUICK)


def test_a_private_object_is_refused_to_nobody(moto, tmp_path):
    (file,) = s3.list_files("open-data", include=["many/0007.txt"], endpoint=moto, limits=QUICK)
    with pytest.raises(InputError, match="status 403: access is refused"):
        fetch(file.url, tmp_path / "x", limits=QUICK)


def test_a_missing_bucket_or_folder_is_said(moto):
    with pytest.raises(InputError, match="S3 no-such-data: NoSuchBucket: there is no such bucket"):
        s3.list_files("no-such-data", endpoint=moto, limits=QUICK)
    with pytest.raises(InputError, match="S3 open-data/nothing: no file to fetch"):
        s3.list_files("open-data/nothing", endpoint=moto, limits=QUICK)


class Relay(socketserver.ThreadingTCPServer):
    """Hands bytes on to a server; the first answer breaks off after `cut` bytes."""

    daemon_threads = True

    def __init__(self, url, cut):
        super().__init__(("127.0.0.1", 0), Relay.Handler)
        parts = urlsplit(url)
        self.target, self.cut, self.asked = (parts.hostname, parts.port), cut, b""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection(self.server.target) as upstream:
                up = threading.Thread(target=self.ask, args=(upstream,), daemon=True)
                up.start()
                handed = 0
                while data := upstream.recv(4096):
                    handed += len(data)
                    self.request.sendall(data)
                    if self.server.cut and handed > self.server.cut:
                        self.server.cut = None
                        break

        def ask(self, upstream):
            with contextlib.suppress(OSError):  # the other half has broken off
                while data := self.request.recv(65536):
                    self.server.asked += data
                    upstream.sendall(data)
                upstream.shutdown(socket.SHUT_WR)


def test_a_signed_download_that_was_cut_continues(moto, keys, tmp_path, monkeypatch):
    become(monkeypatch, *keys)
    with Relay(moto, cut=50_000) as relay:
        how = {"endpoint": relay.url, "anonymous": False}
        (file,) = s3.list_files(
            "open-data/data", include=["sub-01/a*"], **how, limits=Limits(read=5)
        )
        assert relay.cut == 50_000
        fetch_all([file], tmp_path / "raw", limits=QUICK, **s3.access("open-data", **how))
        assert relay.cut is None
        asked = relay.asked
        relay.shutdown()
    assert contents(tmp_path / "raw") == {file.path: DATA["data/sub-01/a b+(1)&ü~.npy"]}
    assert asked.count(b"GET /open-data/data/") == 2
    start = int(asked.partition(b"Range: bytes=")[2].partition(b"-")[0])
    assert 40_000 < start < 60_000


# Servers that misbehave


@pytest.fixture
def api():
    with Server() as running:
        yield running


@pytest.fixture
def storage():
    with Server() as running:
        yield running


ENTRY = "<Contents><Key>{}</Key><Size>1</Size></Contents>"


def page(*keys, following=None, more=None):
    """A page of a listing."""
    more = following is not None if more is None else more
    body = "".join(ENTRY.format(key) for key in keys)
    body += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    if following is not None:
        body += f"<NextContinuationToken>{following}</NextContinuationToken>"
    text = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}'
    return 200, {"Content-Type": "application/xml"}, f"{text}</ListBucketResult>".encode()


def refusal(status, code, headers=None, more=""):
    body = f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>"
    return status, headers or {}, body.encode()


def test_signatures_go_to_the_bucket_and_nowhere_else(
    api, storage, tmp_path, monkeypatch, capfd, caplog
):
    caplog.set_level("DEBUG")
    become(monkeypatch, "AKIA", "secret-of-a-person")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-of-a-person")
    how = {"endpoint": api.url, "anonymous": False}
    api.routes["/open-data"] = lambda query, headers: page("x")
    stored = storage.publish("x", b"x")
    api.routes["/open-data/x"] = lambda query, headers: (302, {"Location": stored}, b"")
    files = s3.list_files("open-data", **how, limits=QUICK)
    fetch_all(files, tmp_path / "raw", limits=QUICK, **s3.access("open-data", **how))
    assert contents(tmp_path / "raw") == {"x": b"x"}
    assert len(api.requests) == 2
    for _, headers in api.requests:
        headers = {name.lower(): value for name, value in headers.items()}
        assert "Credential=AKIA/" in headers["authorization"]
        assert headers["x-amz-security-token"] == "session-of-a-person"
    assert "AKIA" not in str(storage.requests)
    assert "of-a-person" not in str(storage.requests)
    assert "secret-of-a-person" not in str(api.requests)
    assert "of-a-person" not in "".join([caplog.text, str(files), *capfd.readouterr()])


def test_a_listing_is_never_led_to_another_server(api, storage):
    elsewhere = {"Location": f"{storage.url}/open-data"}
    for status in (301, 302, 307):
        api.routes["/open-data"] = lambda q, h, status=status: refusal(status, "Moved", elsewhere)
        with pytest.raises(InputError, match="Moved: refused"):
            s3.list_files("open-data", endpoint=api.url, limits=QUICK)
    assert not storage.requests


def test_a_bucket_in_another_region_is_said(api, monkeypatch):
    header = {"x-amz-bucket-region": "eu-west-1"}
    api.routes["/open-data"] = lambda q, h: refusal(301, "PermanentRedirect", header)
    with pytest.raises(InputError, match="PermanentRedirect: it lies in another region: set `reg"):
        s3.list_files("open-data", endpoint=api.url, limits=QUICK)

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", api.url)  # in the place of Amazon
    status, kind, body = page("x")
    api.routes["/open-data"] = lambda q, h: (status, kind | header, body)
    become(monkeypatch, "AKIA", "secret")
    with pytest.raises(InputError, match="it lies in another region: set `region: eu-west-1`"):
        s3.list_files("open-data", anonymous=False, limits=QUICK)
    for how in ({"anonymous": False, "region": "eu-west-1"}, {}):
        (file,) = s3.list_files("open-data", **how, limits=QUICK)
        assert file.url == f"{api.url}/open-data/x"


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((200, {"Content-Type": "text/html"}, PAGE), "the answer is not a listing of a bucket"),
        ((200, {}, b"<html>" * 10), "500: the server fails or is none of S3"),
        ((200, {"Content-Length": "9999", "Connection": "close"}, b"<L>"), "was cut"),
        (page("x", more=True), "its listing breaks off"),
        (page("x", following="again"), "its listing repeats itself"),
        (page("x", "x"), "lists 'x' twice"),
        (page("../x"), "refused"),
        (page(), "no file to fetch"),
        ((200, {}, page("x")[2].replace(b"Size", b"Width")), "a listing of another form"),
        (refusal(403, "AccessDenied"), "AccessDenied: access is refused: set `anonymous: false`"),
        (refusal(403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        (refusal(400, "Strange"), "Strange: refused"),
        (refusal(503, "SlowDown"), "SlowDown: the server fails or is none of S3; run"),
        ((500, {}, b""), "500: the server fails"),
    ],
)
def test_a_bucket_that_misbehaves_is_refused(api, answer, match):
    api.routes["/open-data"] = lambda query, headers: answer
    with pytest.raises(InputError, match=match) as error:
        s3.list_files("open-data", endpoint=api.url, limits=QUICK)
    assert "\n" not in str(error.value)
    again = any(word in match for word in ("fails", "repeats", "was cut"))
    assert len(api.requests) == (2 if again else 1)


def test_entities_without_end_are_refused(api):
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 50}">' for n in range(1, 9))
    text = f'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{bomb}]>'.encode()
    body = text + page("x")[2].replace(b"<Key>x", b"<Key>&a8;")
    api.routes["/open-data"] = lambda query, headers: (200, {}, body)
    with pytest.raises(InputError, match="the server fails or is none of S3"):
        s3.list_files("open-data", endpoint=api.url, limits=QUICK)


def test_a_bucket_without_end_is_refused(api):
    def listing(query, headers):
        number = int(query.get("continuation-token", ["0"])[0])
        return page(number, following=number + 1)

    api.routes["/open-data"] = listing
    with pytest.raises(InputError, match="does not end within 5 pages"):
        s3.list_files("open-data", endpoint=api.url, max_pages=5, limits=QUICK)
    assert len(api.requests) == 5


def test_a_server_that_recovers_is_asked_again(api):
    api.routes["/open-data"] = lambda query, headers: (
        refusal(503, "SlowDown") if len(api.requests) == 1 else page("x")
    )
    assert len(s3.list_files("open-data", endpoint=api.url, limits=QUICK)) == 1


def test_the_server_lists_no_more_than_is_wanted(api):
    api.routes["/open-data"] = lambda query, headers: page("data/sub-01/a", "data/sub-02/a")
    files = s3.list_files(
        "open-data/data", include=["sub-01/*", "sub-02/*"], endpoint=api.url, limits=QUICK
    )
    assert len(files) == 2
    assert [path for path, _ in api.requests if "prefix=data%2Fsub-0&" in path]


def test_a_server_that_is_down_is_said():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(InputError, match=f"{url}: S3 open-data: no answer .*run again when"):
        s3.list_files("open-data", endpoint=url, limits=QUICK)


def test_offline_opens_no_socket(monkeypatch):
    def opened(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", opened)
    monkeypatch.setattr(socket, "getaddrinfo", opened)
    with pytest.raises(InputError, match="S3 open-data: not asked, because of offline mode"):
        s3.list_files("open-data", limits=Limits(offline=True))


def test_buckets_have_addresses(monkeypatch):
    become(monkeypatch, "AKIA", "secret")
    for url, spec, region in (
        ("https://open-data.s3.amazonaws.com/x", "open-data", None),
        ("https://open-data.s3.eu-west-1.amazonaws.com/x", "open-data/folder", "eu-west-1"),
        ("https://s3.eu-west-1.amazonaws.com/a.b/x", "s3://a.b", "eu-west-1"),  # no certificate
    ):
        headers = s3.access(spec, region=region, anonymous=False)["headers"]
        assert f"/{region or 'us-east-1'}/s3/aws4_request" in headers(url)["Authorization"]
        for other in (url.replace("https", "http"), url.replace("s3", "s4"), url[:-2] + "b/x"):
            assert headers(other) == {}
    for name in ("A", "x", "a_b", "../x", ""):
        with pytest.raises(InputError, match="not a name of a bucket"):
            s3.list_files(name)
    with pytest.raises(InputError, match="S3 open-data: Invalid endpoint: nonsense"):
        s3.list_files("open-data", endpoint="nonsense")
