"""Rule card: what a kept model is, what it reached, and what it must not be used for."""

from engram.cards import card
from engram.job import job

with job(snakemake) as run:
    card(
        model=snakemake.input.model,
        scores=snakemake.input.scores,
        facts=snakemake.output.facts,
        page=snakemake.output.page,
        spec=run.spec,
        made_by=run.made_by,
    )
