#!/usr/bin/env bash
# Resolve docker/locks/*.in and tenner's own requirements anew, with hashes (needs uv).
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
  uv pip compile --quiet --no-config --generate-hashes --no-strip-markers --upgrade \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --custom-compile-command docker/lock.sh "$@"
}
for cuda in cu121 cu128; do
  lock docker/locks/trainer.in "docker/locks/$cuda.in" -o "docker/locks/trainer-$cuda.txt"
done
lock docker/locks/build.in -o docker/locks/build.txt
lock docker/locks/fetch.in --constraints constraints.txt -o docker/locks/fetch.txt
lock pyproject.toml docker/locks/tenner.in --extra s3 --extra hub --extra gcs --extra azure --extra rclone --extra dataset --constraints constraints.txt -o docker/locks/tenner.txt
