"""What is wrong with a configuration, said before anything runs, in one line.

Standard library only, like `engram.planning.plan`.
"""

import re
import string

from engram.errors import InputError
from engram.planning import components, facts, names, plan, shape
from engram.planning.pretraining import PRETRAIN_KEYS
from engram.planning.shape import did_you_mean

#: Families whose names stand in paths: components, what is made of them, and weights.
NAMED = (*plan.FAMILIES, "experiments", "comparisons", "checkpoints")

#: The report of a study, or a file that is called after one of its experiments or comparisons.
OF_STUDY = (
    r"results/([^/]+)/(?:report\.html$|"
    "(?:models|predictions|latents|scores|importance|figures|comparisons|tracking)/([^/.]+))"
)

#: Names that mean something else where they would stand.
TAKEN = {
    ("datasets", "weights"): "config/locks/weights.csv lists the weights of models",
    ("experiments", "none"): "`baseline: none` means that there is no baseline",
}

#: Keys that any component of a family may have, beside the options of its kind.
COMMON_KEYS = {family: ("kind", *plan.KEYS.get(family, ())) for family in plan.FAMILIES}


def check(config, schema):
    """Refuse a configuration with unknown keys, unknown names or values of the wrong type.

    Args:
        config: the merged configuration.
        schema: the JSON schema of the configuration, as a dict; it says which keys exist.

    Raises:
        InputError: names the key, says what is wrong and suggests what was meant.
    """
    shape.check(config, schema)
    _check_study(plan.Plan(config).study)
    for family in NAMED:
        _check_names_of(family, config.get(family, {}))
    for family in plan.FAMILIES:
        for name, spec in config.get(family, {}).items():
            if family == "datasets":
                _check_source(f"datasets.{name}", spec)
                _check_recordings(f"datasets.{name}", spec)
            if family == "backbones":
                spec = _checked_backbone(config, name)
            _check_component(family, name, spec)
    for name, this in config.get("experiments", {}).items():
        _check_experiment(config, f"experiments.{name}", this)
    for name in config.get("comparisons", {}):
        _check_comparison(config, name)
    _check_names_differ(config)
    _check_encoded_once(config)
    _check_pretrained_once(config)
    known = plan.Plan(config).known
    for key in ("run", "maps"):
        for name in config.get(key, []):
            _check_name(key, name, known, "experiment")
    for name in config.get("maps", []):
        if not plan.Plan(config).of_task(name, "MAPPED"):
            raise InputError(f"maps: {name!r} has no classes to map; leave it out")
    _check_seen(plan.Plan(config))
    for name in config.get("compare", []):
        _check_name("compare", name, config.get("comparisons", {}), "comparison")
    if not config["run"] and not config.get("compare"):
        raise InputError("run: names no experiment and `compare` no comparison: nothing to do")
    _check_weights(config)


def _check_names_of(family, known):
    """Names that can stand in paths and patterns, on disks that do not know capitals apart too."""
    taken = {}
    for name in known:
        if fault := names.fault_of_key(name):
            raise InputError(f"{family}: {name!r} cannot be a name: {fault}")
        if reason := TAKEN.get((family, names.alike(name))):
            raise InputError(f"{family}.{name}: the name is taken: {reason}; choose another")
        other = taken.setdefault(names.alike(name), name)
        if other != name:
            raise InputError(
                f"{family}.{name}: differs from {other!r} in nothing but case or form; rename one"
            )


def _check_study(name):
    good = re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name, re.ASCII) and len(name) <= names.LONGEST
    if not good or name.lower() in plan.SHARED:
        raise InputError(
            f"study: {name!r} cannot name its folder in results/; set `study` to a name of "
            f"letters, digits, '.', '_' and '-', {names.LONGEST} at most, that is none of "
            f"{', '.join(plan.SHARED)}"
        )


def _check_source(where, dataset):
    source = dataset.get("source")
    if not source:
        return
    if sum(kind in source for kind in components.PUBLISHERS) != 1:
        raise InputError(f"{where}.source: needs one of {', '.join(components.PUBLISHERS)}")
    if "folder" in dataset:
        raise InputError(f"{where}: has both `source` and `folder`; is it fetched or is it here?")


def _check_recordings(where, dataset):
    """What a dataset lists: a manifest, or units and the patterns of their files."""
    listed = "manifest" in dataset
    if not listed and not ("units" in dataset and "files" in dataset):
        raise InputError(f"{where}: needs a `manifest`, or `units` and their `files`")
    units, shared = list(map(str, dataset.get("units", []))), list(dataset.get("shared", {}))
    taken = {}
    for key, name in [*(("units", unit) for unit in units), *(("shared", one) for one in shared)]:
        if fault := names.fault_of_unit(name):
            raise InputError(f"{where}.{key}: {name!r}: {fault}")
        if other := taken.get(names.alike(name)):
            raise InputError(f"{where}.{key}: {other!r} and {name!r} are one folder; rename one")
        taken[names.alike(name)] = name
    folder = dataset.get("folder", ".")
    if fault := names.fault_of_path(folder) if folder else "name one, or leave the key out":
        raise InputError(f"{where}.folder: {folder!r}: {fault}")
    patterns = dataset.get("files", [])
    for pattern in patterns:
        _check_pattern(f"{where}.files", pattern, dataset)
    if not listed and len(units) > 1 and not any("{unit}" in pattern for pattern in patterns):
        raise InputError(f"{where}.files: all units have the same files; put {{unit}} in a pattern")


def _check_pattern(where, pattern, dataset):
    """Braces around `unit`, or around a key of the dataset that holds a list, and no others."""
    lists = [key for key in dataset if isinstance(dataset[key], list) and key != "files"]
    try:
        fields = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise InputError(f"{where}: {pattern!r}: {error}; close every brace") from None
    for _, name, style, conversion in fields:
        if name is not None and (name not in ("unit", *lists) or style or conversion):
            raise InputError(
                f"{where}: {pattern!r}: in braces stands `unit` or the name of a list that the "
                f"dataset holds{did_you_mean(name, ['unit', *lists])}"
            )


def _checked_backbone(config, name):
    """Keys of a backbone, those of the one it is `like` included."""
    spec, where = config["backbones"][name], f"backbones.{name}"
    if "like" in spec:
        _check_name(f"{where}.like", spec["like"], config["backbones"], "backbone")
        spec = plan.Plan(config).backbone(name)
    if "checkpoint" in spec:
        known = config.get("checkpoints", {})
        _check_name(f"{where}.checkpoint", spec["checkpoint"], known, "checkpoint")
    elif spec.get("weights") == "published":
        raise InputError(
            f"{where}.weights: published where? name a `checkpoint`, give a file, or use `random`"
        )
    if spec.get("weights") == "pretrained":
        _check_pretraining(config, where, spec)
    elif "epoch" in spec:
        raise InputError(f"{where}.epoch: belongs to `weights: pretrained`; leave it out")
    return spec


def _check_pretraining(config, where, spec):
    if "pretrain" not in spec:
        raise InputError(
            f"{where}.weights: pretrained on what? add `pretrain` with objective, view and datasets"
        )
    asked, where = spec["pretrain"], f"{where}.pretrain"
    for key in ("objective", "view", "datasets"):
        if key not in asked:
            raise InputError(f"{where}: `{key}` is missing")
    _check_name(f"{where}.view", asked["view"], config["views"], "view")
    for dataset in asked["datasets"]:
        _check_name(f"{where}.datasets", dataset, config["datasets"], "dataset")
    kinds = components.kinds("objectives")
    _check_name(f"{where}.objective", asked["objective"], kinds, "objective")
    of = components.constant(f"engram.objectives.{asked['objective']}", "BACKBONE")
    if of != spec.get("kind"):
        raise InputError(
            f"{where}.objective: {asked['objective']!r} pretrains backbones of kind {of!r}"
        )
    options = {key: asked[key] for key in asked if key not in PRETRAIN_KEYS}
    _check_options(where, options, "objectives", asked["objective"], PRETRAIN_KEYS)
    _check_kept(where, asked, spec.get("epoch"))


def _check_kept(where, asked, epoch):
    """Epochs whose weights are kept, and the one that is asked for."""
    default = components.defaults("objectives", asked["objective"])["epochs"]
    epochs, keep = asked.get("epochs", default), asked.get("keep", [])
    if wrong := [one for one in keep if not 1 <= one < epochs or keep.count(one) > 1]:
        raise InputError(
            f"{where}.keep: {wrong[0]}; each is listed once, and lies before the last of {epochs}"
        )
    if epoch is not None and epoch not in keep:
        raise InputError(f"{where}.keep: lists no {epoch}, the `epoch` of the backbone; add it")


def _check_component(family, name, spec):
    where = f"{family}.{name}"
    if "kind" not in spec:
        raise InputError(f"{where}: needs a `kind`, one of {', '.join(components.kinds(family))}")
    if spec["kind"] not in components.kinds(family):
        guess = did_you_mean(spec["kind"], components.kinds(family))
        raise InputError(f"{where}.kind: no {spec['kind']!r}{guess}")
    common = COMMON_KEYS[family]
    options = {key: spec[key] for key in spec if key not in common}
    _check_options(where, options, family, spec["kind"], common)


def _check_options(where, options, family, kind, common):
    """Keys and types of the options of a kind; `common` are keys that stand beside them."""
    known = components.fields(family, kind)
    for key, value in options.items():
        if key not in known:
            guess = did_you_mean(key, [*known, *common])
            raise InputError(f"{where}.{key}: unknown key of kind {kind!r}{guess}")
        shape.check_option(value, known[key][0], f"{where}.{key}")
    for key, (_, required) in known.items():
        if required and key not in options:
            raise InputError(f"{where}: `{key}` is missing (kind {kind!r})")


def _check_comparison(config, name):
    this, where = config["comparisons"][name], f"comparisons.{name}"
    backbones = this["backbones"]
    for backbone in backbones:
        _check_name(f"{where}.backbones", backbone, config["backbones"], "backbone")
        if backbones.count(backbone) > 1:
            raise InputError(f"{where}.backbones: {backbone!r} is listed twice")
    first = next(iter(plan.Plan(config).members(name).values()))
    _check_experiment(config, where, first)
    task = plan.task_of(first, config)
    if not components.constant(f"engram.tasks.{task}", "COMPARED"):
        raise InputError(
            f"{where}: its members ask {task}, but backbones are compared by how they tell classes "
            "or numbers; write one experiment a backbone, which the report shows in one table"
        )
    for guest in this.get("experiments", []):
        _check_name(f"{where}.experiments", guest, config["experiments"], "experiment")
        if guest == this["baseline"]:
            raise InputError(
                f"{where}.experiments: {guest!r} is the baseline, which is shown anyway"
            )
        for key in ("dataset", "y", "baseline"):
            if config["experiments"][guest].get(key) != this[key]:
                raise InputError(
                    f"{where}.experiments: {guest!r} has another `{key}` than the comparison, so "
                    "that their scores do not compare"
                )


def _check_names_differ(config):
    """Experiments, comparisons and their members share folders: no name may occur twice."""
    taken = {names.alike(name): f"experiments.{name}" for name in config["experiments"]}
    for comparison in config.get("comparisons", {}):
        for name in [comparison, *plan.Plan(config).members(comparison)]:
            if there := taken.get(names.alike(name)):
                raise InputError(
                    f"comparisons.{comparison}: {name!r} is a name in {there} already; rename the "
                    "comparison"
                )
            taken[names.alike(name)] = f"comparisons.{comparison}"


def _check_experiment(config, where, this):
    _check_name(f"{where}.dataset", this["dataset"], config["datasets"], "dataset")
    _check_name(f"{where}.head", this["head"], config["heads"], "head")
    targets = [this["y"]] if isinstance(this["y"], str) else this["y"]
    for sources in (*plan.candidates(this), targets):
        if twice := [source for source in sources if sources.count(source) > 1]:
            raise InputError(f"{where}: {twice[0]!r} is listed twice; take one out")
    for source in [*(s for one in plan.candidates(this) for s in one), *targets]:
        view, _, backbone = source.partition("/")
        _check_name(where, view, config["views"], "view")
        _check_shared(config, where, this["dataset"], view)
        if "/" in source:
            _check_name(where, backbone, config["backbones"], "backbone")
            _check_rows(config, where, view, backbone)
    try:
        task = plan.task_of(this, config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for view in targets:
        if config["views"].get(view, {}).get("kind") == "fact":
            facts.check(plan.Plan(config), view, this["dataset"])
    if this["baseline"] != "none":
        _check_name(f"{where}.baseline", this["baseline"], config["experiments"], "experiment")
    ways = components.constant(f"engram.tasks.{task}", "FOLDS")
    how = this.get("folds", next(iter(ways)))
    kind = how["kind"] if isinstance(how, dict) else how
    _check_name(f"{where}.folds", kind, ways, "way to split")
    if kind == "random_windows" and not this.get("i_know_this_leaks"):
        raise InputError(
            f"{where}.folds: random windows of one scan stand on both sides of the split; "
            "use leave_one_subject_out, or set `i_know_this_leaks: true` to see by how much"
        )
    if backbone := config["heads"][this["head"]].get("backbone"):
        _check_name(f"heads.{this['head']}.backbone", backbone, config["backbones"], "backbone")
    _check_protocol(config, where, this)


def _check_rows(config, where, view, backbone):
    """A view whose rows are not of the kind that a backbone takes."""
    given = components.constant(f"engram.views.{config['views'][view]['kind']}", "GIVES")
    whats, _ = components.taken({"backbone": plan.Plan(config).backbone(backbone)})
    if given not in whats:
        holds = f"{given} rows" if given else "no rows for a backbone"
        raise InputError(
            f"{where}: backbone {backbone!r} takes {' or '.join(whats)} rows, but the view "
            f"{view!r} holds {holds}; choose another view or backbone"
        )


def _check_shared(config, where, dataset, view):
    """The one store of a view that all units share is one that the dataset has."""
    unit, shared = config["views"][view].get("unit"), config["datasets"][dataset].get("shared", {})
    if unit is not None and unit not in shared:
        raise InputError(
            f"{where}: view {view!r} is made of the unit {unit!r}, which dataset {dataset!r} does "
            f"not have under `shared`{did_you_mean(unit, shared)}"
        )


def _check_protocol(config, where, this):
    """A model chosen on test pictures is shown beside one that was not, or not at all."""

    def clean(experiment):
        return config["heads"][experiment["head"]].get("select_on", "validation") != "test"

    if clean(this):
        return
    beside = config["experiments"].get(this["baseline"])
    if not (beside and clean(beside) and beside["dataset"] == this["dataset"]):
        raise InputError(
            f"{where}: head {this['head']!r} chooses its epoch on the test pictures; name as "
            "`baseline` an experiment on the same dataset that does not, to be shown beside it"
        )


def _check_encoded_once(config):
    """Refuse two names for one backbone: everything would be encoded twice."""
    this, names = plan.Plan(config), {}
    sources = (s for name in this.known for s in [*this.sources(name), *this.targets(name)])
    for backbone in sorted({source.partition("/")[2] for source in sources} - {""}):
        spec = str(this.spec("extract", backbone=backbone)) + str(this.weights(backbone))
        twin = names.setdefault(spec, backbone)
        if twin != backbone:
            raise InputError(
                f"backbones.{backbone}: the same as {twin!r}; use one name for both, so that "
                "nothing is encoded twice"
            )


def _check_pretrained_once(config):
    """Refuse two names for one pretraining."""
    this, names = plan.Plan(config), {}
    for backbone in this.pretrained():
        twin = names.setdefault(str(this.spec("pretrain", backbone=backbone)), backbone)
        if twin != backbone:
            raise InputError(
                f"backbones.{backbone}: would learn the same as {twin!r} once more; write "
                f"`like: {twin}` instead"
            )


def _check_seen(this):
    """Figures of an experiment need rows that a person can look at."""
    for name in this.shown():
        side = this.shown_side(name)
        if side and not this.pictures(name):
            raise InputError(
                f"experiment {name!r}: its figures show pictures, and {', '.join(side)} gives "
                "none; add a source of a view of pictures, spectrograms or series beside it"
            )


def _check_weights(config):
    """On published recordings random weights are the control of published ones, or refused."""
    this = plan.Plan(config)
    fetched = [name for name, spec in config["datasets"].items() if spec.get("source")]
    names = [name for name in this.experiments() if this.known[name]["dataset"] in fetched]
    twins = this.twins(names)
    for name in names:
        drawn = this.drawn(name)
        if drawn and name not in twins:
            raise InputError(
                f"experiment {name!r}: backbone {drawn[0]!r} has random weights, and dataset "
                f"{this.known[name]['dataset']!r} is real data; use the published weights, or run "
                "the same with them too, in one comparison: then this is its control"
            )


def _check_name(where, name, known, what):
    if name not in known:
        raise InputError(f"{where}: no {what} {name!r}{did_you_mean(name, known)}")


def check_asked(this, arguments):
    """Refuse files of another study, or of an experiment that there is not, as targets.

    Snakemake would say that nothing makes them, or, if they are there, that nothing is to be done.

    Args:
        this: the plan.
        arguments: those of the command line.

    Raises:
        InputError: names the target and what was meant.
    """
    for target in arguments:
        if found := re.match(r"results/(?:views|features)/([^/]+)/([^/]+)/", target):
            dataset, unit = found.groups()
            _check_name(target, dataset, this.config["datasets"], "dataset")
            _check_name(target, unit, [*this.units(dataset), *this.shared(dataset)], "unit")
        elif found := re.match(OF_STUDY, target):
            _check_own(this, target, *found.groups())


def _check_own(this, target, study, name):
    """A file of this study, of an experiment or comparison that there is."""
    if study != this.study:
        raise InputError(
            f"{target}: belongs to the study {study!r}, but this is {this.study!r}; name the "
            "file of that study with --configfile, behind the targets"
        )
    if name:
        known = {*this.known, *this.config.get("comparisons", {})}
        _check_name(target, name, known, "experiment")
