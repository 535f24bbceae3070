"""Secrets come in by name or by file, and never come out in text or in a child's environment."""

from pathlib import Path

from tenner.secrets import secrets_from, without_secrets

TOKEN = "hf_" + "a1B2" * 8


def test_values_come_by_name_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file-0123\n")
    secrets, problems = secrets_from(
        {"HF_TOKEN": f" {TOKEN}\n", "RUNPOD_API_KEY_FILE": str(tmp_path / "key"), "HOME": "/root"}
    )
    assert problems == ()
    assert secrets.hf_token == TOKEN
    assert secrets.get("RUNPOD_API_KEY") == "from-a-file-0123"
    assert secrets.get("HOME") is None


def test_a_file_that_is_missing_or_empty_is_a_problem_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    _, problems = secrets_from(
        {"HF_TOKEN_FILE": str(tmp_path / "gone"), "AWS_SESSION_TOKEN_FILE": str(tmp_path / "empty")}
    )
    assert len(problems) == 2
    assert all(problem.fix for problem in problems)


def test_nothing_that_is_printed_holds_a_secret() -> None:
    secrets, _ = secrets_from({"HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": "abc/def+0123456789"})
    assert TOKEN not in repr(secrets)
    assert "abc/def" not in repr(secrets)
    text = f"GET https://me:pass@host/x?X-Amz-Signature=77aa&b=1 key abc/def+0123456789 {TOKEN}"
    shown = secrets.redact(text)
    for hidden in (TOKEN, "abc/def", "77aa", ":pass@"):
        assert hidden not in shown
    assert "b=1" in shown


def test_a_child_gets_no_secret_whatever_its_variable_is_called() -> None:
    env = {"PATH": "/bin", "HF_TOKEN": "x", "MY_PASSWORD": "y", "MODEL": TOKEN, "AWS_REGION": "a"}
    assert without_secrets(env) == {"PATH": "/bin", "AWS_REGION": "a"}
