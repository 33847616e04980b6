#!/bin/sh
# Brings the oldest and a newer Python than ours, each with both runtimes, for the packed runner:
# Debian's own packages, unpacked under one folder. As root; nothing is installed.
set -eu
root=/opt/torchopt2edge-pythons
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/parts" "$root"
cat >"$state/parts/debian.sources" <<END
Types: deb
URIs: http://deb.debian.org/debian
Suites: bullseye trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
apt="-oDir::State::Lists=$state/lists -oDir::Etc::sourcelist=/dev/null
  -oDir::Etc::sourceparts=$state/parts -oDir::Cache=$state/cache -oDir::State::status=/dev/null
  -oAPT::Sandbox::User=root"
# shellcheck disable=SC2086
apt-get $apt -q update

# unpack VERSION SUITE PACKAGE...: its files, and the runtimes' wheels for it
unpack() {
  version=$1 suite=$2
  shift 2
  [ -f "$root/$version/complete" ] && return
  mkdir -p "$state/$version"
  for package in "$@"; do
    # shellcheck disable=SC2086
    (cd "$state/$version" && apt-get $apt -q download "$package/$suite")
  done
  for file in "$state/$version"/*.deb; do dpkg -x "$file" "$root/$version"; done
  "${PYTHON:-python3}" -m pip install -q --no-compile --only-binary=:all: --upgrade \
    --target "$root/$version/site" --python-version "$version" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    onnxruntime ai-edge-litert
  touch "$root/$version/complete"
}

unpack 3.9 bullseye python3.9-minimal libpython3.9-minimal libpython3.9-stdlib libffi7
unpack 3.13 trixie python3.13-minimal libpython3.13-minimal libpython3.13-stdlib libc6 \
  libffi8 libexpat1 zlib1g libstdc++6 libgcc-s1
