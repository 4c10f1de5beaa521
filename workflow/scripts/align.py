"""Rule align: EEG encoders against image features, every fold and seed of one experiment."""

from engram.alignment import align
from engram.job import job

with job(snakemake) as run:
    align(
        x=snakemake.input.x,
        y=run.grouped(snakemake.input.y),
        model=snakemake.output.model,
        predictions=snakemake.output.predictions,
        spec=run.spec,
        made_by=run.made_by,
        device=run.device,
    )
