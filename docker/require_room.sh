#!/usr/bin/env bash
# Print what is free, and fail at once where a job needs more: better in its first minute than after
# an hour. docs/image.md says where each number comes from.
#   require_room.sh GIGABYTES WHAT
set -euo pipefail
needed=$1 what=$2
free=$(($(df --output=avail --block-size=1000000 / | tail -1) / 1000))
echo "$what needs $needed GB; $free GB are free"
if ((free < needed)); then
  echo "::error::$what needs $needed GB and this runner has $free GB free" >&2
  exit 1
fi
