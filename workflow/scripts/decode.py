"""Rule decode: pictures that a decoder draws of what was predicted of one unit."""

from engram.decoders import decode
from engram.job import job

with job(snakemake) as run:
    decode(
        sources=run.grouped(snakemake.input.sources),
        weights=run.grouped(snakemake.input.weights, of="weights"),
        view=snakemake.output.view,
        spec=run.spec,
        made_by=run.made_by,
        device=run.device,
    )
