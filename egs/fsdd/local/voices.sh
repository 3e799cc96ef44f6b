#!/usr/bin/env bash
# The tables of VOICES.md: every test recording in every voice, by SQ-VAE and by VQ-VAE, and what is made of it.
#
#     bash egs/fsdd/local/voices.sh --corpus fsdd.zip --work-dir WORK_DIR    # options are those of egs/fsdd/run.sh
#     STEPS=20000 bash egs/fsdd/local/voices.sh --corpus fsdd.zip --work-dir WORK_DIR
#
# A stage that is done is not done again. The tables are then exp/voices.md in the work folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
steps=${STEPS:-4000}
work_dir=$here
words=("$@")
for ((n = 0; n < ${#words[@]}; n++)); do
    if [ "${words[n]}" = --work-dir ]; then work_dir=${words[n + 1]}; fi
done

bash "$here/run.sh" "$@" --stop-stage 1
pairs="$work_dir/exp/every_voice"
mkdir -p "$work_dir/exp"
while read -r utterance _; do
    while read -r speaker _; do echo "$utterance $speaker"; done < "$work_dir/data/train/spk2utt"
done < "$work_dir/data/test/utt2spk" > "$pairs"

# The learning rate falls where it does in conf/fast.yaml, as far into the run, for both. Each speaker has a room and a
# microphone of his own; that both models hear noise keeps the source's out of the units.
for config in fast vq_ema; do
    bash "$here/run.sh" "$@" --stage 2 --stop-stage 2 --tag "voices_$config" --config "conf/$config.yaml" \
        --model.invariance.noise 0.6 --training.num_steps "$steps" \
        --training.milestones "[$((steps * 3 / 5)), $((steps * 4 / 5))]" --training.keep_steps "[]"
    bash "$here/run.sh" "$@" --stage 5 --stop-stage 5 --tag "voices_$config" --config "conf/$config.yaml" --pairs "$pairs" \
        --convert-args --no-plots
done
source "$here/../../tools/activate.sh"
python -m sqvae_speech.bin.main evaluate voices --wavs "$work_dir"/exp/voices_{fast,vq_ema}/wav --names SQ-VAE VQ-VAE \
    --data "$work_dir/data/test" --train-data "$work_dir/data/train" --output "$work_dir/exp/voices.json" --no-pitch --quiet
