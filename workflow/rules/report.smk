rule plot:
    input:
        scores="results/scores/{experiment}.json",
        predictions="results/predictions/{experiment}.<store>",
        view=picture_stores,
    output:
        subjects=report(
            "results/figures/{experiment}/subjects.svg",
            caption="../report/subjects.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "subjects"},
        ),
        confusion="results/figures/{experiment}/confusion.svg",
        curves="results/figures/{experiment}/curves.svg",
        examples="results/figures/{experiment}/examples.svg",
        events="results/figures/{experiment}/events.out.tfevents.0.engram",
    log:
        "results/logs/plot/{experiment}.log",
    wildcard_constraints:
        experiment=experiments_that(retrieve=False),
    conda:
        "../../envs/plot.yaml"
    threads: 1
    resources:
        mem_mb=growing(2_000),
        runtime="30m",
    params:
        spec=spec("plot"),
        code=code("plot"),
    script:
        "../scripts/plot.py"


rule gallery:
    input:
        scores="results/scores/{experiment}.json",
        predictions="results/predictions/{experiment}.<store>",
        view=candidate_stores,
    output:
        retrieval=report(
            "results/figures/{experiment}/retrieval.svg",
            caption="../report/retrieval.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "retrieval"},
        ),
        repetitions="results/figures/{experiment}/repetitions.svg",
        training="results/figures/{experiment}/training.svg",
        importance="results/figures/{experiment}/importance.svg",
        gallery=report(
            "results/figures/{experiment}/gallery.png",
            caption="../report/gallery.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "gallery"},
        ),
        events="results/figures/{experiment}/events.out.tfevents.2.engram",
    log:
        "results/logs/gallery/{experiment}.log",
    wildcard_constraints:
        experiment=experiments_that(retrieve=True),
    conda:
        "../../envs/gallery.yaml"
    threads: 1
    resources:
        mem_mb=growing(4_000),
        runtime="30m",
    params:
        spec=spec("gallery"),
        code=code("gallery"),
    script:
        "../scripts/gallery.py"


rule map:
    input:
        latents="results/latents/{experiment}.<store>",
        predictions="results/predictions/{experiment}.<store>",
        view=picture_stores,
    output:
        picture=report(
            "results/figures/{experiment}/map.png",
            caption="../report/map.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "map"},
        ),
        data="results/figures/{experiment}/map.json",
        events="results/figures/{experiment}/events.out.tfevents.1.engram",
    log:
        "results/logs/map/{experiment}.log",
    benchmark:
        "results/benchmarks/map/{experiment}.tsv"
    wildcard_constraints:
        experiment=experiments_that(retrieve=False),
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
        comparison="results/comparisons/{comparison}.json",
        figure=report(
            "results/figures/{comparison}/comparison.svg",
            caption="../report/comparison.rst",
            category="Figures",
            labels={"experiment": "{comparison}", "figure": "comparison"},
        ),
        cka="results/figures/{comparison}/cka.svg",
    log:
        "results/logs/compare/{comparison}.log",
    benchmark:
        "results/benchmarks/compare/{comparison}.tsv"
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
        scores=collect("results/scores/{experiment}.json", experiment=plan.shown()),
        predictions=collect(
            "results/predictions/{experiment}.<store>", experiment=plan.shown()
        ),
        comparisons=collect(
            "results/comparisons/{comparison}.json", comparison=plan.comparisons()
        ),
        figures=plan.figures(),
        page=page_templates(),
    output:
        report="results/report.html",
    log:
        "results/logs/report.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec("report"),
        code=code("report"),
    script:
        "../scripts/report.py"
