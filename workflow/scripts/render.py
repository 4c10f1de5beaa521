"""Rule render: the raw files of one unit as named rows of one view."""

from engram.datasets import read
from engram.job import job
from engram.views import render

with job(snakemake) as run:
    render(read(run.spec, snakemake.input.raw), snakemake.output.view, run.spec, run.made_by)
