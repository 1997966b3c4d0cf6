#!/usr/bin/env bash
# What both containers/Dockerfile and containers/longview.def run: longview and its libraries into the image's own Python.
#
#   install.sh libraries SOURCE [EXTRAS]    # what pyproject.toml asks for; changes seldom, so an image layer of its own
#   install.sh longview SOURCE              # longview itself, from its source
#
# Into the image's Python, not a virtual environment: an image of NVIDIA brings a torch of its own, built for its CUDA,
# and uv sees no packages outside of an environment. Whatever torch is there stays, since it is given to uv as a
# constraint (uv would else replace it: 2.12.0a0 comes before 2.12); where none is, it comes from PyPI.
set -euo pipefail
export UV_SYSTEM_PYTHON=1 UV_BREAK_SYSTEM_PACKAGES=1 UV_NO_CACHE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
export PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1

step=$1 source=$2 extras=${3:-}
uv=(python3 -m uv)

case $step in
libraries)
    python3 -c 'import sys; sys.exit("longview needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
    if ! python3 -m pip --version >/dev/null 2>&1; then
        apt-get update
        apt-get install -y --no-install-recommends python3-pip
        rm -rf /var/lib/apt/lists/*
    fi
    # pip of Debian 12 knows no --break-system-packages by environment in every release; the file says it to all of them
    rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
    python3 -m pip install --quiet "uv==${UV_VERSION:?}"
    there=$(mktemp)
    python3 - >"$there" <<'PYTHON'
from importlib.metadata import PackageNotFoundError, version

for name in ("torch", "torchvision", "triton"):
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass
PYTHON
    arguments=(--constraint "$there" -r "$source/pyproject.toml")
    for extra in ${extras//,/ }; do arguments+=(--extra "$extra"); done
    (cd "$source" && "${uv[@]}" pip install "${arguments[@]}")
    rm -f "$there"
    ;;
longview)
    "${uv[@]}" pip install --no-deps "$source"
    python3 -m pip uninstall --quiet --yes uv
    rm -f /tmp/uv-*.lock
    ;;
*)
    echo "install.sh: no step $step; there are libraries and longview" >&2
    exit 2
    ;;
esac
