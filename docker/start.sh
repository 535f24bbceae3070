#!/usr/bin/env bash
# The image's entrypoint: settles which program runs, then becomes it, so that signals reach it and
# its exit code is the container's.
#
# A command of tenner becomes the owner of the folder that it writes to (tenner.cli.container says
# how; PUID and PGID name another user). Any other program starts as the container was started.
#
#   SSHD=1       with PUBLIC_KEY (or SSH_PUBLIC_KEY): let the holder of that key in as root
set -euo pipefail

workspace=/workspace
python=/opt/tenner/bin/python

say() { echo "tenner: $*" >&2; }

trap 'say "stopped by SIGTERM"; exit 143' TERM

unquoted() { # docker's --env-file keeps quotes around a value
  local value=$1
  case $value in \"*\" | \'*\') value=${value:1:-1} ;; esac
  printf %s "$value"
}

is_program() { # first words that are no program are for tenner: `train`, `--help`
  case ${1-} in
    "" | -* | tenner) return 1 ;;
    *) type -P -- "$1" >/dev/null ;;
  esac
}

link_sd_scripts() { # the place that guides name; its owner is whoever owns the folder
  local link=$workspace/sd-scripts
  [[ -e $link || -L $link ]] && return
  ln -s "$SD_SCRIPTS_DIR" "$link" 2>/dev/null || return 0
  chown --no-dereference --reference="$workspace" "$link" 2>/dev/null || true
}

start_sshd() {
  local key
  key=$(unquoted "${PUBLIC_KEY:-${SSH_PUBLIC_KEY-}}")
  [[ $(unquoted "${SSHD-}") == 1 ]] || return 0
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

require_image() { # a volume at /opt hides what the image brought
  local file
  for file in "$python" /opt/tenner-app/tenner/__init__.py /opt/trainer/bin/python \
    /opt/sd-scripts/train_network.py; do
    [[ -e $file ]] && continue
    say "error: ${file%/*} is hidden by what is mounted at $(mount_above "$file")"
    say "  fix: mount it elsewhere: models at /models or /opt/models, the rest in $workspace"
    exit 2
  done
}

mount_above() { # the mount that a missing file would lie in
  local path=$1 points
  points=$(awk '{print $5}' /proc/self/mountinfo 2>/dev/null || true)
  while [[ $path != / ]]; do
    path=$(dirname -- "$path")
    if grep -qxF -- "$path" <<<"$points"; then break; fi
  done
  echo "$path"
}

usable_home() { # a user without an entry in passwd has HOME=/, and caches need a place
  [[ -n ${HOME-} && $HOME != / && -w $HOME ]] && return
  HOME=$(mktemp -d "${TMPDIR:-/tmp}/home.XXXXXX" 2>/dev/null || echo /tmp)
}

if [[ $(id -u) == 0 ]]; then start_sshd; fi
link_sd_scripts
usable_home
export HOME USER=${USER:-tenner}
if is_program "$@"; then exec "$@"; fi
require_image
if [[ ${1-} == tenner ]]; then shift; fi
# -P: no file in the working folder is taken for a module
exec "$python" -P -m tenner.cli.start "$@"
