"""Rows that a study gets without naming them: what a model has to beat.

No published model of fMRI clearly beats functional connectivity, and one that does not beat its own
architecture with random weights has learnt nothing.  Whoever runs such a model sees both beside it.
Likewise beside models of EEG spectrograms, see `engram.planning.automatic_eeg`.
Standard library only, like `engram.planning.plan`.
"""

from engram.planning import automatic_eeg, components
from engram.planning.automatic_eeg import free
from engram.planning.plan import Plan

#: By the kind of the view, the kinds of backbones that stand beside each model of its rows.
BASELINES = {"timeseries": ("connectome", "roi_statistics", "identity")}

#: What these rows are called.
TITLES = {
    "connectome": "Functional connectivity",
    "roi_statistics": "Statistics of regions",
    "identity": "Series, principal components",
}

#: The baseline that is too wide for most heads, and the head that it has in place of the model's.
WIDE = "identity"
REDUCED = ("linear_pca", {"kind": "linear", "components": 100})

#: Tasks whose experiments get such rows.
TASKS = ("classes", "values")


def completed(config) -> dict:
    """A configuration with the baselines and the random twins of its models beside them.

    Comparisons that are made and experiments that are shown get them, under `automatic` by name,
    each only where no row of the same data, view and target has a backbone of that kind yet.  With
    `automatic_baselines: false` nothing is added.

    Args:
        config: the merged configuration, checked; it is not changed.
    """
    if not config.get("automatic_baselines", True):
        return config
    config = {
        key: dict(value) if isinstance(value, dict) else value for key, value in config.items()
    }
    for name in Plan(config).applied():
        _apply_baseline(config, name)
    for comparison in config.get("compare", []):
        _complete_comparison(config, comparison)
        _complete_eeg_comparison(config, comparison)
    for experiment in Plan(config).shown():
        _complete_experiment(config, experiment)
        _complete_eeg_experiment(config, experiment)
    return config


def _apply_baseline(config, name):
    """The baseline of the model, applied to the same data, where an experiment names no other."""
    experiments = config["experiments"]
    this = experiments[name]
    baseline = Plan(config).baseline(this["model"])
    if "baseline" in this or not baseline:
        return
    kind = config["heads"][Plan(config).known[baseline]["head"]]["kind"]
    if not components.defines(f"engram.heads.{kind}", "predict"):
        return
    row = {key: this[key] for key in ("dataset", "i_know_this_leaks") if key in this}
    row |= {"model": baseline}
    there = (one for one, its in experiments.items() if row.items() <= its.items())
    added = next(there, None) or free(f"{name}-{baseline}", Plan(config).known)
    experiments.setdefault(added, row | {"baseline": "none", "automatic": True})
    experiments[name] = this | {"baseline": added}


def _complete_comparison(config, name):
    plan, this = Plan(config), config["comparisons"][name]
    first = next(iter(plan.members(name)))
    views = [source.partition("/")[0] for source in plan.sources(first)]
    models = [one for one in this["backbones"] if plan.has_weights(one)]
    if not models or plan.task(first) not in TASKS or not _of_series(plan, views):
        return
    there = [s.partition("/")[2] for one in plan.compared_sources(name) for s in plan.sources(one)]
    there = [backbone for backbone in there if backbone]
    missing = _missing(plan, views[0], there)
    added = [_backbone(config, kind) for kind in missing if kind != WIDE]
    added += [_twin(config, one) for one in models if _lacks_twin(plan, one, there)]
    automatic = [f"{name}-{backbone}" for backbone in added]
    this = {**this, "backbones": [*this["backbones"], *dict.fromkeys(added)]}
    if WIDE in missing:
        keys = ("dataset", "y", "baseline", "folds", "seeds")
        guest = free(f"{name}-{WIDE}", plan.known)
        config["experiments"][guest] = _reduced(
            config,
            {key: this[key] for key in keys if key in this}
            | {"x": plan.seen_by(_backbone(config, WIDE), this["view"])},
        )
        this["experiments"] = [*this.get("experiments", []), guest]
        automatic.append(guest)
    if automatic:
        config["comparisons"][name] = this | {"automatic": automatic}


def _complete_experiment(config, name):
    plan, this = Plan(config), config["experiments"].get(name)
    if this is None or "model" in this or plan.task(name) not in TASKS:
        return
    for view, _, model in (source.partition("/") for source in plan.sources(name)):
        if not model or not plan.has_weights(model) or not _of_series(plan, [view]):
            continue
        there = _beside(plan, this, view)
        rows = [_backbone(config, kind) for kind in _missing(plan, view, there)]
        rows += [_twin(config, model)] if _lacks_twin(plan, model, there) else []
        for backbone in rows:
            title = Plan(config).backbone_title(backbone)
            row = {**this, "x": f"{view}/{backbone}", "title": title, "automatic": True}
            wide = config["backbones"][backbone].get("kind") == WIDE
            added = free(f"{name}-{backbone}", Plan(config).known)
            config["experiments"][added] = _reduced(config, row) if wide else row
            config["run"] = [*config["run"], added]


def _complete_eeg_comparison(config, name):
    plan, this = Plan(config), config["comparisons"][name]
    first, shared = next(iter(plan.members(name).items()))
    view, models = automatic_eeg.view_of(plan, first), _models(plan, this["backbones"])
    if not (view and models):
        return
    there = [s.partition("/")[2] for one in plan.compared_sources(name) for s in plan.sources(one)]
    twins = dict.fromkeys(_twin(config, one) for one in models if _lacks_twin(plan, one, there))
    shared = {key: shared[key] for key in shared if key not in ("title", "x", "head")}
    own = {automatic_eeg.stands_for(plan, one, view) for one in plan.compared_sources(name)}
    guests, added = [], [f"{name}-{twin}" for twin in twins]
    for row in [one for one in automatic_eeg.HEADS if one not in own]:
        plan = Plan(config)
        if guest := automatic_eeg.joined(plan, shared, view, row):
            guests.append(guest)
        elif row in automatic_eeg.rows(plan, shared, view, plan.task(first)):
            guests.append(automatic_eeg.added(config, name, shared, view, row))
            added.append(guests[-1])
    this = {**this, "backbones": [*this["backbones"], *twins]}
    if guests:
        this["experiments"] = [*this.get("experiments", []), *guests]
    if added:
        this["automatic"] = [*this.get("automatic", []), *added]
    config["comparisons"][name] = this


def _complete_eeg_experiment(config, name):
    plan, this = Plan(config), config["experiments"].get(name)
    if this is None or "model" in this or this.get("automatic"):
        return
    view = automatic_eeg.view_of(plan, name)
    models = _models(plan, (source.partition("/")[2] for source in plan.sources(name)))
    if not (view and models):
        return
    alike = [s for one in automatic_eeg.beside(plan, this) for s in plan.sources(one)]
    there = [s.partition("/")[2] for s in alike if s.startswith(f"{view}/")]
    added = [
        automatic_eeg.added(config, name, this, view, row)
        for row in automatic_eeg.rows(plan, this, view, plan.task(name))
    ]
    for model in models:
        if _lacks_twin(plan, model, there):
            twin = _twin(config, model)
            title = Plan(config).backbone_title(twin)
            row = {**this, "x": f"{view}/{twin}", "title": title, "automatic": True}
            added.append(free(f"{name}-{twin}", Plan(config).known))
            config["experiments"][added[-1]] = row
    config["run"] = [*config["run"], *added]


def _models(plan, backbones):
    return [one for one in backbones if one and plan.has_weights(one)]


def _reduced(config, experiment):
    """An experiment whose inputs are reduced in each fold, and marked as automatic."""
    head, options = REDUCED
    config["heads"].setdefault(head, options)
    return {**experiment, "head": head, "title": TITLES[WIDE], "automatic": True}


def _beside(plan, this, view):
    """Backbones over the view in all experiments shown on the same data with the same target."""
    alike = [
        one for one in plan.shown()
        if all(plan.known[one][key] == this[key] for key in ("dataset", "y"))
    ]  # fmt: skip
    sources = [source.partition("/") for one in alike for source in plan.sources(one)]
    return [backbone for of, _, backbone in sources if of == view and backbone]


def _of_series(plan, views):
    """Whether all views are of one kind, for which there are baselines."""
    kinds = {plan.kind_of_view(view) for view in views}
    return len(kinds) == 1 and kinds <= set(BASELINES)


def _missing(plan, view, there):
    """Kinds of baselines that a model of the view lacks beside the backbones `there`."""
    kinds = {plan.backbone(one)["kind"] for one in there}
    return [kind for kind in BASELINES[plan.kind_of_view(view)] if kind not in kinds]


def _lacks_twin(plan, backbone, there):
    """Whether it has published weights and none of `there` is the same with random ones."""
    if plan.draws(backbone):
        return False
    return not any(plan.draws(one) and _alike(plan, one, backbone) for one in there)


def _alike(plan, one, other):
    return _bare(plan, one) == _bare(plan, other)


def _bare(plan, backbone):
    """What a backbone is, whatever its weights are."""
    spec = plan.backbone(backbone)
    skipped = ("weights", "seed", "title", "like", "checkpoint")
    return {key: spec[key] for key in spec if key not in skipped}


def _backbone(config, kind):
    """The backbone that is of a kind and nothing else; one is added where there is none."""
    for name, spec in config["backbones"].items():
        if {key: spec[key] for key in spec if key != "title"} == {"kind": kind}:
            config["backbones"][name] = {"title": TITLES[kind], **spec}
            return name
    name = free(kind, config["backbones"])
    config["backbones"][name] = {"kind": kind, "title": TITLES[kind]}
    return name


def _twin(config, backbone):
    plan = Plan(config)
    for name in config["backbones"]:
        if plan.draws(name) and _alike(plan, name, backbone):
            return name
    name = free(f"{backbone}_random", config["backbones"])
    title = f"{plan.backbone_title(backbone)}, random weights"
    config["backbones"][name] = {"like": backbone, "weights": "random", "title": title}
    return name
