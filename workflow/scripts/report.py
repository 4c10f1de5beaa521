"""Rule report: one page to look at."""

from engram.figures.report import report
from engram.job import job

with job(snakemake) as run:
    report(
        scores=snakemake.input.scores,
        predictions=snakemake.input.predictions,
        comparisons=snakemake.input.comparisons,
        cards=snakemake.input.cards,
        figures=snakemake.input.figures,
        report=snakemake.output.report,
        spec=run.spec,
    )
