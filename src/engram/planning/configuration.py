"""What is wrong with a configuration, said before anything runs, in one line.

Standard library only, like `engram.planning.plan`.
"""

import re

from engram.credentials import refuse_secrets
from engram.errors import InputError
from engram.planning import facts, names, plan, shape
from engram.planning.applied_checks import check_applied, check_model
from engram.planning.component_checks import check_component, checked_backbone
from engram.planning.dataset_checks import check_dataset
from engram.planning.decoder_checks import check_decoded, check_decoder
from engram.planning.experiment_checks import check_comparison, check_experiment
from engram.planning.predicting import check_predicted
from engram.planning.shape import check_name

#: Families whose names stand in paths: components, what is made of them, and weights.
NAMED = (*plan.FAMILIES, "experiments", "comparisons", "checkpoints", "predict")

#: Names that mean something else where they would stand.
TAKEN = {
    ("datasets", "weights"): "config/locks/weights.csv lists the weights of models",
    ("experiments", "none"): "`baseline: none` means that there is no baseline",
}


def check(config, schema):
    """Refuse a configuration with unknown keys, unknown names or values of the wrong type.

    Args:
        config: the merged configuration.
        schema: the JSON schema of the configuration, as a dict; it says which keys exist.

    Raises:
        InputError: names the key, says what is wrong and suggests what was meant.
    """
    shape.check(config, schema)
    _check_addresses("", config)
    _check_study(plan.Plan(config).study)
    for family in NAMED:
        _check_names_of(family, config.get(family, {}))
    for family in plan.FAMILIES:
        for name, spec in config.get(family, {}).items():
            if family == "datasets":
                check_dataset(f"datasets.{name}", spec)
            if family == "backbones":
                spec = checked_backbone(config, name)
            check_component(family, name, spec)
    applied = [name for name, this in config["experiments"].items() if "model" in this]
    for name in applied:
        check_model(config, name)
    for name, this in config["experiments"].items():
        if name not in applied:
            _check_complete(f"experiments.{name}", this, schema)
            check_experiment(config, f"experiments.{name}", this)
    for name in config.get("comparisons", {}):
        check_comparison(config, name)
    for name in applied:
        check_experiment(config, f"experiments.{name}", plan.Plan(config).known[name])
        check_applied(config, name)
    for name in config.get("decoders", {}):
        check_decoder(config, name)
    check_decoded(config)
    _check_names_differ(config)
    _check_encoded_once(config)
    _check_pretrained_once(config)
    known = plan.Plan(config).known
    for key in ("run", "maps"):
        for name in config.get(key, []):
            check_name(key, name, known, "experiment")
    for name in config.get("maps", []):
        if not plan.Plan(config).of_task(name, "MAPPED"):
            raise InputError(f"maps: {name!r} has no classes to map; leave it out")
    _check_seen(plan.Plan(config))
    for name in config.get("compare", []):
        check_name("compare", name, config.get("comparisons", {}), "comparison")
    for name in config.get("predict", {}):
        check_predicted(plan.Plan(config), name)
    if not config["run"] and not config.get("compare"):
        raise InputError("run: names no experiment and `compare` no comparison: nothing to do")
    _check_weights(config)
    facts.check_confounds(plan.Plan(config))


def _check_addresses(where, value):
    """Refuse secrets in addresses before Snakemake writes them into its metadata and its log."""
    if isinstance(value, dict):
        for key, one in value.items():
            _check_addresses(f"{where}.{key}" if where else key, one)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            _check_addresses(f"{where}[{number}]", one)
    elif isinstance(value, str) and "://" in value:
        try:
            refuse_secrets(value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _check_complete(where, this, schema):
    """What an experiment has to say that trains a model of its own."""
    described = schema["properties"]["experiments"]["additionalProperties"]["properties"]
    for key in ("x", "y", "head", "baseline"):
        if key not in this:
            raise InputError(f"{where}: `{key}` is missing: {described[key]['description']}")


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
        if drawn := this.drawn_decoders(name):
            raise InputError(
                f"experiment {name!r}: decoder {drawn[0]!r} has random weights, and dataset "
                f"{this.known[name]['dataset']!r} is real data; use published weights"
            )
        drawn = this.drawn(name)
        if drawn and name not in twins:
            raise InputError(
                f"experiment {name!r}: backbone {drawn[0]!r} has random weights, and dataset "
                f"{this.known[name]['dataset']!r} is real data; use the published weights, or run "
                "the same with them too, in one comparison: then this is its control"
            )
