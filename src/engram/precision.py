"""Number formats that the hardware multiplies natively."""

import torch


def multiplies_bf16(device) -> bool:
    """Whether the hardware multiplies bf16 natively: AMX, AVX-512 BF16, a GPU since Ampere."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
