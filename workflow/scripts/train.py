"""Rule train: every fold and seed of one experiment."""

from engram.job import job
from engram.tasks import train

with job(snakemake) as run:
    train(
        x=run.grouped(snakemake.input.x),
        y=run.grouped(snakemake.input.y, of="targets"),
        model=snakemake.output.model,
        predictions=snakemake.output.predictions,
        latents=snakemake.output.latents,
        spec=run.spec,
        made_by=run.made_by,
        device=run.device,
        null=snakemake.output.null,
    )
