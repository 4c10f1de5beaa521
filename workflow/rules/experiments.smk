rule train:
    input:
        x=x_stores,
        y=y_stores,
        weights=head_weights,
    output:
        model="results/<study>/models/{experiment}.safetensors",
        predictions="results/<study>/predictions/{experiment}.<store>",
        latents="results/<study>/latents/{experiment}.<store>",
        null="results/<study>/nulls/{experiment}.<store>",
    log:
        "results/<study>/logs/train/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/train/{experiment}.tsv"
    wildcard_constraints:
        experiment=alternatives(plan.trained()),
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        gpu=gpu("train"),
        mem_mb=training_memory,
        runtime=training_time,
    params:
        spec=spec("train"),
        code=code("train"),
    script:
        "../scripts/train.py"


rule card:
    input:
        model="results/<study>/models/{experiment}.safetensors",
        scores="results/<study>/scores/{experiment}.json",
    output:
        facts="results/<study>/models/{experiment}.json",
        page="results/<study>/models/{experiment}.md",
    log:
        "results/<study>/logs/card/{experiment}.log",
    localrule: True
    conda:
        "../../envs/card.yaml"
    threads: 1
    params:
        spec=spec("card"),
        code=code("card"),
    script:
        "../scripts/card.py"


rule apply:
    input:
        x=x_stores,
        y=y_stores,
        known_x=of_model(plan.x),
        known_y=of_model(plan.y),
        model=applied_model,
        weights=head_weights,
    output:
        predictions="results/<study>/predictions/{experiment}.<store>",
        latents="results/<study>/latents/{experiment}.<store>",
    log:
        "results/<study>/logs/apply/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/apply/{experiment}.tsv"
    wildcard_constraints:
        experiment=alternatives(plan.applied()),
    conda:
        "../../envs/apply.yaml"
    threads: 8
    resources:
        gpu=gpu("apply"),
        mem_mb=training_memory,
        runtime="1h",
    params:
        spec=spec("apply"),
        code=code("apply"),
    script:
        "../scripts/apply.py"


rule occlude:
    input:
        x=x_stores,
        y=y_stores,
        model="results/<study>/models/{experiment}.safetensors",
    output:
        importance="results/<study>/importance/{experiment}.json",
    log:
        "results/<study>/logs/occlude/{experiment}.log",
    conda:
        "../../envs/occlude.yaml"
    threads: 8
    resources:
        gpu=gpu("occlude"),
        mem_mb=training_memory,
        runtime="2h",
    params:
        spec=spec("occlude"),
        code=code("occlude"),
    script:
        "../scripts/occlude.py"


rule evaluate:
    input:
        predictions="results/<study>/predictions/{experiment}.<store>",
        baseline=baseline_predictions,
        null=null_stores,
        x=probed_stores,
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


rule predict:
    input:
        model=predicting_model,
        card=predicting_card,
        files=predicted_recordings,
        weights=predicting_weights,
    output:
        table="results/<study>/applied/{predicted}/predictions.csv",
        summary="results/<study>/applied/{predicted}/summary.html",
    log:
        "results/<study>/logs/predict/{predicted}.log",
    benchmark:
        "results/<study>/benchmarks/predict/{predicted}.tsv"
    conda:
        "../../envs/predict.yaml"
    threads: 8
    resources:
        gpu=gpu("predict"),
        mem_mb=growing(8_000),
        runtime="4h",
    params:
        spec=spec("predict"),
        code=code("predict", layouts=["trained", "figures"]),
    script:
        "../scripts/predict.py"
