rule extract:
    input:
        view="results/views/{dataset}/{unit}/{view}.<store>",
        weights=weights,
    output:
        multiext(
            "results/features/{dataset}/{unit}/{view}/{backbone}",
            features=".<store>",
            cost=".json",
        ),
    log:
        "results/logs/extract/{dataset}/{unit}/{view}/{backbone}.log",
    cache: True
    conda:
        "../../envs/extract.yaml"
    threads: 8
    resources:
        gpu=gpu("extract"),
        mem_mb=growing(8_000),
        runtime="4h",
    params:
        spec=spec("extract"),
        code=code("extract"),
    script:
        "../scripts/extract.py"
