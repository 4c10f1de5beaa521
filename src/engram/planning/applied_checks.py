"""What is wrong with an experiment that applies the model of another one.

Standard library only, like `engram.planning.plan`.
"""

from engram.errors import InputError
from engram.planning import applied, components, plan
from engram.planning.shape import check_name


def check_model(config, name):
    """Refuse what cannot be resolved: no such model, or settings that are those of the model."""
    experiments, where = config["experiments"], f"experiments.{name}"
    this, model = experiments[name], experiments[name]["model"]
    others = [key for key in this if key not in applied.KEYS]
    if others:
        raise InputError(
            f"{where}.{others[0]}: is that of its model, {model!r}, for nothing is trained; leave "
            "it out"
        )
    if model == name:
        raise InputError(f"{where}.model: is itself; name an experiment that trains one")
    check_name(f"{where}.model", model, experiments, "experiment")
    if "model" in experiments[model]:
        raise InputError(
            f"{where}.model: {model!r} trains nothing, it applies "
            f"{experiments[model]['model']!r}; name that"
        )


def check_applied(config, name):
    """Refuse a model that keeps nothing for use, and rows that it was trained on."""
    this, where = plan.Plan(config), f"experiments.{name}"
    model, own = this.model(name), this.known[name]
    kind = config["heads"][own["head"]]["kind"]
    if not components.defines(f"engram.heads.{kind}", "predict"):
        raise InputError(
            f"{where}.model: {model!r} has the head {own['head']!r}, and no model of kind {kind!r} "
            "is kept for use; name one of another head"
        )
    task = this.task(name)
    if not components.defines(f"engram.tasks.{task}", "applied"):
        raise InputError(
            f"{where}.model: {model!r} asks {task}; only models of classes or values can be "
            "applied to another data set"
        )
    baseline = this.baseline(name)
    if baseline and this.known[baseline]["dataset"] != own["dataset"]:
        raise InputError(
            f"{where}.baseline: {baseline!r} is scored on {this.known[baseline]['dataset']!r}, not "
            f"on {own['dataset']!r}; leave it out, and the baseline of the model is applied too"
        )
    if not own.get("i_know_this_leaks"):
        _check_apart(this, where, name)


def _check_apart(this, where, name):
    """No unit is made like one that the model is trained on."""
    model, dataset = this.model(name), this.known[name]["dataset"]
    first = this.known[model]["dataset"]
    remedy = "or set `i_know_this_leaks: true` to see what is remembered"
    if dataset == first:
        raise InputError(
            f"{where}.dataset: {model!r} is trained on {first!r} itself; name another, {remedy}"
        )
    view = this.sources(name)[0].partition("/")[0]
    if view in this.decoders:
        return
    trained = {_made_by(this, first, unit, view): unit for unit in this.units(first)}
    for unit in this.units(dataset):
        if same := trained.get(_made_by(this, dataset, unit, view)):
            raise InputError(
                f"{where}.dataset: {unit!r} of {dataset!r} is {same!r} of {first!r}, on which "
                f"{model!r} is trained; take it out, {remedy}"
            )


def _made_by(this, dataset, unit, view):
    """All that makes the rows of a unit, with the defaults of its dataset."""
    spec = this.spec("render", dataset=dataset, unit=unit, view=view)
    defaults = components.defaults("datasets", spec["dataset"]["kind"])
    return str(spec | {"dataset": defaults | spec["dataset"]})
