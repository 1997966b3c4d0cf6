#!/usr/bin/env bash
# The image `longview`; what follows goes to docker build:
#
#   scripts/docker/build.sh
#   scripts/docker/build.sh --build-arg BASE=nvcr.io/nvidia/pytorch:26.09-py3 --build-arg EXTRAS=text,tune
set -euo pipefail
cd "$(dirname "$0")/../.."
exec docker build -f containers/Dockerfile -t "${LONGVIEW_IMAGE:-longview}" "$@" .
