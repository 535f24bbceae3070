"""The pictures that the guide recommends."""

from tenner.sample.cells import (
    Prompt,
    guide_cells,
    strength_label,
    trigger_positions,
    without_trigger,
)


def test_first_group_is_strength_by_seed_with_the_base_first() -> None:
    cells = guide_cells(["sks star on grass"], "sks star")
    first = [cell for cell in cells if cell.group == "sks star on grass"]
    assert len(first) == 25
    assert [cell.strength for cell in first[:5]] == [0.0, 0.5, 0.7, 0.8, 1.0]
    assert {cell.seed for cell in first} == {1, 2, 3, 4, 5}


def test_the_trigger_is_removed_moved_and_put_in_the_negative_prompt() -> None:
    cells = guide_cells(["a sks star, at night, on grass"], "sks star", seeds=[1])
    prompts = {cell.group: {c.prompt for c in cells if c.group == cell.group} for cell in cells}
    assert prompts["without the trigger"] == {"at night, on grass"}
    assert prompts["trigger at other positions"] == {
        "sks star, at night, on grass",
        "at night, sks star, on grass",
        "at night, on grass, sks star",
    }
    away = [cell for cell in cells if cell.column == "in the negative prompt"]
    assert [cell.negative_prompt for cell in away] == ["sks star"]
    assert "sks star" not in away[0].prompt


def test_without_a_trigger_only_strengths_are_drawn() -> None:
    cells = guide_cells(["a cat"], "")
    assert {cell.group for cell in cells} == {"a cat"}


def test_only_the_first_prompt_gets_the_further_groups() -> None:
    one, two = guide_cells(["a"], "x"), guide_cells(["a", "b"], "x")
    assert len(two) - len(one) == 25


def test_a_prompt_without_its_trigger_gets_it_first() -> None:
    assert Prompt.of("on grass", "sks").text == "sks, on grass"
    assert Prompt.of("SKS on grass", "sks").text == "SKS on grass"
    assert Prompt.of("tasks on grass", "sks").text == "sks, tasks on grass"


def test_taking_the_trigger_out_leaves_other_words_unchanged() -> None:
    assert without_trigger("photo of sks, tasks", "sks") == "photo of, tasks"
    assert without_trigger("a sks star on a gray background", "sks star") == (
        "on a gray background"
    )
    assert without_trigger("نجمة sks على العشب", "sks") == "نجمة على العشب"


def test_positions_without_commas_are_between_words() -> None:
    assert [text for _, text in trigger_positions("on green grass", "sks")] == [
        "sks on green grass",
        "on green sks grass",
        "on green grass sks",
    ]
    assert trigger_positions("", "sks") == (("alone", "sks"),)


def test_labels() -> None:
    assert [strength_label(each) for each in (0, 0.5, 0.75, 1)] == [
        "0 (base)",
        "0.5",
        "0.75",
        "1.0",
    ]
