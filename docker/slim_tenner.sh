#!/usr/bin/env bash
# Leave out of tenner's environment what it never reads: AWS services other than S3 and those that log
# in to it, languages that no page is written in, a numpy of its own, and of onnxruntime what other
# programs link to and what converts models.
#   slim_tenner.sh TENNER_LOCK TRAINER_LOCK
set -euo pipefail
version() { sed -n 's/^numpy==\([^ \\]*\).*/\1/p' "$1"; }
version=$(version "$1")
if [[ $version != "$(version "$2")" ]]; then
  echo "the locks name two versions of numpy: run docker/lock.sh" >&2
  exit 1
fi
for site in /opt/tenner/lib/python3*/site-packages; do
  find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name sso \
    ! -name sso-oidc ! -name signin -exec rm -rf {} +
  if [[ -d $site/babel/locale-data ]]; then
    find "$site/babel/locale-data" -name '*.dat' ! -name root.dat ! -name 'en*.dat' \
      ! -name 'ar*.dat' -delete
  fi
  /opt/tenner/bin/python -c '
import boto3
for service in ("s3", "sts", "sso", "sso-oidc"):
    boto3.client(service, region_name="us-east-1")'
  # Python's module has the whole runtime in itself
  rm -f "$site"/onnxruntime/capi/libonnxruntime.so*
  rm -rf "$site"/onnxruntime/{backend,datasets,quantization,tools,transformers}
  /opt/tenner/bin/python -c 'import onnxruntime'
  # the trainer's, which is the same version for the same Python
  for name in numpy numpy.libs "numpy-$version.dist-info"; do
    test -e "$site/$name"
    rm -rf "${site:?}/$name"
    ln -s "${site/tenner/trainer}/$name" "$site/$name"
  done
done
