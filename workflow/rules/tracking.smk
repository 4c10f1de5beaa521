rule track:
    input:
        scores="results/<study>/scores/{experiment}.json",
        predictions="results/<study>/predictions/{experiment}.<store>",
        model=tracked_model,
        figures=tracked_figures,
    output:
        tracking="results/<study>/tracking/{experiment}.json",
    log:
        "results/<study>/logs/track/{experiment}.log",
    localrule: True
    conda:
        "../../envs/track.yaml"
    threads: 1
    params:
        spec=spec("track"),
        code=code("track"),
    script:
        "../scripts/track.py"
