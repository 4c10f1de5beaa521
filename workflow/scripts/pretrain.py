"""Rule pretrain: weights that a backbone learns from series without labels."""

from engram.job import job
from engram.objectives import pretrain

with job(snakemake) as run:
    pretrain(
        views=run.grouped(snakemake.input.views, of="views"),
        weights=snakemake.output.weights,
        kept=snakemake.output.kept,
        spec=run.spec,
        made_by=run.made_by,
        device=run.device,
    )
