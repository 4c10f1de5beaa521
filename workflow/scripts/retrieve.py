"""Rule retrieve: how well test rows find their pictures, beside chance and a baseline."""

from engram.job import job
from engram.scores.matching import retrieve

with job(snakemake) as run:
    retrieve(
        predictions=snakemake.input.predictions,
        baseline=snakemake.input.baseline,
        scores=snakemake.output.scores,
        spec=run.spec,
    )
