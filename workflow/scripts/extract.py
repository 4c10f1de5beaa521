"""Rule extract: features of one view under one frozen backbone."""

from engram.backbones import extract
from engram.job import job

with job(snakemake) as run:
    extract(
        view=snakemake.input.view,
        weights=snakemake.input.get("weights"),
        features=snakemake.output.features,
        cost=snakemake.output.cost,
        spec=run.spec,
        made_by=run.made_by,
        device=run.device,
    )
