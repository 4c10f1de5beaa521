rule align:
    input:
        x=x_stores,
        y=y_stores,
    output:
        model="results/models/{experiment}.safetensors",
        predictions="results/predictions/{experiment}.<store>",
    log:
        "results/logs/align/{experiment}.log",
    benchmark:
        "results/benchmarks/align/{experiment}.tsv"
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
        predictions="results/predictions/{experiment}.<store>",
        baseline=baseline_predictions,
    output:
        scores="results/scores/{experiment}.json",
    log:
        "results/logs/retrieve/{experiment}.log",
    benchmark:
        "results/benchmarks/retrieve/{experiment}.tsv"
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
