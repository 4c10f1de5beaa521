"""What every EEG encoder is, and the parts they share."""

from torch import nn

from engram.errors import InputError


class Encoder(nn.Module):
    """Maps epochs float32 (b, channel, time) to vectors (b, d).

    What does not depend on parameters may be done once for all epochs: `encoder(x)` is
    `encoder.features(encoder.prepare(x))`.

    Attributes:
        d: width of the vectors.
    """

    d: int

    def prepare(self, x):
        """Epochs (b, channel, time) as `features` wants them; a linear map without parameters."""
        return x

    def features(self, x, subject=None):
        """Vectors (b, d) of prepared epochs; `subject` int (b,), for encoders that know them."""
        raise NotImplementedError

    def forward(self, x, subject=None):
        return self.features(self.prepare(x), subject)


class Residual(nn.Sequential):
    """x + layers(x)."""

    def forward(self, x):
        return x + super().forward(x)


def projector(d_in, d_out, dropout=0.5) -> nn.Sequential:
    """Linear map, residual branch (GELU, linear, dropout), layer norm; (b, d_in) to (b, d_out)."""
    branch = Residual(nn.GELU(), nn.Linear(d_out, d_out), nn.Dropout(dropout))
    return initialise(nn.Sequential(nn.Linear(d_in, d_out), branch, nn.LayerNorm(d_out)))


def initialise(module):
    """Weights of NICE: N(0, 0.02²), of batch normalisation N(1, 0.02²), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def check_known(what, value, known):
    if value not in known:
        raise InputError(f"{what} {value!r} is unknown; use one of {', '.join(known)}")
