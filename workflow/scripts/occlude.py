"""Rule occlude: which times and channels the models of one experiment look at."""

from engram.job import job
from engram.tasks.occlusion import occlude

with job(snakemake) as run:
    occlude(
        x=run.grouped(snakemake.input.x),
        y=run.grouped(snakemake.input.y, of="targets"),
        model=snakemake.input.model,
        importance=snakemake.output.importance,
        spec=run.spec,
        device=run.device,
    )
