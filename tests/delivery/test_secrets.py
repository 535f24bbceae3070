"""Secrets come in by name or by file, and never come out in text or in a child's environment."""

from pathlib import Path

from tenner.core.secrets import child_environ, secrets_from

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
    assert "https://***@host/x?X-Amz-Signature=***&b=***" in shown


def test_a_child_gets_no_secret_whatever_its_variable_is_called() -> None:
    env = {"PATH": "/bin", "HF_TOKEN": "x", "MY_PASSWORD": "y", "MODEL": TOKEN, "HF_HOME": "a"}
    assert child_environ(env) == {"PATH": "/bin", "HF_HOME": "a"}


def test_a_child_gets_only_what_a_trainer_is_known_to_need() -> None:
    needed = (
        *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD"),
        *("PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "CUDA_HOME"),
        *("NVIDIA_VISIBLE_DEVICES", "NCCL_P2P_DISABLE", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_HOME"),
        *(
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "KMP_AFFINITY",
            "GOMP_SPINCOUNT",
            "TRITON_CACHE_DIR",
        ),
        *(
            "HF_HOME",
            "HF_ENDPOINT",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "TOKENIZERS_PARALLELISM",
        ),
        *(
            "XDG_CACHE_HOME",
            "https_proxy",
            "HTTP_PROXY",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
        ),
        *("MASTER_ADDR", "RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "TENNER_CACHE_DIR"),
        *(
            "TF_CPP_MIN_LOG_LEVEL",
            "MALLOC_ARENA_MAX",
            "BITSANDBYTES_NOWELCOME",
            "XFORMERS_MORE_DETAILS",
        ),
    )
    secret = (
        *("RCLONE_CONFIG_PASS", "SSH_KEY", "PGPASSWORD", "DATABASE_URL", "STRIPE_SK", "NETRC"),
        *("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "VAULT_ADDR", "GITHUB_TOKEN_FILE"),
        *(
            "TENNER_WEBHOOK",
            "TENNER_SERVE_TOKEN",
            "WANDB_API_KEY",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
        ),
    )
    env = {**dict.fromkeys(needed, "ordinary"), **dict.fromkeys(secret, "loopback-word-0123")}
    assert set(child_environ(env)) == set(needed)


def test_further_variables_are_named_and_a_proxy_with_a_password_stays_here() -> None:
    env = {"MY_FLAG": "1", "MY_OTHER": "2", "THEIRS": "3", "HTTPS_PROXY": "http://me:pw-word@proxy"}
    named = {**env, "TENNER_CHILD_ENV": "MY_*"}
    assert child_environ(env) == {}
    assert set(child_environ(named)) == {"MY_FLAG", "MY_OTHER", "TENNER_CHILD_ENV"}
