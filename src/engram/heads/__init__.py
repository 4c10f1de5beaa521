"""Heads: what is trained on features (or on a view itself) to predict a class or number.

A component has `fit(task, options, device) -> engram.training.Fit`: it trains every fold
under every run. Statistics and parameters come from a fold's training rows, choices from
its validation rows; its test rows are predicted once. `predict(state, x, known, options, device)`
says what models say of other rows, from their parameters (models, ...); of vectors
`vectors(state, x, known, options)` does, for one subject and block by block.
"""
