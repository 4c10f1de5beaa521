rule track:
    input:
        scores="results/scores/{experiment}.json",
        predictions="results/predictions/{experiment}.<store>",
        model=tracked_model,
        figures=tracked_figures,
    output:
        tracking="results/tracking/{experiment}.json",
    log:
        "results/logs/track/{experiment}.log",
    localrule: True
    conda:
        "../../envs/track.yaml"
    threads: 1
    params:
        spec=spec("track"),
        code=code("track"),
    script:
        "../scripts/track.py"
