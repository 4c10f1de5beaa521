"""Rule report: one page to look at, a table of all scores, and how they were made in words."""

from engram.figures.report import report, written
from engram.job import job

with job(snakemake) as run:
    written(
        scores=snakemake.input.scores,
        predictions=snakemake.input.predictions,
        cards=snakemake.input.cards,
        table=snakemake.output.table,
        methods=snakemake.output.methods,
        spec=run.spec,
    )
    report(
        scores=snakemake.input.scores,
        predictions=snakemake.input.predictions,
        comparisons=snakemake.input.comparisons,
        cards=snakemake.input.cards,
        figures=snakemake.input.figures,
        report=snakemake.output.report,
        spec=run.spec,
    )
