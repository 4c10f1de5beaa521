"""Files that are asked for on the command line.

Standard library only, like `engram.planning.plan`.
"""

import re

from engram.errors import InputError
from engram.planning.shape import check_name

#: The report of a study, or a file that is called after one of its experiments or comparisons.
OF_STUDY = (
    r"results/([^/]+)/(?:report\.html$|"
    "(?:models|predictions|latents|nulls|scores|importance|figures|comparisons|tracking|applied)"
    "/([^/.]+))"
)


def check_asked(this, arguments):
    """Refuse files of another study, or of an experiment that there is not, as targets.

    Snakemake would say that nothing makes them, or, if they are there, that nothing is to be done.

    Args:
        this: the plan.
        arguments: those of the command line.

    Raises:
        InputError: names the target and what was meant.
    """
    for target in arguments:
        if found := re.match(r"results/(?:([^/]+)/)??(?:views|features)/([^/]+)/([^/]+)/", target):
            study, dataset, unit = found.groups()
            _check_study(this, target, study or this.study)
            check_name(target, dataset, this.config["datasets"], "dataset")
            check_name(target, unit, [*this.units(dataset), *this.shared(dataset)], "unit")
        elif found := re.match(OF_STUDY, target):
            _check_own(this, target, *found.groups())


def _check_own(this, target, study, name):
    """A file of this study, of an experiment or comparison that there is."""
    _check_study(this, target, study)
    if name:
        known = {*this.known, *this.config.get("comparisons", {}), *this.predicted()}
        check_name(target, name, known, "experiment")


def _check_study(this, target, study):
    if study != this.study:
        raise InputError(
            f"{target}: belongs to the study {study!r}, but this is {this.study!r}; name the "
            "file of that study with --configfile, behind the targets"
        )
