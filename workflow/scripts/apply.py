"""Rule apply: the model of one data set, put to another one."""

from engram.job import job
from engram.trained.dataset import apply

with job(snakemake) as run:
    apply(
        x=run.grouped(snakemake.input.x),
        y=run.grouped(snakemake.input.y, of="targets"),
        known=(
            run.grouped(snakemake.input.known_x, of="known_sources"),
            run.grouped(snakemake.input.known_y, of="known_targets"),
        ),
        model=snakemake.input.model,
        predictions=snakemake.output.predictions,
        latents=snakemake.output.latents,
        spec=run.spec,
        made_by=run.made_by,
        device=run.device,
    )
