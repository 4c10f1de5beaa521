"""Rule compare: several backbones over one view, side by side."""

from engram.figures.compare import compare
from engram.job import job

with job(snakemake) as run:
    compare(
        scores=snakemake.input.scores,
        features=snakemake.input.features,
        costs=snakemake.input.costs,
        y=snakemake.input.y,
        spec=run.spec,
        **dict(snakemake.output.items()),
    )
