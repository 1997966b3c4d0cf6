#!/usr/bin/env bash
# Any command of longview in its image, on all GPUs of this machine (a DGX); paths are those of the checkout:
#
#   scripts/docker/run.sh fit --config configs/experiment/cxr_lt_2024_image.yaml
#   GPUS='"device=0,1"' scripts/docker/run.sh fit --config configs/demo.yaml --trainer configs/trainer/ddp.yaml
#   RAW=/archive/mimic scripts/docker/run.sh prepare --source mimic --root /raw --size 1024 --output data/mimic
#
# data, runs and so on are the checkout's, written to as the user who runs it; configs too, so that yours are found.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p data runs results submissions checkpoints
mounts=()
for folder in configs data runs results submissions checkpoints; do
    mounts+=(--volume "$(realpath "$folder"):/opt/longview/$folder")
done
if [[ -n ${RAW:-} ]]; then mounts+=(--volume "$(realpath "$RAW"):/raw:ro"); fi
gpus=()
if [[ ${GPUS-all} ]]; then gpus=(--gpus "${GPUS-all}"); fi # GPUS= for none
# --ipc host: loaders hand batches over in shared memory; --init: `docker stop` reaches training, which then saves
exec docker run --rm --init --ipc host --ulimit memlock=-1 --user "$(id -u):$(id -g)" --stop-timeout 120 \
    "${gpus[@]}" "${mounts[@]}" "${LONGVIEW_IMAGE:-longview}" "$@"
