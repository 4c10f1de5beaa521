"""Figures: what a person looks at.  One file a kind of figure; nothing here computes a score.

The stages are `plot`, `map` and `report`, each in the file of its name, so that an edit of the
page draws no map again.
"""
