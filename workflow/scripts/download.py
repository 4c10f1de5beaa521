"""Rule download: one raw file of a dataset, fetched or simulated."""

from engram.datasets import fetch
from engram.job import job

with job(snakemake) as run:
    fetch(snakemake.output.raw, run.spec)
