"""Rule download: one file of a dataset or of weights, fetched or simulated."""

from engram.downloads import download
from engram.job import job

with job(snakemake, offline=False) as run:
    download(snakemake.output.file, run.spec, lock=snakemake.params.lock)
