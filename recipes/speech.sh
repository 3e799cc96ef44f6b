#!/usr/bin/env bash
# The pipeline that all speech corpora share: which stage comes when. egs/<corpus>/run.sh binds its options; the work is
# done by sqvae-speech, one verb a stage. What images need as well is in pipeline.sh.
set -euo pipefail

if [ "${BASH_VERSINFO[0]}" -lt 4 ]; then
    echo "error: this needs bash 4 or newer, not $BASH_VERSION" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/recipes/pipeline.sh"

mel_spec="sqvae16k"
stop_stage=6
target_speaker=""
pairs=""
num_conversions=12
convert_args=""
tts_config="$root/recipes/conf/text_to_units.yaml"
tts_args=""
vocoder="griffin_lim"
vocoder_config="$root/recipes/conf/vocoder.yaml"
vocoder_args=""
vocoder_dir=""

print_help() {
    cat << END
usage: ${SQVAE_RECIPE:-bash recipes/speech.sh} [options] [--section.key value ...]

stages:
  0 data directories   1 shards   2 training   3 units   4 scores   5 conversion   6 exports
  7 language model over the units   8 vocoder   9 text to units (only when asked for: --stop-stage 7, 8, 9)
A stage that is done is done again only when its inputs or options changed.

options (with what holds now):
$(print_common_help)
  --mel-spec NAME       preset of the log-mel features ($mel_spec)
  --target-speaker NAME score and convert with this voice too, instead of a sample of all pairs of speakers
  --pairs FILE          convert what its lines say, SOURCE-UTTERANCE TARGET-SPEAKER, of the last split ($pairs)
  --num-conversions N   recordings to convert, without --pairs ($num_conversions)
  --convert-args ARGS   further options of 'sqvae-speech convert' ($convert_args)
  --vocoder NAME        how converted log-mels become sound: griffin_lim, istft, istft:<dir of stage 8>, hub:... ($vocoder)
  --vocoder-config FILE configuration of the vocoder that stage 8 trains ($vocoder_config)
  --vocoder-args ARGS   settings of it, such as '--training.num_steps 5000 --model.channels 128' ($vocoder_args)
  --vocoder-dir DIR     where it goes; it does not depend on the tokenizer (default: <work dir>/exp/vocoder_<mel spec>)
  --lm-config FILE      configuration of the language model ($lm_config)
  --lm-args ARGS        settings of it, such as '--training.num_steps 500 --model.dropout 0.3' ($lm_args)
  --num-samples N       utterances to draw from it, and to say of text ($num_samples)
  --tts-config FILE     configuration of the text-to-units model ($tts_config)
  --tts-args ARGS       settings of it, such as '--data.text characters' ($tts_args)
  --help                print this
END
}

parse_options "--mel-spec --target-speaker --pairs --convert-args --vocoder --vocoder-config --vocoder-args --vocoder-dir \
    --tts-config --tts-args" "--num-conversions" "$@"
check_options 9
[ "$num_conversions" -ge 1 ] || bad_option "--num-conversions must be at least 1"
[ -z "$pairs" ] || [ -f "$pairs" ] || bad_option "--pairs $pairs: no such file"
pairs=${pairs:+$(absolute "$pairs")}
set_folders "$mel_spec"
tts_config=$(find_config "$tts_config")
vocoder_config=$(find_config "$vocoder_config")
vocoder_dir=$(absolute "${vocoder_dir:-$work_dir/exp/vocoder_$mel_spec}")

# ---- the stages' work, as far as it is speech

stage_shards() { write_shards wav.scp --mel-spec "$mel_spec" --resample; }

stage_score() { score_splits ${target_speaker:+--target-speaker "$target_speaker"}; }

stage_convert() {
    local words=(--all-pairs --max "$num_conversions")
    if [ -n "$target_speaker" ]; then words=(--target-speaker "$target_speaker" --max "$num_conversions"); fi
    if [ -n "$pairs" ]; then words=(--pairs "$pairs"); fi
    # shellcheck disable=SC2086
    sqvae convert --model "$exp_dir" --shards "$dump_dir/$(held_out | tail -n 1)" "${words[@]}" --vocoder "$vocoder" \
        --output "$exp_dir/wav" $convert_args
}

units_of_splits() { # train first, whose letters make the dictionary
    local split
    for split in train dev test; do
        if [ -e "$exp_dir/units/$split.parquet" ]; then echo "$split"; fi
    done
}

num_codebooks() {
    python -c 'import sys; from sqvae_speech.units.store import read_units; print(read_units(sys.argv[1]).meta.num_codebooks)' "$1"
}

export_units() { # the folder of the splits' units, that of what is written
    local units=$1 exports=$2 form split stores=() data=()
    if [ -d "$data_dir/train" ]; then data=(--data "$data_dir"); fi # else without the places of the recordings
    for split in $(units_of_splits); do stores+=("$units/$split.parquet"); done
    for form in km gslm kaldi; do
        mkdir -p "$exports/$form"
        for split in $(units_of_splits); do
            sqvae units convert "$units/$split.parquet" "$exports/$form/$split.$form"
        done
    done
    for form in espnet fairseq; do
        sqvae units corpus "${stores[@]}" --to "$form" "${data[@]+"${data[@]}"}" --output "$exports/$form"
    done
}

# The forms hold one codebook: of several each gets a folder, with its own units.
stage_export() {
    local split count codebook folder
    count=$(num_codebooks "$exp_dir/units/$(units_of_splits | head -n 1).parquet")
    if [ "$count" = 1 ]; then
        export_units "$exp_dir/units" "$exp_dir/exports"
        return
    fi
    for ((codebook = 0; codebook < count; codebook++)); do
        folder="$exp_dir/exports/codebook$codebook"
        mkdir -p "$folder/units"
        for split in $(units_of_splits); do
            sqvae units convert "$exp_dir/units/$split.parquet" "$folder/units/$split.parquet" --codebook "$codebook"
        done
        export_units "$folder/units" "$folder"
    done
}

look_at_codebook() {
    sqvae evaluate codebook --model "$exp_dir" --shards "$dump_dir/$(held_out | tail -n 1)" --max-utterances 200 \
        --output "$exp_dir/codebook" --quiet
}

stage_lm() {
    train_lm "$exp_dir/lm"
    score_lm "$exp_dir/lm"
    sample_lm "$exp_dir/lm"
}

# Goes on with the training that it finds if shards and settings are the same; then copies of recordings, to be heard.
stage_vocoder() {
    local words=() num_machines=1
    keep_training "$vocoder_dir" "$vocoder_inputs"
    if [ -e "$dump_dir/dev/index.json" ]; then
        words+=(--data.valid "$dump_dir/dev" --data.valid_recordings "$data_dir/dev")
    fi
    # shellcheck disable=SC2086
    launch_training sqvae_speech.bin.train --config "$vocoder_config" --data.train "$dump_dir/train" \
        --data.train_recordings "$data_dir/train" "${words[@]+"${words[@]}"}" $vocoder_args --exp-dir "$vocoder_dir"
    sqvae vocode --vocoder "istft:$vocoder_dir" --shards "$dump_dir/$(held_out | tail -n 1)" --max "$num_conversions" \
        --output "$vocoder_dir/wav"
}

stage_tts() {
    local model="$exp_dir/text_to_units" units="$exp_dir/units" split words=() stores=() shards=() data=() num_machines=1
    keep_training "$model" "$unit_inputs"
    if [ -e "$units/dev.parquet" ]; then words+=(--data.valid "$units/dev.parquet"); fi
    # shellcheck disable=SC2086  # further settings are words
    launch_training sqvae_speech.bin.train --config "$tts_config" --data.train "$units/train.parquet" \
        "${words[@]+"${words[@]}"}" $tts_args --exp-dir "$model"
    for split in $(held_out); do stores+=("$units/$split.parquet") shards+=("$dump_dir/$split"); done
    for split in $(splits_in "$data_dir" ali); do data+=("$data_dir/$split"); done
    sqvae evaluate text-to-units --model "$model" --train "$units/train.parquet" --units "${stores[@]}" \
        --data "${data[@]+"${data[@]}"}" --tokenizer "$exp_dir" --shards "${shards[@]}" --output "$model/scores.json"
    sqvae speak --like "${stores[-1]}" --max "$num_samples" --model "$model" --tokenizer "$exp_dir" --output "$model/samples"
}

# ---- the stages

begin_recipe

if runs 0; then run_prepare_stage wav.scp wavs; fi

if runs 1; then
    need_train "$data_dir" wav.scp 0
    run_stage 1 shards "$dump_dir/.stage1" "version $version
mel-spec $mel_spec
shards-args $shards_args
$(lines "$data_dir/.stage0" "$data_dir"/{train,dev,test}/{wav.scp,utt2spk,text,segments,ali} | contents)" \
        stage_shards "+$dump_dir"/{train,dev,test}
fi

if runs 2; then run_train_stage; fi

if runs 3 || runs 4 || runs 5; then find_model_inputs; fi

if runs 3; then
    run_stage 3 units "$exp_dir/.stages/3" "$inputs" stage_encode "$exp_dir/units"
fi

if runs 4; then
    run_stage 4 scores "$exp_dir/.stages/4" "$inputs
target-speaker $target_speaker" stage_score "$exp_dir/scores"
fi

if runs 5; then
    run_stage 5 conversion "$exp_dir/.stages/5" "$inputs
target-speaker $target_speaker
num-conversions $num_conversions
${pairs:+pairs $(echo "$pairs" | contents)
}vocoder $vocoder
convert-args $convert_args" stage_convert "$exp_dir/wav"
fi

if runs 6; then
    ls "$exp_dir"/units/*.parquet > /dev/null 2>&1 || die "$exp_dir/units has no units; run stage 3 first (--stage 3)"
    run_stage 6 exports "$exp_dir/.stages/6" "version $version
$(lines "$exp_dir"/units/*.parquet | contents)" stage_export "$exp_dir/exports"
fi

if runs 7; then
    find_unit_inputs "$lm_config" lm-args "$lm_args"
    run_stage 7 "language model" "$exp_dir/.stages/7" "$unit_inputs
num-samples $num_samples" stage_lm \
        "+$exp_dir/lm/checkpoints/latest" "+$exp_dir/lm/"{scores.json,samples}
fi

if runs 8; then
    need_train "$dump_dir" index.json 1
    [ -f "$vocoder_config" ] || die "no configuration $vocoder_config"
    vocoder_inputs="version $version
$(lines "$dump_dir"/{train,dev,test}/index.json | contents)
vocoder-args $vocoder_args
$(config_files "$vocoder_config" | contents)"
    run_stage 8 vocoder "$(dirname "$vocoder_dir")/.$(basename "$vocoder_dir").stage8" "$vocoder_inputs
num-conversions $num_conversions" stage_vocoder "+$vocoder_dir/checkpoints/latest" "+$vocoder_dir/wav"
fi

if runs 9; then
    find_unit_inputs "$tts_config" tts-args "$tts_args"
    run_stage 9 "text to units" "$exp_dir/.stages/9" "$unit_inputs
num-samples $num_samples" stage_tts \
        "+$exp_dir/text_to_units/checkpoints/latest" "+$exp_dir/text_to_units/"{scores.json,samples}
fi

# ---- where everything is

write_report look_at_codebook --vocoder "$vocoder"
print_places << END
data-directories $data_dir
shards $dump_dir
checkpoints $exp_dir/checkpoints
plots $exp_dir/plots
units $exp_dir/units
exports $exp_dir/exports
scores $exp_dir/scores
converted-recordings $exp_dir/wav
language-model $exp_dir/lm
vocoder $vocoder_dir
text-to-units $exp_dir/text_to_units
report $exp_dir/report.html
END
print_table "$exp_dir/scores/scores.md"
if runs 7; then print_table "$exp_dir/lm/scores.md"; fi
if runs 9; then print_table "$exp_dir/text_to_units/scores.md"; fi
