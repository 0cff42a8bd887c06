"""What only a CUDA device can show: the variable-length kernel, half precision, no waiting on the host."""

from __future__ import annotations

import pytest
import torch

from hlip.vision import StudyEncoder, VisionConfig
from hlip.vision.attention import Lengths, stretches_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_variable_length_kernel_equals_the_loop():
    counts = [3 * 64 + 2, 8 * 64 + 2, 1 * 64 + 2]
    lengths = {device: Lengths(counts, torch.device(device)) for device in ("cpu", "cuda")}
    parts = [torch.randn(1, 4, sum(counts), 32, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    leaves = {device: [part.to(device).requires_grad_() for part in parts] for device in ("cpu", "cuda")}
    expected = stretches_attention(*leaves["cpu"], lengths["cpu"])
    actual = stretches_attention(*(part.bfloat16() for part in leaves["cuda"]), lengths["cuda"])
    torch.testing.assert_close(actual.float().cpu(), expected, atol=2e-2, rtol=2e-2)
    for result in (expected, actual.float()):
        result.square().sum().backward()
    for one, other in zip(leaves["cuda"], leaves["cpu"], strict=True):
        torch.testing.assert_close(one.grad.cpu(), other.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("position", ["depth_plane", "rotary"])
def test_half_precision_stays_close_to_the_cpu(position):
    torch.manual_seed(0)
    config = VisionConfig(
        size=(24, 64, 64), patch=(6, 16, 16), width=96, heads=4, scopes=["slice", "scan", "study"], position=position
    )
    encoder = StudyEncoder(config).eval()
    volumes, counts = torch.randint(0, 256, (6, 1, 24, 64, 64), dtype=torch.uint8), [1, 3, 2]
    with torch.no_grad():
        expected = encoder(volumes, counts)
        encoder.cuda()
        exact = encoder(volumes.cuda(), counts).cpu()
        with torch.autocast("cuda", torch.bfloat16):
            half = encoder(volumes.cuda(), counts).float().cpu()
    torch.testing.assert_close(exact, expected, atol=2e-3, rtol=2e-3)  # TF32 may be on
    assert torch.nn.functional.cosine_similarity(half, expected, dim=-1).min() > 0.999


def test_a_forward_pass_does_not_wait_for_the_device():
    """Counts stay on the host, so nothing has to be read back."""
    config = VisionConfig(size=(24, 64, 64), patch=(6, 16, 16), width=96, heads=4, scopes=["scan", "study"], position="rotary")
    encoder = StudyEncoder(config).cuda().train()
    volumes = torch.randint(0, 256, (6, 1, 24, 64, 64), dtype=torch.uint8, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        encoder(volumes, [1, 3, 2])
        torch.cuda.set_sync_debug_mode("error")
        try:
            encoder(volumes, [1, 3, 2]).float().sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.grad is not None for parameter in encoder.parameters())
