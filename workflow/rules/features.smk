for backbone, epochs in plan.pretrained().items():

    rule:
        name:
            f"pretrain_{backbone}"
        input:
            views=pretrain_views,
            files=named_files,
        output:
            weights="results/weights/{backbone}.safetensors",
            kept=expand(
                "results/weights/{{backbone}}/epoch-{epochs}.safetensors",
                epochs=epochs,
            ),
        log:
            "results/logs/pretrain/{backbone}.log",
        benchmark:
            "results/benchmarks/pretrain/{backbone}.tsv"
        wildcard_constraints:
            backbone=re.escape(backbone),
        conda:
            "../../envs/pretrain.yaml"
        threads: 8
        resources:
            gpu=gpu("pretrain"),
            mem_mb=growing(16_000),
            runtime="3d",
        params:
            spec=spec("pretrain"),
            code=code("pretrain"),
        script:
            "../scripts/pretrain.py"


rule extract:
    input:
        view="results/views/{dataset}/{unit}/{view}.<store>",
        weights=weights,
        files=named_files,
    output:
        multiext(
            "results/features/{dataset}/{unit}/{view}/{backbone}",
            features=".<store>",
            cost=".json",
        ),
    log:
        "results/logs/extract/{dataset}/{unit}/{view}/{backbone}.log",
    cache: True
    group:
        batch("extract", gpus=True)
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


rule decode:
    input:
        sources=decoder_sources,
        weights=decoder_weights,
    output:
        view="results/<study>/views/{dataset}/{unit}/{decoder}.<store>",
    log:
        "results/<study>/logs/decode/{dataset}/{unit}/{decoder}.log",
    benchmark:
        "results/<study>/benchmarks/decode/{dataset}/{unit}/{decoder}.tsv"
    conda:
        "../../envs/decode.yaml"
    threads: 8
    resources:
        gpu=gpu("decode"),
        mem_mb=growing(16_000),
        runtime="12h",
    params:
        spec=spec("decode"),
        code=code("decode"),
    script:
        "../scripts/decode.py"


use rule extract as extract_decoded with:
    input:
        view="results/<study>/views/{dataset}/{unit}/{view}.<store>",
        weights=weights,
        files=named_files,
    output:
        multiext(
            "results/<study>/features/{dataset}/{unit}/{view}/{backbone}",
            features=".<store>",
            cost=".json",
        ),
    log:
        "results/<study>/logs/extract/{dataset}/{unit}/{view}/{backbone}.log",
    wildcard_constraints:
        view="|".join(plan.decoders),
