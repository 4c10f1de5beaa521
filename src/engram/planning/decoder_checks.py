"""What is wrong with a decoder: what it reads, its weights, its name.

Standard library only, like `engram.planning.plan`.
"""

from pathlib import Path

from engram.errors import InputError
from engram.planning import components, names, plan
from engram.planning.shape import check_name, did_you_mean


def check_decoder(config, name):
    """Refuse a decoder that reads what there is not, or what it cannot take."""
    this, where = plan.Plan(config), f"decoders.{name}"
    if taken := [view for view in config["views"] if names.alike(view) == names.alike(name)]:
        raise InputError(
            f"{where}: its pictures are a view of this name, and `views` has {taken[0]!r} already; "
            "rename one"
        )
    spec = config["decoders"][name]
    for option, what in this.decoder_reads(name).items():
        if what == "pictures":
            check_name(f"{where}.{option}", spec[option], config["decoders"], "decoder")
        else:
            check_name(f"{where}.{option}", spec[option], config["experiments"], "experiment")
            _check_latents(this, f"{where}.{option}", name, option)
    _check_weights(this, where, name)


def _check_latents(this, where, name, option):
    """Latents are features of pictures, under a backbone whose latents the decoder takes."""
    experiment, kind = this.decoders[name][option], this.decoders[name]["kind"]
    backbone, task = this.backbone_of(experiment), this.task(experiment)
    if task != "vectors" or not backbone:
        predicts = f"asks {task}" if task != "vectors" else "predicts responses"
        raise InputError(
            f"{where}: experiment {experiment!r} {predicts}; a decoder reads predicted features "
            'of pictures: name one of task vectors whose y is "view/backbone"'
        )
    taken = (components.constant(f"engram.decoders.{kind}", "BACKBONES") or {}).get(option)
    found = this.backbone(backbone)["kind"]
    if taken and found not in taken:
        raise InputError(
            f"{where}: experiment {experiment!r} predicts features of {backbone!r}, a backbone of "
            f"kind {found!r}, and a decoder of kind {kind!r} takes those of {' or '.join(taken)}"
        )
    if components.constant(f"engram.decoders.{kind}", "TRAINING") == option:
        view = this.targets(experiment)[0].partition("/")[0]
        if this.gives(view) != "picture":
            raise InputError(
                f"{where}: experiment {experiment!r} predicts features of the view {view!r}, which "
                "holds no pictures; name one whose y is of a view of pictures"
            )


def _check_weights(this, where, name):
    """Weights are a checkpoint, a file or folder that is there, or random."""
    checkpoints = this.config.get("checkpoints", {})
    for option, weights in this.weights_of(name).items():
        if weights in (None, "random", *checkpoints) or Path(weights).exists():
            continue
        raise InputError(
            f"{where}.{option}: no file {weights}, nor a checkpoint of this name"
            f"{did_you_mean(weights, [*checkpoints, 'random'])}"
        )


def check_decoded(config):
    """Refuse circles, and decoders and experiments that mix datasets."""
    this = plan.Plan(config)
    for name in this.decoders:
        _, experiments = this.behind(name)
        datasets = {this.known[one]["dataset"]: one for one in experiments}
        if len(datasets) != 1:
            said = ", ".join(f"{one!r} of {dataset!r}" for dataset, one in datasets.items())
            raise InputError(
                f"decoders.{name}: reads predictions of {said or 'nothing'}; name experiments of "
                "one dataset"
            )
    for name in this.known:
        own = this.known[name]["dataset"]
        for decoder in this.decoders_of(name):
            if (dataset := this.decoded_dataset(decoder)) != own:
                raise InputError(
                    f"experiments.{name}: decoder {decoder!r} draws what was seen in dataset "
                    f"{dataset!r}, and the experiment is of {own!r}; take one of that dataset"
                )
