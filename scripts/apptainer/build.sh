#!/usr/bin/env bash
# The image longview.sif; what follows goes to apptainer build:
#
#   scripts/apptainer/build.sh
#   scripts/apptainer/build.sh --build-arg BASE=nvcr.io/nvidia/pytorch:26.09-py3 --build-arg EXTRAS=text,tune
set -euo pipefail
cd "$(dirname "$0")/../.."
exec apptainer build "$@" "${LONGVIEW_IMAGE:-longview.sif}" containers/longview.def
