#!/usr/bin/env bash
# Brings what the tests of remote devices need: an SSH server, small shells, and a real adb with a
# real adbd. As root, on Debian 12. Nothing is started, and adbd is unpacked rather than installed:
# its package would start it, and it asks nobody who they are.
set -euo pipefail
place=${1:-/opt/torchopt2edge-adb}
scratch=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
clean() {
  rm -rf "$scratch"
  if [ -e "$scratch.policy" ]; then rm -f "$policy" "$scratch.policy"; fi
}
trap clean EXIT

if [ ! -e "$policy" ]; then # installing a server must not start it
  touch "$scratch.policy"
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
if ! command -v sshd mksh toybox busybox ip >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends \
    openssh-client openssh-server iproute2 util-linux busybox mksh toybox >/dev/null
fi

if [ -e "$place/complete" ]; then exit 0; fi
# The backports from the mirror that this machine uses already, in an apt state of their own.
cd "$scratch"
mkdir -p lists/partial cache/archives/partial unpacked
awk 'BEGIN { RS = ""; ORS = "\n\n" } NR == 1' /etc/apt/sources.list.d/debian.sources |
  sed 's/^Suites:.*/Suites: bookworm-backports bookworm/' >backports.sources
state=("-oDir::State::Lists=$scratch/lists" "-oDir::Etc::sourcelist=$scratch/backports.sources"
  "-oDir::Etc::sourceparts=/dev/null" "-oDir::Cache=$scratch/cache")
apt-get "${state[@]}" -qq update
mkdir debs
(
  cd debs
  apt-get "${state[@]}" -qq -t bookworm-backports download \
    adbd adb android-libbase android-libcutils android-liblog android-libziparchive
  apt-get "${state[@]}" -qq download \
    android-libboringssl libprotobuf32 libusb-1.0-0 libbrotli1 liblz4-1 libzstd1
)
for deb in debs/*.deb; do dpkg -x "$deb" unpacked; done
rm -rf "$place"
mkdir -p "$place"
cp -a unpacked/. "$place"
touch "$place/complete"
