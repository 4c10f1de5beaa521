"""Rule track: one experiment as one run of Weights & Biases."""

from engram.job import job
from engram.tracking import track

with job(snakemake) as run:
    track(
        scores=snakemake.input.scores,
        predictions=snakemake.input.predictions,
        model=snakemake.input.model,
        figures=snakemake.input.figures,
        tracking=snakemake.output.tracking,
        spec=run.spec,
    )
