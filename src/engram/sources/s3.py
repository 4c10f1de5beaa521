"""Buckets of S3 and of servers that speak like it.

botocore reads listings and signs requests; `engram.web` sends them and fetches the files.  Requests
are anonymous unless asked otherwise; credentials are those that botocore finds: AWS_ACCESS_KEY_ID
and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (AWS_PROFILE), or the machine's role.
"""

import contextlib
import functools
import io
import itertools
import logging
import os
import re
from urllib.parse import quote, urlsplit

import botocore.session
import urllib3
from botocore import UNSIGNED, exceptions
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.loaders import create_loader

from engram.credentials import shown
from engram.errors import InputError
from engram.sources import File, chosen, selected
from engram.web.client import LIMITS, Client, Failed

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

REGION = "us-east-1"
MAX_PAGES = 10_000  # of 1000 files

ADVICE = {
    "AccessDenied": "access is refused: set `anonymous: false`, or accept its terms first",
    "AuthorizationHeaderMalformed": "it lies in another region: set `region`",
    "ExpiredToken": "the credentials have expired: renew them",
    "IllegalLocationConstraintException": "it lies in another region: set `region`",
    "InvalidAccessKeyId": "the server does not know this access key",
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": "it lies in another region: set `region`",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SignatureDoesNotMatch": "the secret does not belong to the access key",
}

# At level DEBUG it writes headers with session tokens.
logging.getLogger("botocore").setLevel(logging.INFO)


def list_files(
    spec,
    *,
    include=(),
    exclude=(),
    endpoint=None,
    region=None,
    anonymous=True,
    max_pages=MAX_PAGES,
    limits=LIMITS,
) -> list[File]:
    """The files of a bucket, or of a folder in it.

    Args:
        spec: "bucket" or "bucket/folder"; paths are relative to the folder.
        include, exclude: see `engram.sources.chosen`.
        endpoint: URL of another server; by default Amazon's.
        region: of the bucket; by default AWS_REGION or what botocore finds; where requests are
            anonymous, Amazon knows it.
        anonymous: whether to ask without credentials.
        max_pages: a listing that needs more is refused as endless.
        limits: see `engram.web.client`.

    Returns:
        Files with size; with md5 where the entity tag is one: the object came in one piece and is
        not encrypted with a customer's key, which nobody could read without credentials.

    Raises:
        InputError: there is no such bucket or folder, it lies in another region, access is
            refused, credentials are missing, the server does not answer, or the listing repeats
            itself, never ends or has another form.
    """
    bucket, folder = _place(spec)
    where = f"{shown(endpoint)}: S3 {spec}" if endpoint else f"S3 {spec}"
    if limits.offline:
        raise InputError(f"{where}: not asked, because of offline mode; use the lock file")
    folder = f"{folder}/" if folder else ""
    with _explained(where), Client(limits=limits) as web:
        client = _client(_session(), endpoint, region, anonymous, limits)
        client.meta.events.register("before-send.s3", functools.partial(_sent, web))
        pages = _pages(client, bucket, folder + _head(include), max_pages, where)

        def files():
            base = None
            for page in pages:
                base = base or _address(client, page, bucket, endpoint, anonymous, where)
                for key, size, tag in _objects(page, where):
                    path = key.removeprefix(folder)
                    if not key.endswith("/") and chosen(path, include, exclude):
                        plain = anonymous and re.fullmatch("[0-9a-f]{32}", tag)
                        sums = {"md5": tag} if plain else {}
                        yield File(path, f"{base}/{quote(key)}", size, sums, tag)

        return selected(files(), include, exclude, f"S3 {spec}")


def access(spec, *, endpoint=None, region=None, anonymous=True) -> dict:
    """Signatures for requests to the bucket, and to it alone; see `list_files`.

    Raises:
        InputError: `anonymous` is False and there are no credentials.
    """
    if anonymous:
        return {}
    bucket, _ = _place(spec)
    session = _session()
    with _explained(f"S3 {spec}"):
        client = _client(session, endpoint, region, anonymous, LIMITS)
        credentials, base = session.get_credentials(), _base(client, bucket)

    def headers(url):
        if not url.startswith(f"{base}/"):
            return {}
        request = AWSRequest("GET", url)
        with _explained(f"S3 {spec}"):  # credentials of a role are renewed
            now = credentials.get_frozen_credentials()
            S3SigV4Auth(now, "s3", client.meta.region_name).add_auth(request)
        return dict(request.headers.items())

    return {"headers": headers}


def _place(spec):
    """Bucket and folder."""
    bucket, _, folder = spec.removeprefix("s3://").strip("/").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise InputError(f"S3 bucket {bucket!r}: not a name of a bucket")
    return bucket, folder


def _session():
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    return session


@functools.cache
def _loader():
    """Reads what botocore knows of Amazon's services: a quarter of a second, once."""
    return create_loader()


def _client(session, endpoint, region, anonymous, limits):
    if not anonymous and session.get_credentials() is None:
        raise exceptions.NoCredentialsError
    region = region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
    config = Config(
        signature_version=UNSIGNED if anonymous else "s3v4",
        retries={"mode": "standard", "total_max_attempts": limits.retries + 1},
        s3={"addressing_style": "path" if endpoint else "virtual"},
    )
    return session.create_client("s3", region or REGION, endpoint_url=endpoint, config=config)


def _sent(web, request, **_):
    """What is answered to a request of botocore, in the place of its own way to send it."""
    try:
        status, headers, body = web.answer(request.method, request.url, dict(request.headers))
    except Failed as error:
        raise exceptions.HTTPClientError(error=str(error)) from None  # botocore tries again
    raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
    return AWSResponse(request.url, status, headers, raw)


def _base(client, bucket):
    """URL of a bucket: that of an object in it, without its name and signature."""
    wanted = {"Bucket": bucket, "Key": "x"}
    url = urlsplit(client.generate_presigned_url("get_object", wanted))
    return url._replace(query="").geturl().removesuffix("/x")


def _address(client, page, bucket, endpoint, anonymous, where):
    """URL of a bucket in the region where Amazon says that it lies."""
    used = client.meta.region_name
    region = page["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", used)
    if endpoint or region == used:
        return _base(client, bucket)
    if not anonymous:  # who downloads has to know it for the signatures
        raise InputError(f"{where}: it lies in another region: set `region: {region}`")
    session = _session()
    return _base(_client(session, endpoint, region, anonymous, LIMITS), bucket)


def _head(include):
    """What all wanted paths begin with, so that the server need not list the rest."""
    heads = [re.split(r"[*?\[]", pattern, maxsplit=1)[0] for pattern in include]
    return os.path.commonprefix(heads)  # noqa: RUF071 - S3 compares letters, not folders


def _pages(client, bucket, prefix, max_pages, where):
    """The pages of a listing, as botocore reads them."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in itertools.islice(pages, max_pages):
        if "IsTruncated" not in page:
            raise InputError(f"{where}: the answer is not a listing of a bucket")
        if not page["IsTruncated"]:
            yield page
            return
        if not page.get("NextContinuationToken"):
            raise InputError(f"{where}: its listing breaks off; refused")
        yield page
    raise InputError(f"{where}: its listing does not end within {max_pages} pages; refused")


def _objects(page, where):
    """(key, size, entity tag) of the objects of a page."""
    try:
        return [
            (entry["Key"], entry["Size"], entry.get("ETag", "").strip('"'))
            for entry in page.get("Contents", ())
        ]
    except KeyError:
        raise InputError(f"{where}: a listing of another form") from None


@contextlib.contextmanager
def _explained(where):
    """Errors of botocore as one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except exceptions.ClientError as error:
        code, status = error.response["Error"].get("Code"), _status(error)
        other = "the server fails or is none of S3; run again later" if status >= 500 else "refused"
        raise InputError(f"{where}: {code}: {ADVICE.get(code, other)}") from None
    except exceptions.SSLError:
        raise InputError(
            f"{where}: its certificate is not trusted; is a proxy in between (AWS_CA_BUNDLE)?"
        ) from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        cause = error.kwargs.get("error") or type(error).__name__
        raise InputError(
            f"{where}: no answer ({cause}); run again when the server is better"
        ) from None
    except exceptions.PaginationError:
        raise InputError(f"{where}: its listing repeats itself; refused") from None
    except exceptions.NoCredentialsError:
        raise InputError(
            f"{where}: needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE to a profile in ~/.aws"
        ) from None
    except (exceptions.BotoCoreError, ValueError) as error:  # credentials, profiles, addresses
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None


def _status(error):
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
