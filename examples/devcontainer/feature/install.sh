#!/bin/sh
# Run by the devcontainer tools as root, once, while the image is made. Needs Node (20.19 or later) and npm in it.
# Accounts, directories and rules are made by the first `agentjail run` in the running container.
set -eu

if ! command -v npm >/dev/null; then
  echo 'agentjail: Node and npm are missing: add the feature ghcr.io/devcontainers/features/node' >&2
  exit 1
fi

missing=
for tool in nft bwrap ip nsenter setpriv perl useradd; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
  if command -v apt-get >/dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      nftables bubblewrap iproute2 util-linux perl-base passwd
    rm -rf /var/lib/apt/lists/*
  elif command -v dnf >/dev/null; then
    dnf install --assumeyes nftables bubblewrap iproute util-linux perl-interpreter shadow-utils
  elif command -v apk >/dev/null; then
    apk add nftables bubblewrap iproute2 util-linux-misc setpriv perl shadow
  else
    echo "agentjail: not installed, and no package manager that is known:$missing" >&2
    exit 1
  fi
fi

package=${PACKAGE:-}
# agentjail is in no registry: its archive lies beside this script, made by `npm pack` in a clone.
if [ -z "$package" ]; then
  for package in "$(cd "$(dirname "$0")" && pwd)"/agentjail-*.tgz; do :; done
  if [ ! -e "$package" ]; then
    echo 'agentjail: its archive is missing beside install.sh: npm pack in a clone makes it' >&2
    exit 1
  fi
fi
npm install --global --no-audit --no-fund "$package"
agentjail --help >/dev/null
