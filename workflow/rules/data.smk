rule listing:
    output:
        lock="config/locks/{dataset}.csv",
    log:
        "results/logs/listing/{dataset}.log",
    localrule: True
    conda:
        "../../envs/listing.yaml"
    params:
        spec=spec("listing"),
        code=code("listing"),
    script:
        "../scripts/listing.py"


rule download:
    input:
        lock=ancient(listed),
    output:
        # Not deleted before the job runs: new bytes replace it when they are verified, and what
        # still matches is not fetched again.
        file=update("resources/{shelf}/{name}/{file}"),
    log:
        "results/logs/download/{shelf}/{name}/{file}.log",
    localrule: True
    conda:
        "../../envs/download.yaml"
    resources:
        connections=connections,
    params:
        spec=spec("download"),
        code=code("download"),
        lock=lock,
    script:
        "../scripts/download.py"


rule render:
    input:
        raw=raw_files,
        beside=beside,
    output:
        view="results/views/{dataset}/{unit}/{view}.<store>",
    log:
        "results/logs/render/{dataset}/{unit}/{view}.log",
    benchmark:
        "results/benchmarks/render/{dataset}/{unit}/{view}.tsv"
    group:
        batch("render")
    conda:
        "../../envs/render.yaml"
    threads: 1
    resources:
        mem_mb=growing(6_000),
        runtime="1h",
    params:
        spec=spec("render"),
        code=code("render"),
    script:
        "../scripts/render.py"
