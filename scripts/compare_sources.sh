#!/usr/bin/env bash
# Does a second source with other labels harm the labels of the first? Both against the first alone, three seeds, equally
# many steps, on the phantom drawn as NIH (single frontal films, 11 labels) and as CXR-LT 2024 (studies, 17 labels).
#
#   bash scripts/compare_sources.sh     # under half an hour on one busy core
#
# Runs that are there already are not repeated; the table (test part of the first source, mean ± sd over seeds) comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

steps=(--trainer.max_steps 900 --trainer.max_epochs -1 --trainer.val_check_interval 100
    --trainer.check_val_every_n_epoch null --trainer.enable_progress_bar false)

make_store() { # make_store LAYOUT NAME STUDIES SEED PREPARE_ARGUMENTS: a phantom of its own
    local layout=$1 name=$2 studies=$3 seed=$4
    uv run main.py phantom --layout "$layout" --studies "$studies" --size 64 --seed "$seed" --output "data/raw/$name"
    uv run main.py prepare --source "$layout" --root "data/raw/$name" --size 64 --output "data/$name" "${@:5}"
}

run() { # run NAME ARGUMENTS: one training, unless its test scores are there
    if grep -qs "test/map" runs/"$1"/version_*/metrics.csv; then return; fi
    uv run main.py fit --config configs/experiment/phantom_multi.yaml --name "$@" "${steps[@]}"
}

make_store nih phantom-nih 1200 1
make_store cxr-lt-2024 phantom-cxr-lt 2400 2 --labels phantom
for seed in 0 1 2; do
    run "sources_alone_$seed" --seed_everything "$seed" --data.stores data/phantom-nih --data.labels configs/labels/nih.yaml
    run "sources_both_$seed" --seed_everything "$seed"
done
uv run scripts/source_table.py nih "the first alone=runs/sources_alone_[0-9]" "both=runs/sources_both_[0-9]"
