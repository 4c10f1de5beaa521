for task, experiments in plan.tasks().items():

    rule:
        name:
            f"plot_{task}"
        input:
            scores="results/<study>/scores/{experiment}.json",
            predictions="results/<study>/predictions/{experiment}.<store>",
            view=picture_stores,
            importance=importance,
        output:
            **drawn(task),
            events="results/<study>/figures/{experiment}/events.out.tfevents.0.engram",
        log:
            "results/<study>/logs/plot/{experiment}.log",
        wildcard_constraints:
            experiment="|".join(experiments),
        conda:
            "../../envs/plot.yaml"
        threads: 1
        resources:
            mem_mb=growing(4_000),
            runtime="30m",
        params:
            spec=spec("plot"),
            code=code("plot"),
        script:
            "../scripts/plot.py"


rule map:
    input:
        latents="results/<study>/latents/{experiment}.<store>",
        predictions="results/<study>/predictions/{experiment}.<store>",
        view=picture_stores,
        known=of_model(plan.pictures),
    output:
        picture=report(
            "results/<study>/figures/{experiment}/map.png",
            caption="../report/map.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "map"},
        ),
        data="results/<study>/figures/{experiment}/map.json",
        events="results/<study>/figures/{experiment}/events.out.tfevents.1.engram",
    log:
        "results/<study>/logs/map/{experiment}.log",
    benchmark:
        "results/<study>/benchmarks/map/{experiment}.tsv"
    conda:
        "../../envs/map.yaml"
    threads: 1
    resources:
        mem_mb=growing(4_000),
        runtime="1h",
    params:
        spec=spec("map"),
        code=code("map"),
    script:
        "../scripts/map.py"


rule compare:
    input:
        scores=compared_scores,
        features=compared_features,
        costs=compared_costs,
        y=compared_labels,
    output:
        comparison="results/<study>/comparisons/{comparison}.json",
        figure=report(
            "results/<study>/figures/{comparison}/comparison.svg",
            caption="../report/comparison.rst",
            category="Figures",
            labels={"experiment": "{comparison}", "figure": "comparison"},
        ),
        cka="results/<study>/figures/{comparison}/cka.svg",
    log:
        "results/<study>/logs/compare/{comparison}.log",
    benchmark:
        "results/<study>/benchmarks/compare/{comparison}.tsv"
    conda:
        "../../envs/compare.yaml"
    threads: 2
    resources:
        mem_mb=growing(8_000),
        runtime="1h",
    params:
        spec=spec("compare"),
        code=code("compare"),
    script:
        "../scripts/compare.py"


rule report:
    input:
        scores=collect(
            "results/<study>/scores/{experiment}.json", experiment=plan.experiments()
        ),
        predictions=collect(
            "results/<study>/predictions/{experiment}.<store>",
            experiment=plan.experiments(),
        ),
        comparisons=collect(
            "results/<study>/comparisons/{comparison}.json",
            comparison=plan.comparisons(),
        ),
        cards=collect(
            "results/<study>/models/{experiment}.json", experiment=plan.cards()
        ),
        figures=plan.figures(),
    output:
        report="results/<study>/report.html",
        table="results/<study>/scores.csv",
        methods="results/<study>/methods.md",
    log:
        "results/<study>/logs/report.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec("report"),
        code=code("report", layouts=["figures"]),
    script:
        "../scripts/report.py"
