"""Rule predict: what a trained model says of recordings without labels."""

from pathlib import Path

from engram.job import job
from engram.trained import load_model
from engram.trained.applied import apply

with job(snakemake) as run:
    apply(
        model=load_model(snakemake.input.model),
        files=run.spec["files"],
        out=Path(snakemake.output.table).parent,
        device=run.device,
        settings=run.spec["options"],
    )
