rule align:
    input:
        x=x_stores,
        y=y_stores,
    output:
        model="results/<study>/models/{experiment}.safetensors",
        predictions="results/<study>/predictions/{experiment}.<store>",
    log:
        "results/<study>/logs/align/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/align/{experiment}.tsv"
    wildcard_constraints:
        experiment=experiments_that(retrieve=True),
    conda:
        "../../envs/align.yaml"
    threads: 8
    resources:
        gpu=gpu("align"),
        mem_mb=growing(16_000),
        runtime="12h",
    params:
        spec=spec("align"),
        code=code("align"),
    script:
        "../scripts/align.py"


rule retrieve:
    input:
        predictions="results/<study>/predictions/{experiment}.<store>",
        baseline=baseline_predictions,
    output:
        scores="results/<study>/scores/{experiment}.json",
    log:
        "results/<study>/logs/retrieve/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/retrieve/{experiment}.tsv"
    wildcard_constraints:
        experiment=experiments_that(retrieve=True),
    conda:
        "../../envs/retrieve.yaml"
    threads: 1
    resources:
        mem_mb=growing(4_000),
        runtime="1h",
    params:
        spec=spec("retrieve"),
        code=code("retrieve"),
    script:
        "../scripts/retrieve.py"
