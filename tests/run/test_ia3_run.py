"""(IA)³ of LyCORIS, planned and run: its own defaults are proposed, and no rank is shown."""

import json
import zipfile
from pathlib import Path

from tests.run.program import StandIn

IA3 = ("--network_module", "lycoris.kohya", "--network_args", "algo=ia3")


def test_the_plan_proposes_its_preset_and_rate_and_shows_its_size(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    assert machine.finish("plan", *machine.train("cat", *IA3)[1:]) == 0, machine.output
    rows = {
        line.split("  ")[1].strip(): line for line in machine.output.splitlines() if "  " in line
    }
    assert " none " in rows["rank"]
    assert " ia3 " in rows["preset"]
    assert " 0.005 " in rows["learning rate"]
    assert "LyCORIS recommends 5e-3 to 1e-2" in rows["learning rate"]
    assert " 0.0025 " in rows["text encoder"]
    assert "checkpoints of 310.3 kB, states of " in rows["disk"]  # 155,136 numbers of two bytes
    assert "A1111 alone loads (IA)³" in machine.output


def test_the_run_shows_no_rank_and_trains_with_what_was_proposed(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    line = machine.train("cat", *IA3, "--deliver_for", "civitai")
    assert machine.finish(*line) == 0, machine.output
    run = machine.run("cat")
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert plan["options"]["network_args"] == ["algo=ia3", "preset=ia3"]
    assert (plan["options"]["unet_lr"], plan["options"]["text_encoder_lr"]) == (5e-3, [2.5e-3])
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "A LoRA of the kind (IA)³" in card
    assert "| unet_lr | 0.005 |" in card
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "algo=ia3, preset=ia3" in page
    for text in (card, page):
        assert "network_dim" not in text
        assert "network_alpha" not in text
    with zipfile.ZipFile(run / "delivered" / "cat-civitai.zip") as archive:
        description = archive.read("description.txt").decode()
    assert "(IA)³, 50 steps, learning rate 0.005." in description
