"""Our U-Net and text encoder compute what diffusers' and transformers' do, and so do gradients."""

from pathlib import Path

import pytest
import tiny_model
import torch

from tenner.engines.native import layers
from tenner.engines.native.clip import ClipText, parse_clip_config
from tenner.engines.native.dropouts import NO_DROPOUTS, Dropouts
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.network import adapts_unet
from tenner.engines.native.parts import LoraPlan, Parts
from tenner.engines.native.unet import Unet
from tenner.engines.native.unet_config import parse_unet_config

CPU = torch.device("cpu")


def plan_for(bank: LoraBank, **changes: object) -> LoraPlan:
    values = {"segment": "unet", "name_of": lambda name: name, "dim": 4, "alpha": 2.0} | changes
    return LoraPlan(bank=bank, **values)


def randomise(bank: LoraBank) -> None:
    bank.allocate(CPU, torch.float32)
    bank.initialise(7)
    with torch.no_grad():
        bank.weights.copy_(torch.randn(bank.weights.shape) * 0.2)


def inputs(family: str, batch: int = 2):
    torch.manual_seed(3)
    width = {"sd1": 16, "sd2": 32, "sdxl": 40}[family]
    latents = torch.randn(batch, 4, 8, 12)
    added = torch.randn(batch, 24 + 48) if family == "sdxl" else None
    return latents, torch.tensor([3, 977][:batch]), torch.randn(batch, 77, width), added


def diffusers_answer(model, family: str, batch: int = 2):
    latents, times, context, added = inputs(family, batch)
    more = {}
    if added is not None:
        numbers = torch.tensor([[16, 16, 0, 0, 16, 16]] * batch)
        more = {"added_cond_kwargs": {"text_embeds": added[:, :24], "time_ids": numbers}}
        waves = model.add_time_proj(numbers.flatten()).view(batch, -1)
        added = torch.cat([added[:, :24], waves], 1)
    return model(latents, times, context, **more).sample, (latents, times, context, added)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_unet_answers_as_diffusers_does(tmp_path: Path, family: str, channels_last: bool) -> None:
    model = tiny_model.make_unet(tmp_path, family)
    parts = Parts(model.state_dict(), device=CPU, dtype=torch.float32, channels_last=channels_last)
    unet = Unet(parse_unet_config(dict(model.config)), parts)
    with torch.no_grad():
        expected, given = diffusers_answer(model, family)
        torch.testing.assert_close(unet(*given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projected", [False, True])
def test_clip_answers_as_transformers_does(tmp_path: Path, projected: bool) -> None:
    act = "gelu" if projected else "quick_gelu"
    model = tiny_model.make_text_encoder(tmp_path, width=16, projected=projected, act=act)
    tensors = {
        name.removeprefix("text_model."): value for name, value in model.state_dict().items()
    }
    parts = Parts(tensors, device=CPU, dtype=torch.float32)
    clip = ClipText(parse_clip_config(model.config.to_dict()), parts)
    ids = torch.randint(0, 188, (3, 77))
    ids[:, -1] = 189
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True)
        for skip in (1, 2):
            torch.testing.assert_close(
                clip.hidden(ids, skip).view(3, 77, -1),
                expected.hidden_states[-skip],
                rtol=1e-4,
                atol=1e-5,
            )
        last = clip.final_norm(clip.hidden(ids)).view(3, 77, -1)
        torch.testing.assert_close(last, expected.last_hidden_state, rtol=1e-4, atol=1e-5)


def gradients_of(
    model,
    family: str,
    *,
    uses_autograd: bool = False,
    recomputed: int | None = 0,
    conv_dim: int | None = None,
    dropouts: Dropouts = NO_DROPOUTS,
):
    """The prediction, the gradients of the LoRA and of the text, with `recomputed` units."""
    bank = LoraBank()
    plan = plan_for(
        bank, conv_dim=conv_dim, conv_alpha=1.0, uses_autograd=uses_autograd, dropouts=dropouts
    )
    parts = Parts(model.state_dict(), device=CPU, dtype=torch.float32, plan=plan,
                  adapts=lambda name: adapts_unet(name, conv_dim is not None))  # fmt: skip
    unet = Unet(parse_unet_config(dict(model.config)), parts)
    torch.manual_seed(5)
    randomise(bank)
    unet.recompute(recomputed)
    unet.restores_rng = bool(dropouts)
    latents, times, context, added = inputs(family)
    context.requires_grad_(True)
    bank.begin_pass(first=True, num_samples=2)
    answer = unet(latents, times, context, added)
    answer.square().mean().backward()
    bank.end_pass(first=True)
    return answer.detach(), bank.grads.clone(), context.grad


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("conv_dim", [None, 2])
def test_fused_lora_is_the_plain_sum(tmp_path: Path, family: str, conv_dim: int | None) -> None:
    model = tiny_model.make_unet(tmp_path, family)
    expected = gradients_of(model, family, uses_autograd=True, conv_dim=conv_dim)
    for recomputed in (0, None):
        found = gradients_of(model, family, recomputed=recomputed, conv_dim=conv_dim)
        for one, other in zip(found, expected, strict=True):
            assert float(other.abs().max()) > 0
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("dropouts", [NO_DROPOUTS, Dropouts(inner=0.2, rank=0.3, module=0.2)])
def test_blocks_that_are_computed_again_leave_every_bit(tmp_path: Path, dropouts: Dropouts) -> None:
    """However many there are, of all kinds, with dropouts in the LoRA too."""
    model = tiny_model.make_unet(tmp_path, "sdxl")
    uses_autograd = bool(dropouts)
    expected = gradients_of(
        model, "sdxl", uses_autograd=uses_autograd, conv_dim=2, dropouts=dropouts
    )
    units = Unet(
        parse_unet_config(dict(model.config)),
        Parts(model.state_dict(), device=CPU, dtype=torch.float32),
    ).units
    for number in (*range(1, len(units) + 1), None):
        found = gradients_of(
            model,
            "sdxl",
            uses_autograd=uses_autograd,
            recomputed=number,
            conv_dim=2,
            dropouts=dropouts,
        )
        for one, other in zip(found, expected, strict=True):
            assert float(other.abs().max()) > 0
            assert torch.equal(one, other), number


def test_narrow_transformer_blocks_are_computed_again_first_and_the_last_one_last(
    tmp_path: Path,
) -> None:
    model = tiny_model.make_unet(tmp_path, "sdxl")
    parts = Parts(model.state_dict(), device=CPU, dtype=torch.float32)
    unet = Unet(parse_unet_config(dict(model.config)), parts)
    *units, last = unet.units
    kinds = [each.kind for each in units]
    assert kinds == sorted(kinds)
    for kind in ("block", "resnet"):
        positions = [(each.channels, each.index) for each in units if each.kind == kind]
        assert positions == sorted(positions)
        assert positions
    assert last.kind == "block"
    assert last.index > max(each.index for each in units if each.kind == "block")
    unet.recompute(3)
    assert unet.recomputed == set(units[:3])
    unet.recompute(None)
    assert unet.recomputed == {*units, last}


def test_passes_add_up(tmp_path: Path) -> None:
    """Two passes of one optimizer step leave the sum of both in the gradients."""
    model = tiny_model.make_unet(tmp_path, "sd1")
    bank = LoraBank()
    parts = Parts(model.state_dict(), device=CPU, dtype=torch.float32, plan=plan_for(bank),
                  adapts=lambda name: ".attentions." in name)  # fmt: skip
    unet = Unet(parse_unet_config(dict(model.config)), parts)
    randomise(bank)
    latents, times, context, _ = inputs("sd1")
    singles = []
    for index in range(2):
        one = slice(index, index + 1)
        bank.begin_pass(first=True)
        unet(latents[one], times[one], context[one]).square().mean().backward()
        singles.append(bank.grads.clone())
    for index in range(2):
        one = slice(index, index + 1)
        bank.begin_pass(first=index == 0)
        unet(latents[one], times[one], context[one]).square().mean().backward()
    torch.testing.assert_close(bank.grads, singles[0] + singles[1], rtol=1e-4, atol=1e-6)


def test_a_unet_of_another_kind_is_refused_by_name() -> None:
    config = {
        "down_block_types": ["SimpleCrossAttnDownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "block_out_channels": [8],
        "class_embed_type": "timestep",
    }
    with pytest.raises(ValueError, match=r"class_embed_type.*SimpleCrossAttnDownBlock2D"):
        parse_unet_config(config)


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_heads_have_the_gradient_of_the_plain_split_in_fewer_operations(num_parts: int) -> None:
    """Bit for bit; what attention hands back lies as it does on a card: tokens before heads."""
    batch, heads, tokens, dim = 2, 3, 5, 4
    joined = torch.randn(batch * tokens, num_parts * heads * dim)
    shape = (batch, tokens, heads, dim)
    grads = [torch.randn(shape).transpose(1, 2) for _ in range(num_parts)]
    found: list[torch.Tensor] = []
    copies: list[int] = []
    for split in (layers._split_heads, layers.heads_of):
        leaf = joined.clone().requires_grad_()
        parts = split(leaf, batch, num_parts, heads)
        assert [part.shape for part in parts] == [(batch, heads, tokens, dim)] * num_parts
        with torch.profiler.profile() as profile:
            torch.autograd.backward(parts, grads)
        names = [event.name for event in profile.events()]
        copies.append(sum(name in ("aten::cat", "aten::clone", "aten::stack") for name in names))
        found.append(leaf.grad)
    assert torch.equal(*found)
    assert copies[1] < copies[0]
