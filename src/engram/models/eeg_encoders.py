"""EEG encoders: torch modules that map epochs (b, channel, time) to vectors (b, d).

`NICE` and its front ends, `ATMS` and `MLP` are written here; any model of braindecode goes by
its name. Sources: Song et al., ICLR 2024 (NICE, NICE-SA, NICE-GA); Li et al., NeurIPS 2024
(ATM-S); Wu et al., CVPR 2025 (MLP).
"""

import importlib

from engram.errors import InputError
from engram.models.base import Encoder, check_known, projector
from engram.models.fronts import FRONTS, ChannelTransformer
from engram.models.nice import NICE

__all__ = ["ATMS", "FRONTS", "MLP", "NICE", "Encoder", "make", "projector"]


class ATMS(NICE):
    """ATM-S (Li et al. 2024): `NICE` behind a `ChannelTransformer`, whose options these are."""

    def __init__(self, channels=63, times=250, layout="fused", **options):
        front = ChannelTransformer(channels, times, **options)
        super().__init__(channels, times, front=front, layout=layout)


class MLP(Encoder):
    """All samples of all channels through one `projector` (the EEGProject of UBP).

    5 404 672 parameters for 17 channels, 250 samples and d = 1024.

    Args:
        channels, times: size of an epoch.
        d: width of the vectors.
        dropout: share dropped in the residual branch.
    """

    def __init__(self, channels=17, times=250, d=1024, dropout=0.3):
        super().__init__()
        self.d = d
        self.layers = projector(channels * times, d, dropout)

    def features(self, x, subject=None):
        return self.layers(x.flatten(1))


class Braindecode(Encoder):
    """A model of braindecode, whose outputs are the vectors."""

    def __init__(self, model, d):
        super().__init__()
        self.model, self.d = model, d

    def features(self, x, subject=None):
        return self.model(x).flatten(1)


def braindecode_model(name, channels, times, sfreq, d=256, **options) -> Braindecode:
    """A model of braindecode by the name of its class, e.g. "EEGNet" or "ShallowFBCSPNet".

    Args:
        name: a class in `braindecode.models`.
        channels, times: size of an epoch.
        sfreq: sampling frequency in Hz.
        d: number of outputs.
        options: further arguments of the class.

    Raises:
        InputError: braindecode is not installed, has no such model, or refuses the arguments.
    """
    try:
        models = importlib.import_module("braindecode.models")
    except (ImportError, OSError) as error:  # OSError: a library of torchaudio does not load
        raise InputError(
            f"encoder {name}: braindecode cannot be imported ({error}); "
            "install it with `pip install -e .[braindecode]`"
        ) from error
    if not hasattr(models, name):
        raise InputError(f"encoder {name}: braindecode.models has no class of this name")
    try:
        model = getattr(models, name)(
            n_chans=channels, n_times=times, sfreq=sfreq, n_outputs=d, **options
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"encoder {name}: braindecode refuses the arguments: {error}") from error
    return Braindecode(model, d)


def make(name, channels, times, layout="fused", **options) -> Encoder:
    """An encoder by name, with freshly drawn parameters.

    Args:
        name: "nice" (option `front`: "attention", "graph" or "transformer"; option
            `front_options`), "atms" (NICE behind a `ChannelTransformer`, whose options these
            are), "mlp", or "braindecode/<class>" (option `sfreq`).
        channels, times: size of an epoch.
        layout: of NICE.
        options: further arguments of the encoder.

    Raises:
        InputError: an unknown name, front end or option.
    """
    try:
        if name == "nice":
            front, front_options = options.pop("front", None), options.pop("front_options", {})
            if front is not None:
                check_known("front end", front, FRONTS)
                front = FRONTS[front](channels, times, **front_options)
            return NICE(channels, times, front=front, layout=layout, **options)
        if name == "atms":
            return ATMS(channels, times, layout=layout, **options)
        if name == "mlp":
            return MLP(channels, times, **options)
        if name.startswith("braindecode/"):
            return braindecode_model(name.partition("/")[2], channels, times, **options)
    except TypeError as error:
        raise InputError(f"encoder {name}: {error}") from error
    raise InputError(f"encoder {name!r} is unknown; use nice, atms, mlp or braindecode/<class>")
