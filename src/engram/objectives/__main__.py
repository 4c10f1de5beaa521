"""One process of stage `pretrain`, started by torchrun, accelerate or another launcher."""

import json
import sys
from pathlib import Path

from engram import objectives
from engram.errors import InputError


def main(path):
    """Do the job that stands in the file at `path`."""
    try:
        objectives.run(json.loads(Path(path).read_text()))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
