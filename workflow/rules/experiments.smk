rule train:
    input:
        x=x_stores,
        y=y_stores,
    output:
        model="results/<study>/models/{experiment}.safetensors",
        predictions="results/<study>/predictions/{experiment}.<store>",
        latents="results/<study>/latents/{experiment}.<store>",
    log:
        "results/<study>/logs/train/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/train/{experiment}.tsv"
    wildcard_constraints:
        experiment=experiments_that(retrieve=False),
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        gpu=gpu("train"),
        mem_mb=growing(8_000),
        runtime="4h",
    params:
        spec=spec("train"),
        code=code("train"),
    script:
        "../scripts/train.py"


rule evaluate:
    input:
        predictions="results/<study>/predictions/{experiment}.<store>",
        baseline=baseline_predictions,
        x=x_stores,
    output:
        scores=report(
            "results/<study>/scores/{experiment}.json",
            caption="../report/scores.rst",
            category="Scores",
            labels={"experiment": "{experiment}"},
        ),
    log:
        "results/<study>/logs/evaluate/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/evaluate/{experiment}.tsv"
    wildcard_constraints:
        experiment=experiments_that(retrieve=False),
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(4_000),
        runtime="1h",
    params:
        spec=spec("evaluate"),
        code=code("evaluate"),
    script:
        "../scripts/evaluate.py"
