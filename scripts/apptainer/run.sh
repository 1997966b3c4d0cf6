#!/usr/bin/env bash
# Any command of longview in its image, with this node's GPUs; paths are those of the checkout:
#
#   scripts/apptainer/run.sh fit --config configs/demo.yaml
#   RAW=/archive/mimic scripts/apptainer/run.sh prepare --source mimic --root /raw --size 1024 --output data/mimic
#   LONGVIEW=scripts/apptainer/run.sh sbatch scripts/slurm/fit.sbatch --config configs/experiment/cxr_lt_2024_image.yaml
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p data runs results submissions checkpoints
binds=()
for folder in configs data runs results submissions checkpoints; do
    binds+=(--bind "$(realpath "$folder"):/opt/longview/$folder")
done
if [[ -n ${RAW:-} ]]; then binds+=(--bind "$(realpath "$RAW"):/raw:ro"); fi
# --no-home: packages in ~/.local would go before those of the image
exec apptainer run --nv --no-home "${binds[@]}" "${LONGVIEW_IMAGE:-longview.sif}" "$@"
