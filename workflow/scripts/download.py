"""Rule download: one raw file of a dataset or one file of weights."""

from engram.datasets import fetch
from engram.job import job

with job(snakemake) as run:
    fetch(snakemake.output.file, run.spec)
