"""Rule plot: the figures and the TensorBoard scalars of one experiment."""

from engram.figures.plot import plot
from engram.job import job

with job(snakemake) as run:
    plot(
        scores=snakemake.input.scores,
        predictions=snakemake.input.predictions,
        view=snakemake.input.view,
        importance=snakemake.input.importance,
        figures=dict(snakemake.output.items()),
        spec=run.spec,
    )
