"""Rule compare: several backbones over one view, side by side."""

from engram.figures.compare import draw
from engram.job import job
from engram.scores.comparison import compare

with job(snakemake) as run:
    compare(
        scores=snakemake.input.scores,
        features=snakemake.input.features,
        costs=snakemake.input.costs,
        y=snakemake.input.y,
        comparison=snakemake.output.comparison,
        spec=run.spec,
    )
    draw(**dict(snakemake.output.items()))
