#!/usr/bin/env bash
# Heat-map methods and their ensemble against the phantom's true boxes, after the demo's training.
#
#   bash scripts/compare_localization.sh              # about 20 minutes on two cores
#   SIZE=192 bash scripts/compare_localization.sh     # maps of 6 x 6 places instead of 3 x 3; about an hour
#
# What is there already is not made again; the tables (test part, 95 % intervals over patients) come last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

size=${SIZE:-96}
name=localization_demo
out=data/localization
store=data/phantom-localization # of its own: it keeps the true boxes, which a store of an earlier release lacks
if [ "$size" != 96 ]; then
    name+="_$size"
    out+="_$size"
    store+="_$size"
fi
# for the demo's linear head cam, hirescam and xgradcam are gradcam
methods=(gradcam gradcam++ layercam scorecam ablationcam eigencam)
labels=("Support Devices" "Cardiomegaly" "Lung Opacity" "Pleural Effusion" "Atelectasis" "Edema" "Consolidation"
    "Nodule")

if ! grep -qs "test/map" runs/"$name"/version_*/metrics.csv; then
    uv run main.py fit --config configs/demo.yaml --name "$name" --data.stores "$store" \
        --data.phantom.size "$size" --data.image_size "$size" --trainer.enable_progress_bar false
fi
best=$(printf '%s\n' runs/"$name"/version_*/checkpoints/best.ckpt | sort -V | tail -n 1)
explain() { # explain PART LIMIT: maps of the first films of a part
    uv run main.py explain --model "$best" --input "$store" --split "$1" --limit "$2" \
        --method "${methods[@]}" --labels "${labels[@]}" --output "$out/$1"
}
explain val 60
explain test 200
# where maps are cut is chosen on the validation part, alike for all methods
for threshold in 0.4 0.5 0.6 0.7 0.8 0.9; do
    uv run main.py localize --maps "$out/val" --boxes "$store" --threshold "$threshold" \
        --bootstrap 0 --pictures 0 --output "$out/val_$threshold" >"$out/val_$threshold.txt"
done
threshold=$(uv run scripts/localization_table.py --best "$out"/val_0.?)
uv run main.py localize --maps "$out/test" --boxes "$store" --threshold "$threshold" \
    --consolidate union majority mean --weights fit --fit_maps "$out/val" --output "$out/boxes"
echo "cut at $threshold of the maximum; pointing game / CorLoc@0.3 on films of the test part:"
uv run scripts/localization_table.py "$out/boxes"
# what a perfect map of so few places could reach
uv run scripts/perfect_maps.py "$store" --grids "$((size / 32))" --threshold "$threshold" --labels "${labels[@]}"
