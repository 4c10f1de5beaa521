rule extract:
    input:
        view="results/views/{dataset}/{unit}/{view}.h5",
        weights=weights,
    output:
        features="results/features/{dataset}/{unit}/{view}/{backbone}.h5",
    log:
        "results/logs/extract/{dataset}/{unit}/{view}/{backbone}.log",
    benchmark:
        "results/benchmarks/extract/{dataset}/{unit}/{view}/{backbone}.tsv"
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
