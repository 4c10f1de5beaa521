"""What weights have seen in pretraining, by what stage `pretrain` says or a table lists."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


def facts(path) -> dict:
    """What stage `pretrain` says of the weights that it wrote; of other files nothing."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "np") as file:
            found = json.loads((file.metadata() or {}).get("engram", "{}"))
            return found if isinstance(found, dict) else {}
    except (SafetensorError, ValueError, RecursionError):  # reading its tensors says what is wrong
        return {}


def subjects_seen(path, spec, subjects) -> str | list[str]:
    """Which subjects weights have seen in pretraining, without their labels.

    Args:
        path: of the weights, or None.
        spec: of a job, with `seen`, the name by which published weights have seen all of its data,
            or `dataset`, the name of the data, of which weights that were pretrained here say more.
        subjects: names of the subjects at hand.

    Returns:
        The name of the data where all may have been seen, or the names of those that were.
    """
    if "seen" in spec:
        return spec["seen"]
    if "dataset" not in spec:
        return []
    learnt = set(facts(path).get("datasets", {}).get(spec["dataset"], []))
    return sorted(learnt.intersection(subjects))
