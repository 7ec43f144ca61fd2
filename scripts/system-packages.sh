#!/usr/bin/env bash
# Makes sure that the tools which pip cannot install are there. Looks for the tools themselves, so it works on any
# distribution where they are installed; where one is missing, it installs Debian's package as root or with a sudo that
# asks for no password, and otherwise prints the command and fails.
set -euo pipefail

PYTHON=${PYTHON:-python3}
packages=()

has() { command -v "$1" >/dev/null 2>&1; }
need() { packages+=("$@"); }

has make || need make
has gcc || need gcc
printf '#include <stdlib.h>\n' | gcc -E - >/dev/null 2>&1 || need libc6-dev
has arm-none-eabi-gcc || need gcc-arm-none-eabi
printf '#include <string.h>\n' | arm-none-eabi-gcc -E - >/dev/null 2>&1 || need libnewlib-arm-none-eabi
has qemu-system-arm || need qemu-system-arm
has adb || need adb
if ! has "$PYTHON"; then
  need python3 python3-venv
elif ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
  need python3-venv
fi
# Elsewhere than on Debian the data set is downloaded when it is first used.
if has dpkg-query && ! dpkg-query -W -f='${Status}' dataset-fashion-mnist 2>/dev/null | grep -q 'ok installed'; then
  need dataset-fashion-mnist
fi

if [ ${#packages[@]} -gt 0 ]; then
  root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  command_line="${root[*]:+${root[*]} }apt-get install --no-install-recommends ${packages[*]}"
  if ! has apt-get; then
    echo "Missing on this machine, by the names of Debian's packages: ${packages[*]}." >&2
    echo "Install what your distribution calls them, then run make again." >&2
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ] && ! { has sudo && sudo -n true 2>/dev/null; }; then
    echo "Missing Debian packages: ${packages[*]}. Run this, then make again:" >&2
    echo "  $command_line" >&2
    exit 1
  fi
  echo "Installing Debian packages: ${packages[*]}"
  "${root[@]}" apt-get -q update
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y install --no-install-recommends "${packages[@]}" </dev/null
fi

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "tinynas needs Python 3.11 or newer, and '$PYTHON' is $("$PYTHON" -V 2>&1)." >&2
  echo "Install a newer one and name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi
