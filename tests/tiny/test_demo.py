"""The demo shows what it promises: the concept is learnt, and the rest stays much as it was."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_learns_a_concept_that_the_base_has_never_seen(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "demo", "--output_dir", str(tmp_path), "--device", "cpu"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    base, lora, drift = (float(each) for each in re.findall(r"^ +([\d.]+)  ", done.stdout, re.M))
    assert base > 14, "the base knows stars, and none in these colours"
    assert lora < 0.7 * base, "the LoRA brings it much nearer"
    assert drift < 0.6 * base, "other prompts move less than that"
    run = tmp_path / "striped_star"
    with Image.open(run / "samples" / "grid.png") as grid:
        assert grid.width > 1000
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"{lora:.1f}" in page
    assert (run / "delivered" / "striped_star.safetensors").is_file()
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    (measured,) = [each for each in map(json.loads, lines) if each["event"] == "weights"]
    assert {part["part"] for part in measured["parts"]} == {"unet", "text_encoder"}
    for part in measured["parts"]:
        assert f"{part['ratio']:.2g}" in page, "the page shows the judgement of the weights"
    assert "as trained LoRAs" in page
