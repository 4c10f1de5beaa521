"""Rule listing: what the publisher of a dataset has."""

from engram.downloads import listing
from engram.job import job

with job(snakemake, offline=False) as run:
    listing(snakemake.output.lock, run.spec)
