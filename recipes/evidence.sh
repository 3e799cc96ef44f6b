#!/usr/bin/env bash
# What units are worth on voices that nothing was trained on: models and baselines by the same yardsticks, and a page
# from what they gave. egs/<corpus>/evidence.sh binds its options.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/recipes/lib.sh"

recipe_dir=""
work_dir=""
voices=""
sweep=""
template=""
output=""
jobs=2
corpus=()
overrides=()

print_help() {
    cat << END
usage: ${SQVAE_RECIPE:-bash recipes/evidence.sh} [options] [--section.key value ...]

What is done already is not done again. Options (with what holds now):
  --corpus PATH         the corpus, as for run.sh
  --voices NAMES        to hold out ($voices)
  --work-dir DIR        where data/, dump/ and exp/ go ($work_dir)
  --sweep FILE          what is trained and scored ($sweep)
  --template FILE       of the page, see 'sqvae-speech sweep page --help' ($template)
  --output FILE         the page to write ($output)
  --jobs N              trainings at a time ($jobs)
  --section.key VALUE   any setting of training, for all: --training.num_steps 200
  --help                print this
END
}

while [ $# -gt 0 ]; do
    if [ "$1" = --help ]; then
        print_help
        exit
    fi
    [ $# -gt 1 ] || bad_option "$1 needs a value, or is no option"
    case $1 in
        --recipe-dir) recipe_dir=$(absolute "$2") ;;
        --corpus) corpus=(--corpus "$(absolute "$2")") ;;
        --voices) voices=$2 ;;
        --work-dir) work_dir=$(absolute "$2") ;;
        --sweep) sweep=$(absolute "$2") ;;
        --template) template=$(absolute "$2") ;;
        --output) output=$(absolute "$2") ;;
        --jobs)
            is_count "$2" && [ "$2" -gt 0 ] || bad_option "--jobs takes a number from 1, not '$2'"
            jobs=$2
            ;;
        --?*.?*) overrides+=("$1" "$2") ;;
        *) bad_option "unknown option $1" ;;
    esac
    shift 2
done
for needed in recipe_dir voices work_dir sweep template output; do
    [ -n "${!needed}" ] || bad_option "--${needed//_/-} is needed (egs/<corpus>/evidence.sh gives it)"
done

started=$SECONDS
bash "$recipe_dir/run.sh" --stop-stage 1 --work-dir "$work_dir" --prepare-args "--test-speakers $voices" \
    "${corpus[@]+"${corpus[@]}"}"
source "$root/tools/activate.sh"
cd "$work_dir" # the sweep's paths begin here
exp_dir="exp/$(basename "$sweep" .yaml)"

run_sweep() {
    python -m sqvae_speech.bin.sweep "$sweep" --output "$exp_dir" --data.train dump/sqvae16k/train \
        --data.valid dump/sqvae16k/dev "${overrides[@]+"${overrides[@]}"}"
}

# Several sweeps of one folder share the work. One thread each: they would only be in each other's way.
export OMP_NUM_THREADS=1
workers=()
trap 'kill "${workers[@]+"${workers[@]}"}" 2> /dev/null || true' EXIT
for ((job = 1; job < jobs; job++)); do
    run_sweep > /dev/null &
    workers+=($!)
done
run_sweep > /dev/null || warn "not all is done; the end of this says what is not"
for worker in "${workers[@]+"${workers[@]}"}"; do wait "$worker" || true; done
workers=()
run_sweep # what had to wait for the others, and the table

python -m sqvae_speech.bin.sweep page "$template" --results "evidence=$exp_dir" \
    --facts "voices=$voices" --output "$output"
say "in $(((SECONDS - started + 59) / 60)) minutes"
