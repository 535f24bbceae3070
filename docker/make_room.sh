#!/usr/bin/env bash
# Remove what GitHub's runners bring and no build here uses: SDKs of other languages, cached tools.
set -euo pipefail
df --human-readable /
sudo rm -rf /usr/local/lib/android /usr/local/.ghcup /usr/share/dotnet /usr/share/swift \
  /usr/local/share/powershell /usr/local/share/chromium /opt/hostedtoolcache/CodeQL \
  /opt/hostedtoolcache/go /opt/hostedtoolcache/Ruby
df --human-readable /
