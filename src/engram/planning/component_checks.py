"""What is wrong with a component: its kind, its options; of a backbone, its weights.

Standard library only, like `engram.planning.plan`.
"""

from engram.errors import InputError
from engram.planning import components, plan, shape
from engram.planning.pretraining import PRETRAIN_KEYS
from engram.planning.shape import check_name, did_you_mean
from engram.planning.specs import KEYS

#: Keys that any component of a family may have, beside the options of its kind.
COMMON_KEYS = {family: ("kind", *KEYS.get(family, ())) for family in plan.FAMILIES}


def check_component(family, name, spec):
    where = f"{family}.{name}"
    if "kind" not in spec:
        raise InputError(f"{where}: needs a `kind`, one of {', '.join(components.kinds(family))}")
    if spec["kind"] not in components.kinds(family):
        guess = did_you_mean(spec["kind"], components.kinds(family))
        raise InputError(f"{where}.kind: no {spec['kind']!r}{guess}")
    common = COMMON_KEYS[family]
    options = {key: spec[key] for key in spec if key not in common}
    check_options(where, options, family, spec["kind"], common)
    within = components.constant(f"engram.{family}.{spec['kind']}", "OPTIONS_OF") or {}
    for option, kinds in within.items():
        part = {"kind": kinds[0], **options.get(option, {})}
        check_name(f"{where}.{option}.kind", part["kind"], kinds, "kind")
        others = {key: part[key] for key in part if key != "kind"}
        check_options(f"{where}.{option}", others, family, part["kind"], ("kind",))


def check_options(where, options, family, kind, common):
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


def checked_backbone(config, name):
    """Keys of a backbone, those of the one it is `like` included."""
    spec, where = config["backbones"][name], f"backbones.{name}"
    if "like" in spec:
        check_name(f"{where}.like", spec["like"], config["backbones"], "backbone")
        spec = plan.Plan(config).backbone(name)
    if "checkpoint" in spec:
        known = config.get("checkpoints", {})
        check_name(f"{where}.checkpoint", spec["checkpoint"], known, "checkpoint")
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
    check_name(f"{where}.view", asked["view"], config["views"], "view")
    for dataset in asked["datasets"]:
        check_name(f"{where}.datasets", dataset, config["datasets"], "dataset")
    kinds = components.kinds("objectives")
    check_name(f"{where}.objective", asked["objective"], kinds, "objective")
    of = components.constant(f"engram.objectives.{asked['objective']}", "BACKBONE")
    if of != spec.get("kind"):
        raise InputError(
            f"{where}.objective: {asked['objective']!r} pretrains backbones of kind {of!r}"
        )
    options = {key: asked[key] for key in asked if key not in PRETRAIN_KEYS}
    check_options(where, options, "objectives", asked["objective"], PRETRAIN_KEYS)
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
