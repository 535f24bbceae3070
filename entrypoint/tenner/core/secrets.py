"""What must never be seen: tokens and keys, how they come in, and how text is cleaned of them.

Secrets have the names their owners gave them (`HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`, ...) and may
come as `NAME_FILE`, a path to a file that holds the value, as Docker and Kubernetes mount them.
They are held in one `Secrets` value, whose `repr` is masked. Everything that writes text for people
or files passes it through `redact`; every child process gets an environment from
`child_environ`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import overload

from tenner.core.addresses import MASK, without_credentials_in
from tenner.core.errors import Problem
from tenner.core.messages import Message, msg, redacted

KNOWN_NAMES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RUNPOD_API_KEY",
    "VAST_API_KEY",
    "CONTAINER_API_KEY",
    "WANDB_API_KEY",
    "TENNER_WEBHOOK",
    "TENNER_SERVE_TOKEN",
)
"""Names that tenner itself reads. `CONTAINER_API_KEY` is what Vast.ai gives an instance;
a webhook's address carries its password in its path."""

_SECRET_NAME = re.compile(
    r"(TOKEN(?!IZERS)|SECRET|PASSWORD|PASSWD|(?:^|_)PASS(?:$|_)|PASSPHRASE|API_?KEY|ACCESS_?KEY"
    r"|PRIVATE_?KEY|SSH_?KEY|CREDENTIAL|WEBHOOK)",
    re.I,
)
# What well-known tokens look like, for those that turn up in the wrong variable: Hugging Face,
# AWS key ids, RunPod, GitHub, Weights & Biases (40 hex digits are too common to be taken here).
_TOKEN_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|rpa_[A-Za-z0-9]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})"
)
_SIGNED_PART = re.compile(
    r"(?i)\b((?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=)[^&\s\"']+"
)
_AUTHORIZATION = re.compile(
    r"(?i)\b((?:proxy-)?authorization['\"]?\s*[:=]\s*(?:b?['\"])?)"
    r"(?:(?:bearer|basic|token)\s+[^\s'\",]+|AWS4-HMAC-SHA256[^\r\n'\"]*)"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_USER_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")

CHILD_ENV = "TENNER_CHILD_ENV"
"""Names further variables that child processes may see."""
_CHILD_NAME = re.compile(
    # The process itself: paths of programs, libraries and temporary files, its user, its language
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|HOSTNAME|TERM|COLORTERM|COLUMNS|LINES|TZ|LANG|LANGUAGE|LC_\w+"
    r"|TMPDIR|TEMP|TMP|XDG_\w+|LD_\w+|DYLD_\w+|NO_COLOR|FORCE_COLOR|MALLOC_\w+|GLIBC_TUNABLES"
    # Windows
    r"|SYSTEMROOT|SystemRoot|WINDIR|COMSPEC|PATHEXT|APPDATA|LOCALAPPDATA|PROGRAMDATA|USERPROFILE"
    r"|NUMBER_OF_PROCESSORS|PROCESSOR_\w+"
    # Python and its environments
    r"|PYTHON\w*|VIRTUAL_ENV|CONDA_\w+|UV_\w+"
    # Cards, their drivers and compilers
    r"|(?:CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|NVTE|GPU|ROCR?|HIP|HSA|MIOPEN|AMD|ZE|SYCL|MPS)_\w+"
    r"|CC|CXX|CFLAGS|CXXFLAGS|NVCC_\w+|MAX_JOBS"
    # Threads
    r"|(?:OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMEXPR|VECLIB|RAYON|TBB)_\w+"
    # Libraries of a trainer, and their caches
    r"|(?:TORCH|PYTORCH|TORCHINDUCTOR|TORCHDYNAMO|TRITON|XFORMERS|BITSANDBYTES|BNB|ACCELERATE"
    r"|DEEPSPEED|FSDP|HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|DIFFUSERS|DATASETS|TOKENIZERS"
    r"|SAFETENSORS|ONNXRUNTIME|ORT|OPENCV|TF|TENSORBOARD|WANDB|TQDM|MPLCONFIG|NUMBA)\w*"
    # Processes of one training on several cards
    r"|MASTER_ADDR|MASTER_PORT|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|NODE_RANK"
    # The network
    r"|(?:https?|all|no|ftp)_proxy|(?:HTTPS?|ALL|NO|FTP)_PROXY|SSL_CERT_(?:FILE|DIR)"
    r"|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    # tenner's own
    r"|TENNER_\w+|SD_SCRIPTS_\w+"
)

_SHORTEST = 6
"""Shorter values are not searched for in text: masking every `a` would ruin it and hide nothing."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Secrets:
    """The secrets of a run by name. Printing it shows the names alone."""

    values: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Secrets({', '.join(f'{name}={MASK}' for name in sorted(self.values))})"

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    @property
    def hf_token(self) -> str | None:
        return self.get("HF_TOKEN") or self.get("HUGGING_FACE_HUB_TOKEN")

    @overload
    def redact(self, text: Message) -> Message: ...
    @overload
    def redact(self, text: str) -> str: ...
    def redact(self, text: str) -> str:
        """`text` without any secret: the ones held here, and whatever has the shape of one."""
        return redacted(text, self._redacted)

    def _redacted(self, text: str) -> str:
        for value in sorted(self.values.values(), key=len, reverse=True):
            if len(value) >= _SHORTEST:
                text = text.replace(value, MASK)
        return _without_shapes(text)


NO_SECRETS = Secrets(values={})


def secrets_from(env: Mapping[str, str]) -> tuple[Secrets, tuple[Problem, ...]]:
    """The secrets in `env` and the problems met with them, by value.

    `NAME_FILE` is read for every known name; a `NAME` beside it wins. Blanks and line ends around
    a value are cut: a token pasted with its newline is refused by every server. Any other variable
    whose name marks it as a secret is collected too, so that it is masked wherever it turns up.
    """
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for name, value in env.items():
        if _is_secret_name(name) and not name.endswith("_FILE") and value.strip():
            values[name] = value.strip()
    for name in KNOWN_NAMES:
        path = env.get(f"{name}_FILE", "").strip()
        if not path or name in values:
            continue
        try:
            content = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else msg("not text")
            problems.append(
                Problem(
                    text=msg(
                        "{name}_FILE names {path}, which cannot be read: {reason}",
                        name=name,
                        path=path,
                        reason=reason,
                    ),
                    fix=msg("mount the file there, or set {name}", name=name),
                )
            )
            continue
        if content:
            values[name] = content
        else:
            problems.append(
                Problem(
                    text=msg("{name}_FILE names {path}, which is empty", name=name, path=path),
                    fix=msg("write the value there"),
                )
            )
    return Secrets(values=values), tuple(problems)


@overload
def redact_shapes(text: Message) -> Message: ...
@overload
def redact_shapes(text: str) -> str: ...
def redact_shapes(text: str) -> str:
    """`text` without what looks like a token, a signature or a password, whoever's it is, and with
    each address in it as it may be shown."""
    return redacted(text, _without_shapes)


def redact_problem(problem: Problem) -> Problem:
    """`problem` with both of its texts as `redact_shapes` leaves them."""
    return replace(problem, text=redact_shapes(problem.text), fix=redact_shapes(problem.fix))


def _without_shapes(text: str) -> str:
    text = without_credentials_in(text)
    text = _TOKEN_SHAPE.sub(MASK, text)
    text = _SIGNED_PART.sub(rf"\g<1>{MASK}", text)
    text = _AUTHORIZATION.sub(rf"\g<1>{MASK}", text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    return _USER_IN_URL.sub(MASK, text)


def child_environ(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """What of `env` (the process's own by default) a child process may see.

    Only variables that are known to be of use to a trainer or its libraries, and those that
    TENNER_CHILD_ENV names (`NAME,OTHER_*`); of these none whose name is that of a secret, and none
    whose value has the shape of one.
    """
    source = os.environ if env is None else env
    more = tuple(part for part in re.split(r"[\s,]+", source.get(CHILD_ENV, "")) if part)
    return {
        name: value
        for name, value in without_secrets(source).items()
        if _CHILD_NAME.fullmatch(name) or any(fnmatchcase(name, each) for each in more)
    }


def without_secrets(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """`env` (the process's own by default) without variables whose names are those of secrets (also
    as `NAME_FILE`), and without values that have the shape of one.

    For what stays within the program; a child process is given `child_environ`.
    """
    source = os.environ if env is None else env
    return {
        name: value
        for name, value in source.items()
        if not _is_secret_name(name) and redact_shapes(value) == value
    }


def _is_secret_name(name: str) -> bool:
    return name in KNOWN_NAMES or _SECRET_NAME.search(name) is not None
