"""Torch models whose weights stay as they are, and what makes backbones of them."""
