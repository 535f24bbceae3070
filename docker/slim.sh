#!/usr/bin/env bash
# Leave out of the trainer's environment what no training runs: CUDA libraries of other versions in
# bitsandbytes, headers, tests, Triton's disassemblers and debugging symbols.
#   slim.sh ENVIRONMENT CUDA      (CUDA: cu121, cu128)
set -euo pipefail
environment=$1 cuda=$2

site=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
test -f "$site/bitsandbytes/libbitsandbytes_cuda${cuda#cu}.so"
find "$site/bitsandbytes" -name 'libbitsandbytes_*.so' \
  ! -name "libbitsandbytes_cuda${cuda#cu}.so" ! -name libbitsandbytes_cpu.so -delete
rm -rf "$site"/nvidia/*/include "$site/torch/include" "$site/torch/share" "$site/torch/bin/protoc"*
rm -f "$site"/triton/backends/nvidia/bin/{cuobjdump,nvdisasm}
strip --strip-debug "$site/triton/_C/libtriton.so"
find "$site"/{networkx,numpy,sympy} -type d -name tests -prune -exec rm -rf {} +
find "$site" -name '*.a' -delete
