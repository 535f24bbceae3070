#!/usr/bin/env bash
# GPUFlow: choose the image as the workspace's, put images into /workspace/training_data, and run this
# (or only its last line) in the workspace's terminal. The guide's own way works there too, and needs
# no installing:
#
#   cd /workspace/sd-scripts
#   accelerate launch --num_cpu_threads_per_process=4 train_network.py --help
set -eu
cd /workspace
tenner-start check
tenner-start train --price_per_hour "${PRICE_PER_HOUR:-0.70}"
