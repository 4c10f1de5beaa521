"""Rule evaluate: scores of one experiment, with intervals, baselines and leak probes."""

from engram.job import job
from engram.scores.evaluation import evaluate

with job(snakemake) as run:
    evaluate(
        predictions=snakemake.input.predictions,
        baseline=snakemake.input.baseline,
        x=run.grouped(snakemake.input.x),
        scores=snakemake.output.scores,
        spec=run.spec,
        null=next(iter(snakemake.input.null), None),
    )
