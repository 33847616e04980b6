#!/usr/bin/env bash
# Brings what the tests of remote devices need: an SSH server, small shells, a real adb with a real
# adbd, and two arm64 machines for qemu-user to run: the root of a board (Debian, with Python and
# both runtimes) and that of a phone (Android's places and shell, no Python, no C library of its
# programs' own). As root, on Debian 12; run again, it brings what is missing.
#
#   tests/devices/provide.sh [FOLDER OF ADB [FOLDER OF THE ARM64 ROOTS]]
#
# PYTHON is the environment whose versions of the runtimes the board gets: .venv/bin/python.
# Nothing is started, and nothing of another processor is installed: apt has a state of its own for
# it. adbd is unpacked rather than installed: its package would start it, and it asks nobody who
# they are. The kernel learns to run arm64 programs (binfmt_misc), until the next boot.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
adb=${1:-/opt/torchopt2edge-adb}
arm=${2:-/opt/torchopt2edge-arm}
python=${PYTHON:-$here/.venv/bin/python}
if [ "$(id -u)" -ne 0 ]; then
  echo "$0 installs packages: run it as root" >&2
  exit 1
fi
scratch=$(mktemp -d)
chmod 755 "$scratch" # apt downloads as a user of its own
policy=/usr/sbin/policy-rc.d
clean() {
  rm -rf "$scratch"
  if [ -e "$scratch.policy" ]; then rm -f "$policy" "$scratch.policy"; fi
}
trap clean EXIT
export DEBIAN_FRONTEND=noninteractive

have() {
  local program
  for program; do command -v "$program" >/dev/null || return 1; done
}

install_packages() {
  if have sshd mksh toybox busybox ip unshare patchelf qemu-aarch64-static; then return; fi
  if [ ! -e "$policy" ]; then # installing a server must not start it
    touch "$scratch.policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get -qq -o DPkg::Lock::Timeout=120 update
  apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends \
    openssh-client openssh-server iproute2 util-linux busybox mksh toybox patchelf \
    qemu-user-static >/dev/null
}

# apt_state ARCHITECTURE: fill the array `state`, a state of apt's own with the backports, from the
# mirror that this machine uses already.
apt_state() {
  local folder=$scratch/apt-$1
  mkdir -p "$folder/lists/partial" "$folder/archives/partial"
  touch "$folder/status"
  awk 'BEGIN { RS = ""; ORS = "\n\n" } NR == 1' /etc/apt/sources.list.d/debian.sources |
    sed 's/^Suites:.*/Suites: bookworm-backports bookworm/' >"$folder/debian.sources"
  state=("-oAPT::Architecture=$1" "-oAPT::Architectures=$1" "-oDir::State=$folder"
    "-oDir::State::Lists=$folder/lists" "-oDir::State::status=$folder/status"
    "-oDir::Etc::sourcelist=$folder/debian.sources" "-oDir::Etc::sourceparts=/dev/null"
    "-oDir::Cache=$folder")
  apt-get "${state[@]}" -qq update
}

provide_adb() {
  if [ -e "$adb/complete" ]; then return; fi
  apt_state amd64
  mkdir "$scratch/debs" "$scratch/adb"
  pushd "$scratch/debs" >/dev/null
  apt-get "${state[@]}" -qq -t bookworm-backports download \
    adbd adb android-libbase android-libcutils android-liblog android-libziparchive
  apt-get "${state[@]}" -qq download \
    android-libboringssl libprotobuf32 libusb-1.0-0 libbrotli1 liblz4-1 libzstd1
  for deb in *.deb; do dpkg -x "$deb" "$scratch/adb"; done
  popd >/dev/null
  touch "$scratch/adb/complete"
  rm -rf "$adb"
  mv "$scratch/adb" "$adb"
  chmod 755 "$adb"
}

# unpack FOLDER WORDS…: apt-get install, into a folder; what it needs comes along.
unpack() {
  local into=$1 archives=$1.debs
  shift
  mkdir -p "$archives/partial"
  apt-get "${state[@]}" "-oDir::Cache::archives=$archives" -qq -y --no-install-recommends \
    --download-only install "$@" >/dev/null
  for deb in "$archives"/*.deb; do dpkg -x "$deb" "$into"; done
}

# put FILE: write stdin there, and its folder where it is missing.
put() {
  mkdir -p "$(dirname "$1")"
  cat >"$1"
}

# script FILE: the same, for a program.
script() {
  put "$1"
  chmod 755 "$1"
}

# cores ROOT FIRST LAST MHZ CAPACITY GOVERNOR: one class of cores, as /sys shows it.
cores() {
  local core at
  for core in $(seq "$2" "$3"); do
    at=$1/sys/devices/system/cpu/cpu$core
    put "$at/cpu_capacity" <<<"$5"
    put "$at/cpufreq/scaling_governor" <<<"$6"
    for name in cpuinfo_max_freq scaling_max_freq scaling_cur_freq; do
      put "$at/cpufreq/$name" <<<"$(($4 * 1000))"
    done
  done
}

# zones ROOT NAME=MILLIDEGREES…: thermometers.
zones() {
  local root=$1 number=0 zone
  shift
  for zone; do
    put "$root/sys/class/thermal/thermal_zone$number/type" <<<"${zone%=*}"
    put "$root/sys/class/thermal/thermal_zone$number/temp" <<<"${zone#*=}"
    number=$((number + 1))
  done
}

# cpuinfo FEATURES PART…: /proc/cpuinfo of so many cores.
cpuinfo() {
  local features=$1 number=0 part
  shift
  for part; do
    printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: %s\n' "$number" "$features"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n'
    printf 'CPU part\t: 0x%s\nCPU revision\t: 1\n\n' "$part"
    number=$((number + 1))
  done
}

processors() {
  local old='fp asimd evtstrm crc32 cpuid'
  local new="$old aes pmull sha1 sha2 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
  { cpuinfo "$old" d08 d08 d08 d08; echo 'Model : Raspberry Pi 4 Model B Rev 1.4'; } \
    | put "$1/rpi4"
  { cpuinfo "$new" d0b d0b d0b d0b; echo 'Model : Raspberry Pi 5 Model B Rev 1.0'; } \
    | put "$1/rpi5"
  cpuinfo "$new i8mm bf16" d46 d46 d46 d46 d4d d4d d4d d4e | put "$1/phone"
}

# What the environment here has, and the board is to have: both compute with the same release.
versions() {
  "$python" -c '
from importlib.metadata import version
for name in ("numpy", "onnxruntime", "ai-edge-litert"):
    print(f"{name}=={version(name)}")'
}

# keep_core FILE SHELL ENV CORE: an `env` for jobs, whose environment is made anew (env -i): which
# core qemu plays has to be in it all the same.
keep_core() {
  script "$1" <<END
#!$2
if [ "\${1-}" = -i ]; then
  shift
  set -- -i "QEMU_CPU=$4" "\$@"
fi
exec $3 "\$@"
END
}

# board ROOT WHEELS: a Raspberry Pi with Debian, Python and both runtimes.
board() {
  unpack "$1" python3.11 libstdc++6 base-files bash dash coreutils util-linux findutils grep sed \
    mawk procps
  mkdir -p "$1/proc" "$1/dev" "$1/root" "$1/run"
  mkdir -p -m 1777 "$1/tmp"
  ln -sf python3.11 "$1/usr/bin/python3"
  ln -sf dash "$1/bin/sh"
  put "$1/etc/passwd" <<<'root:x:0:0:root:/root:/bin/sh'
  keep_core "$1/usr/local/bin/env" /bin/sh /usr/bin/env '${QEMU_CPU:-max}'
  script "$1/usr/bin/vcgencmd" <<<$'#!/bin/sh\nexec cat "/etc/vcgencmd/$1"'
  put "$1/etc/vcgencmd/get_throttled" <<<'throttled=0x0'
  cores "$1" 0 3 2400 1024 ondemand
  zones "$1" cpu-thermal=48300
  for name in online possible present; do put "$1/sys/devices/system/cpu/$name" <<<0-3; done
  local platforms=() tag wanted
  for tag in 2_28 2_27 2_26 2_24 2_17; do platforms+=(--platform "manylinux_${tag}_aarch64"); done
  mapfile -t wanted < <(versions)
  "$python" -m pip download -q --disable-pip-version-check --dest "$2" --only-binary=:all: \
    --python-version 3.11 --implementation cp --platform manylinux2014_aarch64 \
    "${platforms[@]}" "${wanted[@]}"
  local wheel
  for wheel in "$2"/*.whl; do # nothing of another processor is run to unpack it
    "$python" -m zipfile -e "$wheel" "$1/usr/local/lib/python3.11/dist-packages"
  done
}

# phone ROOT: Android's places and shell on a kernel of qemu's; its programs find their loader in
# /system/bin and their libraries in /system/lib64, and there is no /lib for anybody else's.
phone() {
  local debian=$1.debian program
  unpack "$debian" -t bookworm-backports adbd mksh toybox coreutils
  mkdir -p "$1"/{system/{bin,lib64},data/{local/tmp,settings,recorded},sdcard,proc,dev,tmp,etc}
  find "$debian/lib/aarch64-linux-gnu" "$debian/usr/lib/aarch64-linux-gnu" \
    "$debian/usr/lib/aarch64-linux-gnu/android" -maxdepth 1 -name '*.so*' \
    -exec cp -a -t "$1/system/lib64" {} +
  cp -L "$debian/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1" "$1/system/bin/linker64"
  for program in bin/mksh bin/toybox bin/dd usr/lib/android-sdk/platform-tools/adbd; do
    cp -L "$debian/$program" "$1/system/bin/"
    patchelf --set-interpreter /system/bin/linker64 --force-rpath --set-rpath /system/lib64 \
      "$1/system/bin/${program##*/}"
  done
  mv "$1/system/bin/mksh" "$1/system/bin/sh"
  ln -s system/bin "$1/bin"
  # adbd drops the variable; why without SME says CORES in arm.py.
  keep_core "$1/system/bin/env" /system/bin/sh '/system/bin/toybox env' max,sme=off
  # By its path: toybox does what it knows by name itself, and that `env` would not be asked.
  script "$1/system/bin/setsid" <<<$'#!/system/bin/sh\nprogram=$(whence -p "$1")\nshift\nexec toybox setsid "$program" "$@"'
  answers "$1"
  for program in $(toybox); do # those of this machine's toybox, which is the same release
    if [ ! -e "$1/system/bin/$program" ]; then ln -s toybox "$1/system/bin/$program"; fi
  done
  printf 'root:x:0:0::/:/bin/sh\nshell:x:2000:2000::/:/bin/sh\n' | put "$1/etc/passwd"
  printf 'root:x:0:\ninput:x:1004:\nlog:x:1007:\nadb:x:1011:\nshell:x:2000:\n' | put "$1/etc/group"
  chown -R 2000:2000 "$1/data/local/tmp" "$1/data/settings" "$1/data/recorded"
  chmod 771 "$1/data/local/tmp"
  cores "$1" 0 3 1704 250 schedutil
  cores "$1" 4 6 2367 700 schedutil
  cores "$1" 7 7 2914 1024 schedutil
  zones "$1" BIG=41500 MID=39000 LITTLE=37250 battery=30200
  for name in online possible present; do put "$1/sys/devices/system/cpu/$name" <<<0-7; done
  local battery=$1/sys/class/power_supply/battery
  put "$battery/type" <<<Battery
  put "$battery/status" <<<Discharging
  put "$battery/current_now" <<<-412000
  put "$battery/voltage_now" <<<4123000
  put "$battery/temp" <<<302
}

# answers ROOT: programs that print what a phone says, and keep what it is told.
answers() {
  printf '%s\n' ro.product.manufacturer=Example 'ro.product.model=Test Phone' \
    'ro.soc.model=Test SoC' ro.product.cpu.abi=arm64-v8a ro.build.version.release=14 \
    ro.build.version.sdk=34 | put "$1/system/build.prop"
  script "$1/system/bin/getprop" <<'END'
#!/system/bin/sh
while IFS== read -r name value; do
  if [ $# -eq 0 ]; then echo "[$name]: [$value]"; fi
  if [ "$name" = "$1" ]; then echo "$value"; exit; fi
done </system/build.prop
if [ $# -gt 0 ]; then echo "$2"; fi
END
  script "$1/system/bin/dumpsys" <<'END'
#!/system/bin/sh
if [ ! -e "/data/recorded/$1" ]; then echo "Can't find service: $1"; exit; fi
cat "/data/recorded/$1"
END
  script "$1/system/bin/settings" <<'END'
#!/system/bin/sh
case $1 in
  get) cat "/data/settings/$2.$3" 2>/dev/null || echo null ;;
  put) echo "$4" >"/data/settings/$2.$3" ;;
  delete) rm -f "/data/settings/$2.$3" ;;
  *) exit 255 ;;
esac
END
  script "$1/system/bin/svc" <<'END'
#!/system/bin/sh
case "$1 $2 $3" in
  'power stayon true') settings put global stay_on_while_plugged_in 7 ;;
  'power stayon usb') settings put global stay_on_while_plugged_in 2 ;;
  'power stayon false') settings put global stay_on_while_plugged_in 0 ;;
  *) exit 1 ;;
esac
END
  script "$1/system/bin/cmd" <<'END'
#!/system/bin/sh
status() { sed -i "s/^IsStatusOverride: .*/IsStatusOverride: $1/; s/^Thermal Status: .*/Thermal Status: $2/" /data/recorded/thermalservice; }
case "$1 $2" in
  'power set-fixed-performance-mode-enabled') echo "$3" >/data/settings/fixed-performance ;;
  'thermalservice override-status') status true "$3" ;;
  'thermalservice reset') status false 0 ;;
  *) echo "cmd: Can't find service: $1" >&2; exit 20 ;;
esac
END
  # Made up, in the form of the real ones. The cached values are stale, as they are on phones.
  { printf 'IsStatusOverride: false\nThermalEventListeners:\n\tcallbacks: 2\n'
    printf 'Thermal Status: 0\nCached temperatures:\n'
    printf '\tTemperature{mValue=66.5, mType=0, mName=BIG, mStatus=0}\n'
    printf 'HAL Ready: true\nHAL connection:\n\tThermalHAL AIDL 1  connected: yes\n'
    printf 'Current temperatures from HAL:\n'
    printf '\tTemperature{mValue=%s, mType=%d, mName=%s, mStatus=0}\n' \
      41.5 0 BIG 39.0 0 MID 0.0 10 TPU 30.2 2 battery 33.75 3 skin 4123.0 6 vbat
    printf 'Current cooling devices from HAL:\n'
    printf '\tCoolingDevice{mValue=0, mType=2, mName=cpufreq-cpu7}\n'
    printf 'Temperature static thresholds from HAL:\n'
    printf '\tTemperatureThreshold{mType=3, mName=skin, mHotThrottlingThresholds=[NaN, 39.0]}\n'
  } | put "$1/data/recorded/thermalservice"
  printf '%s\n' 'Current Battery Service state:' '  AC powered: false' '  USB powered: true' \
    '  Wireless powered: false' '  Charge counter: 3021744' '  status: 2' '  health: 2' \
    '  present: true' '  level: 71' '  scale: 100' '  voltage: 4123' '  temperature: 302' \
    '  technology: Li-ion' | put "$1/data/recorded/battery"
}

provide_arm() {
  if [ ! -x "$python" ]; then
    echo "there is no $python: make setup first, or PYTHON=… $0" >&2
    exit 1
  fi
  local made
  made=$(versions && sha256sum <"$0")
  if [ "$(cat "$arm/complete" 2>/dev/null)" = "$made" ]; then return; fi
  apt_state arm64
  local whole=$scratch/arm
  mkdir -p "$whole/wheels"
  processors "$whole/cpuinfo"
  board "$whole/board" "$whole/wheels"
  phone "$whole/phone"
  rm -rf "$whole"/*.debs "$whole"/*.debian
  echo "$made" >"$whole/complete"
  rm -rf "$arm"
  mv "$whole" "$arm"
  chmod 755 "$arm" "$arm/board" "$arm/phone"
}

# Let the kernel run arm64 programs, in any root: F opens the emulator now and not in there.
provide_binfmt() {
  if chroot "$arm/board" /bin/true 2>/dev/null; then return; fi
  local misc=/proc/sys/fs/binfmt_misc
  if [ ! -e $misc/register ]; then mount -t binfmt_misc binfmt_misc $misc; fi
  cat /usr/lib/binfmt.d/qemu-aarch64.conf >$misc/register
  chroot "$arm/board" /bin/true
}

install_packages
provide_adb
provide_arm
provide_binfmt
