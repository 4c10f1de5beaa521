"""Numbers: ranks, intervals, permutations, similarity, neighbours; nothing is read or written."""
