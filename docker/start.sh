#!/usr/bin/env bash
# The image's entrypoint: settles who runs and where, then becomes that program, so that signals
# reach it and its exit code is the container's.
#
#   PUID, PGID   run as these, where the container starts as root; default: the owner of the output
#                folder, so that what is written belongs to whoever mounted it
#   SSHD=1       with PUBLIC_KEY (or SSH_PUBLIC_KEY): let the holder of that key in as root
set -euo pipefail

workspace=/workspace
output=${TENNER_OUTPUT_DIR:-$workspace/output}

say() { echo "tenner: $*" >&2; }

program() { # first words that are no program are for tenner: `train`, `--help`
  case ${1-} in
    "" | -*) echo tenner ;;
    *) type -P -- "$1" >/dev/null || echo tenner ;;
  esac
}

link_sd_scripts() { # the place that guides name
  [[ -e $workspace/sd-scripts || -L $workspace/sd-scripts ]] && return
  ln -s "$SD_SCRIPTS_DIR" "$workspace/sd-scripts" 2>/dev/null || true
}

start_sshd() {
  local key=${PUBLIC_KEY:-${SSH_PUBLIC_KEY-}}
  [[ ${SSHD-} == 1 ]] || return 0
  if [[ -z $key ]]; then
    say "SSHD=1, but PUBLIC_KEY holds no key: nobody is let in"
    return 0
  fi
  install -d -m 700 /root/.ssh
  install -d -m 755 /run/sshd
  printf '%s\n' "$key" >/root/.ssh/authorized_keys
  chmod 600 /root/.ssh/authorized_keys
  ssh-keygen -A >/dev/null # host keys are made here, never in the image
  # A login has its own environment: hand it what this one says of programs, and no secret.
  printf 'export PATH=%q SD_SCRIPTS_DIR=%q TENNER_TRAINER_PYTHON=%q\ncd %q 2>/dev/null || true\n' \
    "$PATH" "$SD_SCRIPTS_DIR" "$TENNER_TRAINER_PYTHON" "$workspace" >/etc/profile.d/tenner.sh
  /usr/sbin/sshd -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no
  say "sshd listens on port 22"
}

owner() { # the folder's, or that of the nearest one above it that is there
  local path=$1
  while [[ ! -e $path ]]; do path=$(dirname -- "$path"); done
  stat -c "%u %g" -- "$path"
}

usable_home() { # a user without an entry in passwd has HOME=/, and caches need a place
  [[ -n ${HOME-} && $HOME != / && -w $HOME ]] && return
  HOME=$(mktemp -d "${TMPDIR:-/tmp}/home.XXXXXX" 2>/dev/null || echo "$output")
}

if [[ $(id -u) == 0 ]]; then
  start_sshd
  read -r uid gid < <(owner "$output")
  uid=${PUID:-$uid} gid=${PGID:-$gid}
  if [[ ! $uid =~ ^[0-9]+$ || ! $gid =~ ^[0-9]+$ ]]; then
    say "PUID=${PUID-} PGID=${PGID-}: want numbers, as \`id -u\` and \`id -g\` print them"
    exit 2
  fi
  if [[ $uid != 0 ]]; then
    [[ -e $output ]] || install -d -o "$uid" -g "$gid" -- "$output" 2>/dev/null || true
    exec setpriv --reuid="$uid" --regid="$gid" --clear-groups -- "$0" "$@"
  fi
fi

link_sd_scripts
usable_home
export HOME USER=${USER:-tenner}
if [[ -n $(program "$@") ]]; then set -- tenner "$@"; fi
exec "$@"
