from snakemake.utils import min_version

min_version("9.25")


configfile: "config/config.yaml"
configfile: "config/backbones.yaml"


include: "workflow/rules/common.smk"


pathvars:
    store=plan.suffix,
    study=plan.study,


include: "workflow/rules/data.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tracking.smk"


rule all:
    default_target: True
    input:
        "results/<study>/report.html",
        plan.tracked(),
    localrule: True
