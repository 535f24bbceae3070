"""The model card: metadata that the Hub reads, words that load the LoRA, and no path of ours."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tenner.core.checksums import DeliveredFile
from tenner.core.events import Event, Warned
from tenner.core.secrets import NO_SECRETS
from tenner.families import FAMILIES
from tenner.kohya.networks import ALGORITHMS
from tenner.lora_files.programs import written_by
from tenner.report.loaders import loaders_of
from tenner.report.model_card import Card, WidgetPicture, is_edited, render_card
from tenner.runs.card import shown_samples
from tenner.runs.deliver import deliver
from tenner.sample.job import Cell, Sample
from tenner.storage.destination_address import parse_destination

CARD = Card(
    name="my cat",
    weights="my_cat.safetensors",
    version="1.0",
    family="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    tag="stable-diffusion-xl",
    base_name="sdxl",
    base_id="stabilityai/stable-diffusion-xl-base-1.0",
    base_licence="openrail++",
    trigger='sks "cat", قطة',
    num_images=20,
    num_captions=18,
    has_grid=True,
    load_from="me/cat",
    training=(("network_dim", "32"), ("steps", "1200")),
    pictures=(WidgetPicture(url="samples/widget-1.png", prompt='a "sks cat": on a #chair'),),
)


def front_matter(text: str) -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    return yaml.safe_load(match[1])


def test_the_hub_reads_its_metadata() -> None:
    text = render_card(CARD)
    reported = front_matter(text)
    assert reported["base_model"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert reported["base_model_relation"] == "adapter"
    assert reported["license"] == "openrail++"
    assert reported["instance_prompt"] == 'sks "cat", قطة'
    assert {"lora", "stable-diffusion-xl", "template:sd-lora"} <= set(reported["tags"])
    assert reported["widget"] == [
        {"text": 'a "sks cat": on a #chair', "output": {"url": "samples/widget-1.png"}}
    ]
    assert ModelCard(text).data.to_dict()["pipeline_tag"] == "text-to-image"


def test_it_shows_how_to_load_the_weights_everywhere() -> None:
    text = render_card(CARD)
    assert 'pipe.load_lora_weights("me/cat", weight_name="my_cat.safetensors")' in text
    assert "StableDiffusionXLPipeline" in text
    assert '<lora:my_cat:0.8> a "sks cat": on a #chair' in text
    assert "ComfyUI" in text
    assert "20 images with 18 captions" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")


def test_a_licence_that_limits_its_use_is_in_the_card() -> None:
    note = FAMILIES["flux"].licence
    assert note
    text = render_card(replace(CARD, licence_note=note.note, pipeline="FluxPipeline"))
    assert "is not for commercial use" in text.split("## Licence")[1]
    assert "joint_attention_kwargs" in text
    assert "does not load these weights" in render_card(replace(CARD, pipeline=""))


@pytest.mark.parametrize(
    ("module", "arguments", "kind", "has_comfyui"),
    [
        ("", (), "LoRA", True),
        ("networks.lora_fa", (), "LoRA", True),
        ("networks.dylora", ("unit=4",), "LoRA", True),
        ("networks.oft", (), "OFT", False),  # named oft_unet_…, which comfy/lora.py does not map
        *(
            ("lycoris.kohya", (f"algo={algo}",), kind, algo != "ia3")
            for algo, kind in {
                "lora": "LoRA",
                "locon": "LoRA",
                "dylora": "LoRA",
                "loha": "LoHa",
                "lokr": "LoKr",
                "glora": "GLoRA",
                "diag-oft": "OFT",
                "boft": "OFT",
                "ia3": "(IA)³",
            }.items()
        ),
        ("lycoris.kohya", ("algo=lora", "dora_wd=True"), "DoRA", True),
        ("lycoris.kohya", ("dora_wd=True", "factor=4", "algo=lokr"), "LoKr", True),
    ],
)
def test_the_card_names_the_programs_that_load_each_kind(
    module: str, arguments: tuple[str, ...], kind: str, has_comfyui: bool
) -> None:
    found = loaders_of(FAMILIES["sdxl"], module, arguments)
    only_a1111 = kind in ("OFT", "(IA)³")  # Forge: "TODO: OFT"
    webui = "AUTOMATIC1111" if only_a1111 else "AUTOMATIC1111, Forge"
    assert (found.kind, found.webui) == (kind, webui)
    assert found.has_comfyui == has_comfyui
    text = render_card(replace(CARD, **asdict(found)))
    assert ("**ComfyUI** does not load these weights" in text) == (not has_comfyui)
    assert "A LoRA" in text
    assert (f"of the kind {kind}" in text) == (kind != "LoRA")


def test_every_algorithm_of_lycoris_is_known_by_what_it_writes() -> None:
    written = {written_by("lycoris.kohya", (f"algo={each}",)).kind for each in ALGORITHMS}
    assert written == {"lora", "loha", "lokr", "glora", "oft", "ia3"}


@pytest.mark.parametrize(
    ("family", "webui"),
    [
        ("flux", "Forge"),
        ("chroma", "Forge"),
        ("sd35-large", "Forge"),
        ("lumina2", ""),
        ("anima", ""),
        ("hunyuan-image", ""),
        ("sd1", "AUTOMATIC1111, Forge"),
    ],
)
def test_the_card_names_the_web_interfaces_that_know_the_family(family: str, webui: str) -> None:
    text = render_card(replace(CARD, **asdict(loaders_of(FAMILIES[family], "", ()))))
    if webui:
        assert f"**{webui}:** put" in text
    else:
        assert "**AUTOMATIC1111, Forge** do not load these weights" in text
    converted = "rename the modules with `networks/convert_hunyuan_image_lora_to_comfy.py`" in text
    assert converted == (family == "hunyuan-image")
    assert "**ComfyUI:**" in text


@pytest.mark.parametrize(
    ("family", "arguments", "left_out"),
    [
        ("chroma", ("train_t5xxl=True",), "does not load what is trained of Chroma's T5"),
        ("chroma", (), ""),
        ("flux", ("train_t5xxl=True",), ""),
        ("lumina2", (), "an older ComfyUI does not load"),
        ("anima", (), "an older ComfyUI does not load"),
        ("sdxl", (), ""),
    ],
)
def test_the_card_tells_what_comfyui_leaves_out_where_the_text_encoder_was_trained(
    family: str, arguments: tuple[str, ...], left_out: str
) -> None:
    facts = FAMILIES[family]
    trained = loaders_of(facts, None, arguments, trains_text=True)
    text = render_card(replace(CARD, **asdict(trained)))
    assert bool(trained.left_out) == bool(left_out)
    assert left_out in text
    assert not loaders_of(facts, None, arguments).left_out


def test_what_is_not_known_is_left_out() -> None:
    bare = Card(
        name="x",
        weights="x.safetensors",
        version="1",
        family="f",
        pipeline="StableDiffusionPipeline",
        tag="stable-diffusion",
        base_name="my.st",
    )
    text = render_card(bare)
    reported = front_matter(text)
    assert not {"base_model", "license", "instance_prompt", "widget"} & set(reported)
    assert "grid.png" not in text
    assert "my.st" in text


@pytest.mark.parametrize(
    "hostile",
    ["a\n---\nlicense: mit", "```\n# x", '"); import os #', "<script>", "| x |", "{{ x }}"],
)
def test_no_text_of_the_users_breaks_out(hostile: str) -> None:
    picture = WidgetPicture(url="samples/widget-1.png", prompt=hostile)
    card = Card(
        name=hostile,
        weights="x.safetensors",
        version="1",
        family="f",
        pipeline="StableDiffusionPipeline",
        tag="stable-diffusion",
        base_name=hostile,
        trigger=hostile,
        training=(("a", hostile),),
        pictures=(picture,),
    )
    text = render_card(card)
    reported = front_matter(text)
    assert reported["instance_prompt"] == hostile
    assert "license" not in reported
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    compile(code, "card", "exec")
    assert "\nimport os" not in code
    shown = re.sub(r"```.*?```|\A---\n.*?\n---", "", text, flags=re.DOTALL)
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", shown)


def test_a_card_that_a_person_edited_is_known() -> None:
    ours = render_card(CARD).encode()
    assert not is_edited(ours)
    assert is_edited(ours.replace(b"20 images", b"20 good images"))
    assert is_edited(b"# My own page\n")
    assert not is_edited(b"---\nlicense: mit\n---\n")
    assert not is_edited(b"")


def test_an_edited_card_stays_and_the_rest_is_delivered(tmp_path: Path) -> None:
    card, weights = tmp_path / "README.md", tmp_path / "x.safetensors"
    card.write_text(render_card(CARD), encoding="utf-8")
    weights.write_bytes(b"weights")
    files = [DeliveredFile(path=card, name="README.md")]
    files.append(DeliveredFile(path=weights, name="x.safetensors"))
    out = tmp_path / "out"
    target = parse_destination(f"file://{out}")
    assert "README.md" in deliver(files, [target], secrets=NO_SECRETS).at[0].put
    (out / "README.md").write_text("# Mine\n")
    weights.write_bytes(b"new weights")
    events: list[Event] = []
    (at,) = deliver(files, [target], secrets=NO_SECRETS, on_event=events.append).at
    assert at.left == ("README.md",)
    assert (out / "README.md").read_text() == "# Mine\n"
    assert (out / "x.safetensors").read_bytes() == b"new weights"
    assert "README.md" not in (out / "manifest.json").read_text()
    assert any("edited by hand" in event.text for event in events if isinstance(event, Warned))


def test_pictures_show_every_prompt_at_the_usual_strength() -> None:
    samples = [
        Sample(
            cell=Cell(prompt=prompt, strength=strength, seed=seed, group=group or prompt),
            file=f"{prompt}-{strength}-{seed}.png",
            width=1,
            height=1,
        )
        for prompt, group in (("a", ""), ("b", ""), ("c", "without the trigger"))
        for seed in (1, 2, 3)
        for strength in (0.0, 0.7, 1.0)
    ]
    shown = [each.file for each in shown_samples(samples)]
    assert shown == ["a-0.7-1.png", "b-0.7-1.png", "a-0.7-2.png", "b-0.7-2.png"]


def test_a_card_of_a_training_that_ended_early_states_that_and_promises_no_whole_set() -> None:
    early = "the training ended early, after 40 of 200 steps: its budget was reached"
    card = replace(
        CARD, early=early, is_whole_set=False, weights="checkpoints/my_cat-000002.safetensors"
    )
    text = render_card(card)
    assert f"**Unfinished:** {early}." in text
    assert "`my_cat-000002.safetensors` into `models/Lora`" in text
    assert "manifest.json" not in text
    assert "Unfinished" not in render_card(CARD)
    assert "manifest.json" in render_card(CARD)
