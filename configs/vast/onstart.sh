#!/usr/bin/env bash
# Vast.ai's on-start script. In its SSH and Jupyter launch modes the image's own entrypoint is
# replaced, so this starts the training; what it says is in /workspace/tenner.log.
set -u
cd /workspace || exit 1

# A shell that logs in later has this container's settings and programs. Keys are left out.
env | grep -E '^(PATH|SD_SCRIPTS_DIR|TENNER_[A-Z_]+)=' |
  grep -vE '^[A-Z_]*(WEBHOOK|TOKEN|KEY|SECRET|PASSWORD)[A-Z_]*=|://[^/]*@|[?&]' >>/etc/environment

# setsid: it outlives this script. The exit code is the last line of the log.
setsid bash -c 'tenner-start train; echo "tenner ended with exit code $?"' \
  >>/workspace/tenner.log 2>&1 </dev/null &
