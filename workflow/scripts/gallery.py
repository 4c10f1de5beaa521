"""Rule gallery: the figures and the TensorBoard scalars of one retrieval experiment."""

from engram.figures.gallery import gallery
from engram.job import job

with job(snakemake):
    gallery(
        scores=snakemake.input.scores,
        predictions=snakemake.input.predictions,
        view=snakemake.input.view,
        **dict(snakemake.output.items()),
    )
