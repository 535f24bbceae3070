#!/usr/bin/env bash
# Leave out of the trainer's environment what no training runs. docs/image.md says what each saves,
# as `python -m bench.image_size` measures it.
#   slim.sh ENVIRONMENT CUDA CUDNN_ADV      (CUDA: cu121, cu128; CUDNN_ADV: keep, drop)
set -euo pipefail
environment=$1 cuda=$2 cudnn_adv=${3:-keep}

site=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
cd "$site"

# CUDA libraries of other versions
test -f "bitsandbytes/libbitsandbytes_cuda${cuda#cu}.so"
find bitsandbytes -name 'libbitsandbytes_*.so' \
  ! -name "libbitsandbytes_cuda${cuda#cu}.so" ! -name libbitsandbytes_cpu.so -delete
# what compiles against torch, and tests (xformers imports torch/testing)
rm -rf nvidia/*/include torch/include torch/share torch/bin/{protoc,test_}* torch/test
find networkx numpy sympy -type d -name tests -prune -exec rm -rf {} +
find . -name '*.a' -delete
# a solver over several cards, which torch names nowhere
rm -f nvidia/cusolver/lib/libcusolverMg.so*
# profilers: of CUDA (torch's own needs libcupti alone), of Triton
rm -f nvidia/cuda_cupti/lib/lib{nvperf_host,nvperf_target,pcsamplingutil,checkpoint}.so*
rm -f triton/_C/libproton.so triton/backends/nvidia/bin/{cuobjdump,nvdisasm}
# TensorBoard's web server; runs only write its files
rm -rf tensorboard_data_server/bin tensorboard/webapp.zip grpc
# recurrent and attention layers of cuDNN: no part of Stable Diffusion has them
if [[ $cudnn_adv == drop ]]; then rm -f nvidia/cudnn/lib/libcudnn_adv*; fi
# debugging symbols: Triton's library alone is 470 MB with them and 150 MB without
find . -type f -name '*.so*' -print0 | while IFS= read -r -d '' file; do
  # no `grep -q`: it leaves early, and pipefail takes readelf's broken pipe for "no symbols"
  if readelf --sections --wide "$file" | grep '\.debug_info' >/dev/null; then
    before=$(stat -c %s "$file")
    strip --strip-debug "$file"
    echo "$file: $((before / 1000000)) MB, stripped $(($(stat -c %s "$file") / 1000000)) MB"
  fi
done
