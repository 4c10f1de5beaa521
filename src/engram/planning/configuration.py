"""What is wrong with a configuration, said before anything runs, in one line.

Standard library only, like `engram.planning.plan`.
"""

import ast
import difflib
import re

from engram.errors import InputError
from engram.planning import components, plan

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
    _check_keys(config, schema, "")
    _check_study(plan.Plan(config).study)
    for family in plan.FAMILIES:
        for name, spec in config.get(family, {}).items():
            if family == "datasets" and isinstance(spec, dict):
                _check_source(f"datasets.{name}", spec, schema["$defs"]["source"])
            if family == "backbones":
                spec = _checked_backbone(config, name)
            _check_component(family, name, spec)
    for name, this in config.get("experiments", {}).items():
        _check_experiment(config, f"experiments.{name}", this)
    for name in config.get("comparisons", {}):
        _check_comparison(config, name)
    _check_names_differ(config)
    _check_encoded_once(config)
    known = plan.Plan(config).known
    for key in ("run", "maps"):
        for name in config.get(key, []):
            _check_name(key, name, known, "experiment")
    for name in config.get("maps", []):
        if not plan.Plan(config).of_task(name, "MAPPED"):
            raise InputError(f"maps: {name!r} has no classes to map; leave it out")
    for name in config.get("compare", []):
        _check_name("compare", name, config.get("comparisons", {}), "comparison")
    if not config["run"] and not config.get("compare"):
        raise InputError("run: names no experiment and `compare` no comparison: nothing to do")
    _check_weights(config)


def _check_keys(value, schema, path):
    if not isinstance(value, dict):
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key in value:
        where = f"{path}.{key}" if path else key
        if key in known:
            _check_keys(value[key], known[key], where)
        elif isinstance(others, dict):
            _check_keys(value[key], others, where)
        elif others is False:
            raise InputError(f"{where}: unknown key{did_you_mean(key, known)}")


def _check_study(name):
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", str(name), re.ASCII) or name in plan.SHARED:
        raise InputError(
            f"study: {name!r} cannot name its folder in results/; set `study` to a name of "
            f"letters, digits, '.', '_' and '-' that is none of {', '.join(plan.SHARED)}"
        )


def _check_source(where, dataset, schema):
    source = dataset.get("source")
    if not source:
        return
    _check_keys(source, schema, f"{where}.source")
    if sum(kind in source for kind in components.PUBLISHERS) != 1:
        raise InputError(f"{where}.source: needs one of {', '.join(components.PUBLISHERS)}")
    if "folder" in dataset:
        raise InputError(f"{where}: has both `source` and `folder`; is it fetched or is it here?")


def _checked_backbone(config, name):
    """Keys of a backbone, those of the one it is `like` included."""
    spec, where = config["backbones"][name], f"backbones.{name}"
    if isinstance(spec, dict) and "like" in spec:
        _check_name(f"{where}.like", spec["like"], config["backbones"], "backbone")
        spec = plan.Plan(config).backbone(name)
    if isinstance(spec, dict) and "checkpoint" in spec:
        known = config.get("checkpoints", {})
        _check_name(f"{where}.checkpoint", spec["checkpoint"], known, "checkpoint")
    elif isinstance(spec, dict) and spec.get("weights") == "published":
        raise InputError(
            f"{where}.weights: published where? name a `checkpoint`, give a file, or use `random`"
        )
    return spec


def _check_component(family, name, spec):
    where = f"{family}.{name}"
    if not isinstance(spec, dict) or "kind" not in spec:
        raise InputError(f"{where}: needs a `kind`, one of {', '.join(components.kinds(family))}")
    if spec["kind"] not in components.kinds(family):
        guess = did_you_mean(spec["kind"], components.kinds(family))
        raise InputError(f"{where}.kind: no {spec['kind']!r}{guess}")
    known = components.fields(family, spec["kind"])
    common = COMMON_KEYS[family]
    for key, value in spec.items():
        if key in common:
            continue
        if key not in known:
            guess = did_you_mean(key, [*known, *common])
            raise InputError(f"{where}.{key}: unknown key of kind {spec['kind']!r}{guess}")
        if not _fits(known[key][0], value):
            expected = ast.unparse(known[key][0])
            raise InputError(f"{where}.{key}: expected {expected}, got {value!r}")
    for key, (_, required) in known.items():
        if required and key not in spec:
            raise InputError(f"{where}: `{key}` is missing (kind {spec['kind']!r})")


def _check_comparison(config, name):
    this, where = config["comparisons"][name], f"comparisons.{name}"
    if "view" not in this:
        raise InputError(f"{where}: `view` is missing")
    backbones = this.get("backbones")
    if not backbones or not isinstance(backbones, list):
        raise InputError(f"{where}.backbones: needs a list of backbones")
    for backbone in backbones:
        _check_name(f"{where}.backbones", backbone, config["backbones"], "backbone")
        if backbones.count(backbone) > 1:
            raise InputError(f"{where}.backbones: {backbone!r} is listed twice")
    _check_experiment(config, where, next(iter(plan.Plan(config).members(name).values())))
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
    taken = {name: f"experiments.{name}" for name in config["experiments"]}
    for comparison in config.get("comparisons", {}):
        for name in [comparison, *plan.Plan(config).members(comparison)]:
            if name in taken:
                raise InputError(
                    f"comparisons.{comparison}: {name!r} is a name in {taken[name]} already; "
                    "rename the comparison"
                )
            taken[name] = f"comparisons.{comparison}"


def _check_experiment(config, where, this):
    for key in ("dataset", "x", "y", "head"):
        if key not in this:
            raise InputError(f"{where}: `{key}` is missing")
    _check_name(f"{where}.dataset", this["dataset"], config["datasets"], "dataset")
    _check_name(f"{where}.head", this["head"], config["heads"], "head")
    targets = [this["y"]] if isinstance(this["y"], str) else this["y"]
    for source in [*(s for one in plan.candidates(this) for s in one), *targets]:
        view, _, backbone = source.partition("/")
        _check_name(where, view, config["views"], "view")
        if backbone:
            _check_name(where, backbone, config["backbones"], "backbone")
    try:
        task = plan.task_of(this, config["heads"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if "baseline" not in this:
        raise InputError(
            f"{where}: `baseline` is missing; name the experiment that every score is shown "
            "beside (band power + linear head), or `none` for that one itself"
        )
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
    _check_protocol(config, where, this)


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


def did_you_mean(name, known) -> str:
    """The end of an error message: the known name that is closest to `name`, or all of them."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(map(str, known))}" if known else ""


def _fits(annotation, value) -> bool:
    """Whether a YAML value has the type that the source text of an annotation says."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return _fits(left, value) or _fits(right, value)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="bool" | "str" | "dict" | "list" as name):
            return isinstance(value, {"bool": bool, "str": str, "dict": dict, "list": list}[name])
        case ast.Name(id="tuple"):
            return isinstance(value, list)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=allowed):
            return value in _literals(allowed)
        case ast.Subscript(value=ast.Name(id="list" | "tuple"), slice=item):
            items = item.elts if isinstance(item, ast.Tuple) else [item]
            return isinstance(value, list) and all(_fits(items[0], one) for one in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            return isinstance(value, dict) and all(
                _fits(key, k) and _fits(item, v) for k, v in value.items()
            )
    return True


def _literals(node):
    return [ast.literal_eval(n) for n in (node.elts if isinstance(node, ast.Tuple) else [node])]
