#!/usr/bin/env bash
# Makes .venv and installs into it what is named. Does nothing, quickly, when nothing has changed.
# Usage: [PYTHON=python3.12] .ci/setup.sh native|anyserve|tox|tools ...
set -euo pipefail
cd "$(dirname "$0")/.."

TOX='tox>=4.24,<5'
ANYSERVE_INPUTS=(pyproject.toml CMakeLists.txt reference/generate_proto.py proto/*.proto
  native/CMakeLists.txt native/*.py native/src/* native/include/anyserve/* native/bindings/*)
PYTHON=${PYTHON:-}
LOG=.venv/pip.log

say() { printf '== %s\n' "$*"; }

fail() {
  printf '\nfailed: %s\n' "$1" >&2
  if (($# > 1)); then printf '        %s\n' "${@:2}" >&2; fi
  exit 1
}

# Debian keeps ensurepip apart from Python, in the package python3-venv.
usable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local python candidates=(python3.11 python3.12 python3.13 python3)
  if [[ $PYTHON ]]; then candidates=("$PYTHON"); fi
  for python in "${candidates[@]}"; do
    if usable "$python"; then
      echo "$python"
      return
    fi
  done
  return 1
}

install_python() {
  local sudo=()
  if [[ $PYTHON ]]; then
    fail "PYTHON=$PYTHON is not a Python 3.11 or later with the modules venv and ensurepip." \
      "Name another one, or leave PYTHON out."
  fi
  if ! command -v apt-get >/dev/null; then
    fail "no Python 3.11 or later with the modules venv and ensurepip was found." \
      "Install one, or name it: make PYTHON=/path/to/python3 ..."
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "Python 3.11 or later with venv is missing, and installing it takes root." \
      "As root: apt-get install python3 python3-venv. Then run make again."
    sudo=(sudo)
  fi
  say "installing python3 and python3-venv with apt-get"
  "${sudo[@]}" apt-get update -qq &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends python3 python3-venv ||
    fail "apt-get could not install python3 and python3-venv: see above." "Then run make again."
  find_python >/dev/null || fail "this system's python3 is older than 3.11 ($(python3 --version 2>&1))." \
    "Install a newer one and name it: make PYTHON=/path/to/python3.11 ..."
}

# What tells one Python from another; fails if it does not run.
identity() {
  "$1" -c 'import pip, sys; print(sys.base_prefix, *sys.version_info[:2])' 2>/dev/null
}

make_venv() {
  local python have
  if have=$(identity .venv/bin/python) && [[ -z $PYTHON || $have == "$(identity "$PYTHON")" ]]; then
    return
  fi
  python=$(find_python) || { install_python && python=$(find_python); }
  say "creating .venv with $("$python" --version) ($python)"
  "$python" -m venv --clear .venv || fail "$python could not create .venv: see above."
}

# pip's whole output goes to a log; what is shown is one line per package.
pip_install() {
  local what=$1
  shift
  say "installing $what into .venv"
  if ! .venv/bin/python -m pip install --progress-bar off "$@" 2>&1 | tee "$LOG" |
    sed -nu 's/^ *\(Collecting [^ ]*\).*/   \1/p; s/^ *\(Building .*: started\)/   \1/p; s/^\(Successfully .*\)/   \1/p'; then
    printf '\nThe end of what pip said (%s has all of it):\n' "$LOG" >&2
    tail -n 15 "$LOG" >&2
    fail "pip could not install $what." \
      "It needs a package index: is the network up? A mirror or a proxy is set by PIP_INDEX_URL or HTTPS_PROXY." \
      "Then run make again: it goes on from here."
  fi
}

changed_since() {
  local stamp=$1 input
  [[ -e $stamp ]] || return 0
  for input in "${@:2}"; do
    [[ $input -nt $stamp ]] && return 0
  done
  return 1
}

# apt_install "what happens without them" PACKAGE ...: a machine where that is not possible does without.
apt_install() {
  local without=$1 sudo=()
  shift
  if (($# == 0)); then return; fi
  if ((EUID != 0)); then sudo=(sudo -n); fi
  if ! command -v apt-get >/dev/null || { ((EUID != 0)) && ! sudo -n true 2>/dev/null; }; then
    say "not installed: $*; $without"
    return
  fi
  say "installing $* with apt-get"
  if ! "${sudo[@]}" apt-get update -qq ||
    ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >"$LOG" 2>&1; then
    tail -n 5 "$LOG" >&2
    say "apt-get could not install them; $without"
  fi
}

# What the native agent is built with.
install_native() {
  local missing=()
  command -v c++ >/dev/null || missing+=(g++)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  pkg-config --exists libnghttp2 2>/dev/null || missing+=(libnghttp2-dev)
  pkg-config --exists zlib 2>/dev/null || missing+=(zlib1g-dev)
  pkg-config --exists libssl 2>/dev/null || missing+=(libssl-dev)
  [[ -e /usr/include/protozero/version.hpp ]] || missing+=(libprotozero-dev)
  .venv/bin/python - <<<'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    missing+=(python3-dev)
  apt_install "without them there is the reference agent alone (docs/native.md)" "${missing[@]}"
}

# Foreign workers, browsers, C++ tests and load are run where there is something to build and run them with.
install_tools() {
  local missing=()
  command -v cmake >/dev/null || missing+=(cmake)
  command -v make >/dev/null || missing+=(make)
  command -v protoc >/dev/null || missing+=(protobuf-compiler)
  command -v grpc_cpp_plugin >/dev/null || missing+=(protobuf-compiler-grpc)
  pkg-config --exists grpc++ protobuf 2>/dev/null || missing+=(libgrpc++-dev libprotobuf-dev)
  [[ -e /usr/include/gtest/gtest.h ]] || missing+=(libgtest-dev)
  [[ -e /usr/include/nlohmann/json.hpp ]] || missing+=(nlohmann-json3-dev)
  command -v clang++ >/dev/null || missing+=(clang)
  compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*' >/dev/null || missing+=(libclang-rt-dev)
  command -v h2load >/dev/null || missing+=(nghttp2-client)
  command -v nghttpd >/dev/null || missing+=(nghttp2-server)
  command -v openssl >/dev/null || missing+=(openssl)
  command -v valgrind >/dev/null || missing+=(valgrind)
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  command -v chromium >/dev/null || missing+=(chromium)
  apt_install "tests that need them are left out" "${missing[@]}"
}

make_venv
for part in "$@"; do
  case $part in
    anyserve)
      if changed_since .venv/.anyserve "${ANYSERVE_INPUTS[@]}"; then
        pip_install "anyserve and what it needs" --editable .
        touch .venv/.anyserve
      fi
      ;;
    tox)
      if [[ ! -x .venv/bin/tox ]]; then
        pip_install "tox" "$TOX"
      fi
      ;;
    native) install_native ;;
    tools) install_tools ;;
    *) fail "setup.sh knows native, anyserve, tox and tools, not $part" ;;
  esac
done
