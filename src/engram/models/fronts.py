"""Modules that mix the channels of epochs before the first layer of an encoder."""

import torch
import torch.nn.functional as F
from torch import nn


class SpatialAttention(nn.Module):
    """Attention between channels, added to the epochs (NICE-SA).

    out[c] = Σ_m softmax_m(q[c] · k[m] / scale) x[m], then a linear map over channels. The code
    released with the paper leaves x[m] out of the sum, which returns its input; this is the
    intended form.

    Args:
        channels, times: size of an epoch.
        dropout: share dropped, after each linear map and before the sum.
    """

    def __init__(self, channels=63, times=250, dropout=0.3):
        super().__init__()
        self.norm = nn.LayerNorm(times)
        self.query, self.key, self.out = (
            nn.Sequential(
                nn.Linear(channels, channels), nn.LayerNorm(channels), nn.Dropout(dropout)
            )
            for _ in range(3)
        )
        self.dropout = nn.Dropout(dropout)
        self.scale = max(times // 30, 1) ** 0.5
        for linear in (self.query[0], self.key[0], self.out[0]):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x, subject=None):
        y = self.norm(x)
        of_time = y.transpose(1, 2)
        scores = self.query(of_time).transpose(1, 2) @ self.key(of_time) / self.scale
        mixed = scores.softmax(-1) @ y
        return x + self.dropout(self.out(mixed.transpose(1, 2)).transpose(1, 2))


class GraphAttention(nn.Module):
    """One graph attention layer on the complete graph of each epoch's channels (NICE-GA).

    out[c] = Σ_m α[c, m] W x[m] + b with α[c, m] = softmax_m(leaky_relu(u · W x[c] + v · W x[m])),
    added to the epochs (Veličković et al. 2018). The edges released with the paper join the
    channels of the first epoch of a batch alone; here each epoch has its own.

    Args:
        channels: not used; the layer takes any number.
        times: samples of an epoch; 63 250 parameters for 250.
        dropout: share dropped before the sum.
    """

    def __init__(self, channels=63, times=250, dropout=0.3):
        super().__init__()
        self.linear = nn.Linear(times, times, bias=False)
        self.u, self.v = (nn.Parameter(torch.empty(times)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(times))
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear.weight)
        for vector in (self.u, self.v):
            nn.init.normal_(vector, std=times**-0.5)

    def forward(self, x, subject=None):
        y = self.linear(x)
        scores = (y @ self.u)[:, :, None] + (y @ self.v)[:, None]
        mixed = F.leaky_relu(scores, 0.2).softmax(-1) @ y + self.bias
        return x + self.dropout(mixed)


class ChannelTransformer(nn.Module):
    """One transformer layer whose tokens are the channels, epochs to epochs (ATM-S).

    A channel's samples are embedded by one linear map. A subject, if known, is one more token,
    which is dropped again after the layer; the code released with the paper drops the last
    channel in its stead.

    Args:
        channels: not used; the layer takes any number.
        times: samples of an epoch.
        heads: of the attention, each of times // heads dimensions.
        hidden: units of the feed-forward layer.
        dropout: share dropped, everywhere.
        subjects: number of subjects that may have a token; 0 = no token.
    """

    def __init__(self, channels=63, times=250, heads=4, hidden=256, dropout=0.25, subjects=0):
        super().__init__()
        inner = times // heads * heads
        self.heads = heads
        self.embed = nn.Linear(times, times)
        self.subject = nn.Embedding(subjects, times) if subjects else None
        self.query, self.key, self.value = (nn.Linear(times, inner) for _ in range(3))
        self.out = nn.Linear(inner, times)
        self.first_norm, self.second_norm, self.last_norm = (nn.LayerNorm(times) for _ in range(3))
        self.up, self.down = nn.Linear(times, hidden), nn.Linear(hidden, times)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, subject=None):
        channels = x.shape[1]
        tokens = self.embed(x)
        if self.subject is not None and subject is not None:
            tokens = torch.cat([tokens, self.subject(subject)[:, None]], 1)
        tokens = self.dropout(tokens)
        tokens = self.first_norm(tokens + self.dropout(self._attend(tokens)))
        y = self.dropout(F.gelu(self.up(tokens)))
        tokens = self.second_norm(tokens + self.dropout(self.down(y)))
        return self.last_norm(tokens)[:, :channels]

    def _attend(self, tokens):
        parts = (linear(tokens) for linear in (self.query, self.key, self.value))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        p = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return self.out(y.transpose(1, 2).flatten(2))


FRONTS = {"attention": SpatialAttention, "graph": GraphAttention, "transformer": ChannelTransformer}
