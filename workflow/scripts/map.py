"""Rule map: the latent space of one experiment in two dimensions."""

from engram.figures.map import map
from engram.job import job

with job(snakemake):
    map(
        latents=snakemake.input.latents,
        predictions=snakemake.input.predictions,
        view=snakemake.input.view,
        known=snakemake.input.known,
        **dict(snakemake.output.items()),
    )
