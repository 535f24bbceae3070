#!/usr/bin/env bash
# Give tenner the trainer's numpy, which is the same version for the same Python.
#   share_numpy.sh TENNER_LOCK TRAINER_LOCK
set -euo pipefail
version() { sed -n 's/^numpy==\([^ \\]*\).*/\1/p' "$1"; }
version=$(version "$1")
if [[ $version != "$(version "$2")" ]]; then
  echo "the locks name two versions of numpy: run docker/lock.sh" >&2
  exit 1
fi
for site in /opt/tenner/lib/python3*/site-packages; do
  for name in numpy numpy.libs "numpy-$version.dist-info"; do
    test -e "$site/$name"
    rm -rf "${site:?}/$name"
    ln -s "${site/tenner/trainer}/$name" "$site/$name"
  done
done
