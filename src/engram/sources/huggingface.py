"""Models and data sets of the Hugging Face hub, at a pinned revision.

The hub's own client lists them; the bytes come through `engram.web.transfer`, which verifies the
SHA-256 that the hub states for large files.  A token is read from HF_TOKEN and goes to the hub
alone.
"""

import os
from pathlib import PurePosixPath

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from engram.errors import InputError
from engram.sources import File, selected
from engram.web.addresses import origin, shown
from engram.web.client import LIMITS

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

HUB = "https://huggingface.co"


def list_files(
    spec, *, revision="main", include=(), exclude=(), kind="model", endpoint=None, limits=LIMITS
) -> list[File]:
    """The files of a repository.

    Args:
        spec: "owner/name".
        revision: commit, tag or branch; the addresses hold the commit it stands for today.
        include, exclude: see `engram.sources.chosen`.
        kind: "model" or "dataset".
        endpoint: URL of the hub; by default HF_ENDPOINT or huggingface.co.
        limits: see `engram.web.client`.

    Raises:
        InputError: there is no such repository or revision, its terms were not accepted, or the
            hub does not answer.
    """
    endpoint = _endpoint(endpoint)
    if limits.offline:
        raise InputError(f"{spec}: not asked, because of offline mode; use the lock file")
    api = HfApi(endpoint=endpoint, token=os.environ.get("HF_TOKEN", "").strip() or False)
    where = f"{shown(endpoint)}: {kind} {spec} at {revision}"
    try:
        found = api.repo_info(
            spec, revision=revision, repo_type=kind, files_metadata=True, timeout=limits.read
        )
    except GatedRepoError:
        raise InputError(f"{where}: accept its terms on the web site, then set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise InputError(f"{where}: no such revision") from None
    except RepositoryNotFoundError:
        raise InputError(f"{where}: not there, or private and HF_TOKEN is missing") from None
    except OfflineModeIsEnabled:
        raise InputError(f"{where}: HF_HUB_OFFLINE is set; unset it to list files") from None
    except HFValidationError:
        raise InputError(f"{where}: not a name of a repository; write owner/name") from None
    except HfHubHTTPError as error:
        raise InputError(f"{where}: status {error.response.status_code}; run again later") from None
    except Exception as error:  # of its HTTP library, which has changed before
        raise InputError(f"{where}: no usable answer ({type(error).__name__})") from None
    return selected(
        [_file(sibling, spec, found.sha, kind, endpoint) for sibling in found.siblings or ()],
        include,
        exclude,
        where,
    )


def access(endpoint=None) -> dict:
    """The token of HF_TOKEN, for the hub alone."""
    token, home = os.environ.get("HF_TOKEN", "").strip(), origin(_endpoint(endpoint))

    def headers(url):
        return {"Authorization": f"Bearer {token}"} if token and origin(url) == home else {}

    return {"headers": headers}


def _endpoint(endpoint):
    return (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _file(sibling, repository, commit, kind, endpoint):
    name = sibling.rfilename
    url = hf_hub_url(repository, name, revision=commit, repo_type=kind, endpoint=endpoint)
    sums = {"sha256": sibling.lfs.sha256} if sibling.lfs else {}
    return File(str(PurePosixPath(name)), url, sibling.size, sums, commit)
