#!/usr/bin/env bash
# The pipeline that all speech corpora share: which stage comes when. egs/<corpus>/run.sh binds its options; the work is
# done by sqvae-speech, one verb a stage.
set -euo pipefail

if [ "${BASH_VERSINFO[0]}" -lt 4 ]; then
    echo "error: this needs bash 4 or newer, not $BASH_VERSION" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/recipes/lib.sh"

recipe_dir=""
corpus_name=""
corpus=""
make_corpus=""
work_dir=""
exp_dir=""
tag=""
config="conf/train.yaml"
mel_spec="sqvae16k"
stage=0
stop_stage=6
ngpu=""
num_processes=1
num_machines=1
machine_rank=0
main_address=""
nj=""
target_speaker=""
num_conversions=12
prepare_args=""
shards_args=""
convert_args=""
lm_config="$root/recipes/conf/unit_lm.yaml"
lm_args=""
num_samples=8
download=false
force=false
overrides=()

print_help() {
    cat << END
usage: ${SQVAE_RECIPE:-bash recipes/speech.sh} [options] [--section.key value ...]

stages:
  0 data directories   1 shards   2 training   3 units   4 scores   5 conversion   6 exports
  7 language model over the units (only with --stop-stage 7)
A stage that is done is done again only when its inputs or options changed.

options (with what holds now):
  --stage N             first stage ($stage)
  --stop-stage N        last stage ($stop_stage)
  --force               do the stages again even if they are done; training begins anew
  --corpus PATH         the corpus, for stage 0 (${corpus:-${make_corpus:+made by the recipe}})
  --download            fetch the corpus first, unless it is there, to PATH (default: <work dir>/downloads/<name>)
  --corpus-name NAME    what 'sqvae-speech prepare' calls it (${corpus_name})
  --mel-spec NAME       preset of the log-mel features ($mel_spec)
  --config FILE         training configuration ($config)
  --section.key VALUE   any setting of that configuration, such as --training.num_steps 200
  --tag NAME            name of the experiment (default: from the configuration, features and settings given)
  --exp-dir DIR         folder of the experiment (default: <work dir>/exp/<tag>)
  --work-dir DIR        where data/, dump/ and exp/ go (${work_dir:-the recipe})
  --ngpu N              GPUs to train on; 0 is the CPU (default: 1 if there is one)
  --num-processes N     processes to train with on the CPU ($num_processes)
  --num-machines N      machines to train on, with the same options on each ($num_machines)
  --machine-rank N      number of this machine, from 0; others than 0 do stage 2 only ($machine_rank)
  --main-address H:P    host of machine 0 and a free port there (${main_address})
  --nj N                parallel jobs of the other stages (default: the number of cores)
  --target-speaker NAME score and convert with this voice too, instead of a sample of all pairs of speakers
  --num-conversions N   recordings to convert ($num_conversions)
  --prepare-args ARGS   further options of 'sqvae-speech prepare NAME' ($prepare_args)
  --shards-args ARGS    further options of 'sqvae-speech shards' ($shards_args)
  --convert-args ARGS   further options of 'sqvae-speech convert' ($convert_args)
  --lm-config FILE      configuration of the language model ($lm_config)
  --lm-args ARGS        settings of it, such as '--training.num_steps 500 --model.dropout 0.3' ($lm_args)
  --num-samples N       utterances to draw from it ($num_samples)
  --help                print this
END
}

# ---- options

help=false
while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
        -h | --help) help=true; continue ;;
        --force) force=true; continue ;;
        --download) download=true; continue ;;
        --*=*) value=${option#*=} option=${option%%=*} ;;
        --*)
            [ $# -gt 0 ] || bad_option "$option needs a value, or is no option"
            value=$1
            shift
            ;;
        *) bad_option "cannot read '$option': options begin with --" ;;
    esac
    case $option in
        --stage | --stop-stage | --ngpu | --num-processes | --num-machines | --machine-rank | --nj | --num-conversions | \
            --num-samples)
            is_count "$value" || bad_option "$option takes a whole number, not '$value'" ;;
    esac
    case $option in
        --recipe-dir | --corpus-name | --corpus | --make-corpus | --work-dir | --exp-dir | --tag | --config | \
            --mel-spec | --stage | --stop-stage | --ngpu | --num-processes | --num-machines | --machine-rank | \
            --main-address | --nj | --target-speaker | \
            --num-conversions | --prepare-args | --shards-args | --convert-args | --lm-config | --lm-args | \
            --num-samples)
            name=${option#--}
            printf -v "${name//-/_}" '%s' "$value"
            ;;
        --?*.?*) overrides+=("$option" "$value") ;;
        *) bad_option "unknown option $option" ;;
    esac
done
if $help; then
    print_help
    exit
fi
[ "$stage" -le "$stop_stage" ] || bad_option "--stage $stage comes after --stop-stage $stop_stage"
[ "$stage" -le 7 ] || bad_option "--stage $stage: the stages are 0 to 7"
[ "$num_machines" -ge 1 ] || bad_option "--num-machines must be at least 1"
[ "$machine_rank" -lt "$num_machines" ] ||
    bad_option "--machine-rank $machine_rank: with --num-machines $num_machines they are 0 to $((num_machines - 1))"
[ "$num_machines" = 1 ] || [[ $main_address =~ ^[^:]+:[0-9]+$ ]] ||
    bad_option "--num-machines $num_machines needs --main-address HOST:PORT of machine 0"
[ -n "$corpus_name" ] || bad_option "--corpus-name is needed (egs/<corpus>/run.sh gives it)"
case " $prepare_args " in *" --download "*) download=true ;; esac
if $download && [ -n "$make_corpus" ]; then bad_option "--download: the recipe makes its corpus itself"; fi
[ -n "$corpus$make_corpus" ] || $download || [ "$stage" -gt 0 ] ||
    bad_option "stage 0 needs --corpus PATH, or --download"
[ "$num_processes" -ge 1 ] || bad_option "--num-processes must be at least 1"
[ "$num_conversions" -ge 1 ] || bad_option "--num-conversions must be at least 1"
[ "$num_samples" -ge 1 ] || bad_option "--num-samples must be at least 1"
[[ $tag =~ ^[A-Za-z0-9._=-]*$ ]] || bad_option "--tag '$tag': letters, digits and . _ = - only"

recipe_dir=$(absolute "${recipe_dir:-.}")
work_dir=$(absolute "${work_dir:-$recipe_dir}")
[ -z "$corpus" ] || { corpus=$(absolute "$corpus") make_corpus=""; }
if $download && [ -z "$corpus" ]; then corpus="$work_dir/downloads/$corpus_name"; fi
# find_config FILE: a configuration is looked for where the user stands, then in the recipe.
find_config() {
    if [ -f "$1" ]; then absolute "$1"; else absolute "$1" "$recipe_dir"; fi
}
config=$(find_config "$config")
[ -f "$config" ] || die "no configuration $config"
lm_config=$(find_config "$lm_config")
[ -f "$lm_config" ] || [ "$stop_stage" -lt 7 ] || die "no configuration $lm_config"
if [ -z "$tag" ]; then
    tag=$(basename "$config" .yaml)_$mel_spec
    for word in "${overrides[@]+"${overrides[@]}"}"; do tag+=_${word#--}; done
    tag=$(printf '%s' "$tag" | tr -c 'A-Za-z0-9._=-' '-' | sed -E 's/_(training|model|data)\./_/g')
    # a name may have 255 bytes
    if [ ${#tag} -gt 120 ]; then tag=${tag:0:100}_$(printf '%s' "$tag" | checksum); fi
fi
exp_dir=$(absolute "${exp_dir:-$work_dir/exp/$tag}")
data_dir="$work_dir/data"
dump_dir="$work_dir/dump/$mel_spec"
log_dir="$exp_dir/logs"

if [ "$machine_rank" -gt 0 ]; then stage=2 stop_stage=2; fi

source "$root/tools/activate.sh"
[ -n "$nj" ] && [ "$nj" -gt 0 ] || nj=$(number_of_cores)
gpus=$(number_of_gpus)
[ -n "$ngpu" ] || ngpu=$((gpus > 0))
[ "$ngpu" -le "$gpus" ] || die "--ngpu $ngpu, but this machine shows $gpus (--ngpu 0 uses the CPU)"
[ "$ngpu" = 0 ] || [ "$num_processes" = 1 ] || bad_option "--num-processes is for the CPU; --ngpu $ngpu starts $ngpu"
if [ "$ngpu" = 0 ]; then export CUDA_VISIBLE_DEVICES="" ACCELERATE_USE_CPU=true; fi
if ! [ -t 1 ]; then export TQDM_MININTERVAL=10; fi # a line of progress in the logs now and then, not ten a second

sqvae() { python -m sqvae_speech.bin.main "$@"; }
runs() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }

# ---- what depends on the splits there are: a small corpus may lack dev or test

splits_in() { # splits_in FOLDER FILE: those of train, dev, test that have FILE
    local split
    for split in train dev test; do
        if [ -e "$1/$split/$2" ]; then echo "$split"; fi
    done
}
need_train() { # need_train FOLDER FILE STAGE
    [ -e "$1/train/$2" ] || die "$1/train/$2 is not there; run stage $3 first (--stage $3)"
}
# The splits to score and convert, and the one the conversion takes its utterances from.
held_out() { splits_in "$dump_dir" index.json | grep -v train || echo train; }

# ---- the stages' work

stage_prepare() {
    if [ -n "$make_corpus" ]; then python "$make_corpus" "$corpus" --num-workers "$nj"; fi
    # shellcheck disable=SC2086  # further options are words
    sqvae prepare "$corpus_name" --corpus "$corpus" --output "$data_dir" $prepare_args
    local split folders=()
    for split in $(splits_in "$data_dir" wav.scp); do folders+=("$data_dir/$split"); done
    sqvae data validate "${folders[@]}"
}

stage_shards() {
    local split
    for split in train dev test; do
        # also what an earlier corpus had and this one has not
        if $force || ! [ -e "$data_dir/$split/wav.scp" ]; then rm -rf "${dump_dir:?}/$split"; fi
    done
    for split in $(splits_in "$data_dir" wav.scp); do
        # shellcheck disable=SC2086
        sqvae shards "$data_dir/$split" "$dump_dir/$split" --mel-spec "$mel_spec" --resample --num-workers "$nj" $shards_args
    done
}

# The command line of training, without the program.
train_options() {
    train_words=(--config "$config" --data.train "$dump_dir/train")
    if [ -e "$dump_dir/dev/index.json" ]; then train_words+=(--data.valid "$dump_dir/dev"); fi
    train_words+=("${overrides[@]+"${overrides[@]}"}")
}

# config_files FILE: a configuration and those that it includes.
config_files() {
    local file=$1 base depth
    for depth in 1 2 3 4 5 6 7 8 9; do
        echo "$file"
        base=$(sed -nE "s/^base: *[\"']?([^\"'#]*[^\"'# ]).*/\1/p" "$file" 2> /dev/null | head -n 1)
        [ -n "$base" ] || return 0
        file=$(absolute "$base" "$(dirname "$file")")
    done
}

print_config() {
    train_options
    python -m sqvae_speech.bin.train "${train_words[@]}" --exp-dir "$exp_dir" --print-config
}

# What decides what a step of training does. The rest (length, intervals, where the shards lie) may change on resuming.
training_identity() {
    awk '/^ *-/ { if (keep) print; next }
         { keep = !/^ +(num_steps|num_workers|[a-z]+_interval|keep_[a-z]+|num_plots|train|valid|cache_gb|download_[a-z]+|trackers|tracker_project|collapse_[a-z]+):/ }
         keep' <<< "$train_config"
    say "shards $(checksum < "$dump_dir/train/index.json")"
}

# Experiments are not deleted: what other settings made is moved to <exp dir>.old-N, with a copy of the logs.
set_experiment_aside() {
    local number=1 entry
    while [ -e "$exp_dir.old-$number" ]; do number=$((number + 1)); done
    mkdir "$exp_dir.old-$number"
    for entry in "$exp_dir"/*; do
        if [ "$entry" = "$log_dir" ]; then cp -r "$entry" "$exp_dir.old-$number/"; else mv "$entry" "$exp_dir.old-$number/"; fi
    done
    rm -f "$exp_dir"/.stages/[3-7]
    say "$1; the earlier training is now $exp_dir.old-$number"
}

stage_train() {
    local identity_file="$exp_dir/.training_identity" identity latest reason="" train_config
    train_config=$(print_config)
    identity=$(training_identity)
    if [ -e "$exp_dir/checkpoints/latest" ]; then
        latest=$(cat "$exp_dir/checkpoints/latest")
        if $force; then
            reason="beginning anew because of --force"
        elif [ -e "$identity_file" ] && ! diff "$identity_file" - <<< "$identity"; then
            reason="beginning anew because settings or shards have changed as shown"
        elif [ "$((10#${latest#step-}))" -gt "$(sed -n 's/^  num_steps: //p' <<< "$train_config")" ]; then
            reason="beginning anew because $latest is beyond training.num_steps"
        fi
        [ -z "$reason" ] || set_experiment_aside "$reason"
    fi
    printf '%s\n' "$identity" > "$identity_file"
    train_options
    launch_training sqvae_speech.bin.train "${train_words[@]}" --exp-dir "$exp_dir"
}

# The files that say which weights `--model $exp_dir` means.
checkpoint_files() {
    local pointer
    for pointer in best latest; do
        echo "$exp_dir/checkpoints/$pointer"
        if [ -f "$exp_dir/checkpoints/$pointer" ]; then
            echo "$exp_dir/checkpoints/$(cat "$exp_dir/checkpoints/$pointer")/model.safetensors"
        fi
    done
}

stage_encode() {
    local split
    for split in $(splits_in "$dump_dir" index.json); do
        sqvae encode --model "$exp_dir" --shards "$dump_dir/$split" --output "$exp_dir/units/$split.parquet"
    done
}

stage_score() {
    local split words=()
    for split in $(held_out); do words+=("$dump_dir/$split"); done
    words+=(--output "$exp_dir/scores/scores.json" --plots "$exp_dir/scores")
    if [ -n "$target_speaker" ]; then words+=(--target-speaker "$target_speaker"); fi
    sqvae score --model "$exp_dir" --shards "${words[@]}"
}

stage_convert() {
    local words=(--all-pairs)
    if [ -n "$target_speaker" ]; then words=(--target-speaker "$target_speaker"); fi
    # shellcheck disable=SC2086
    sqvae convert --model "$exp_dir" --shards "$dump_dir/$(held_out | tail -n 1)" "${words[@]}" --max "$num_conversions" \
        --output "$exp_dir/wav" $convert_args
}

stage_export() {
    local form store
    for form in km gslm kaldi; do
        mkdir -p "$exp_dir/exports/$form"
        for store in "$exp_dir"/units/*.parquet; do
            sqvae units convert "$store" "$exp_dir/exports/$form/$(basename "$store" .parquet).$form"
        done
    done
}

# Goes on with the training that it finds if units and settings are the same, else it begins anew.
stage_lm() {
    local lm_dir="$exp_dir/lm" units="$exp_dir/units" split words=() stores=() num_machines=1
    if $force || { [ -e "$lm_dir/.made_of" ] && ! diff "$lm_dir/.made_of" - <<< "$lm_inputs"; }; then rm -rf "$lm_dir"; fi
    mkdir -p "$lm_dir"
    printf '%s\n' "$lm_inputs" > "$lm_dir/.made_of"
    if [ -e "$units/dev.parquet" ]; then words+=(--data.valid "$units/dev.parquet"); fi
    # shellcheck disable=SC2086  # further settings are words
    launch_training sqvae_speech.bin.train --config "$lm_config" --data.train "$units/train.parquet" \
        "${words[@]+"${words[@]}"}" $lm_args --exp-dir "$lm_dir"
    for split in $(held_out); do stores+=("$units/$split.parquet"); done
    sqvae lm score --model "$lm_dir" --train "$units/train.parquet" --units "${stores[@]}" --output "$lm_dir/scores.json"
    sqvae lm sample --model "$lm_dir" --tokenizer "$exp_dir" --number "$num_samples" \
        --output "$lm_dir/samples"
}

# ---- the stages

trap finish_stages EXIT
mkdir -p "$work_dir" "$exp_dir"
say "recipe $corpus_name, experiment $exp_dir"
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/sqvae_speech/version.py")

# Seconds that are saved when training is done already with just these settings.
settings="settings ${overrides[*]+"${overrides[*]}"}
$(config_files "$config" | contents)"
if runs 2 && ! grep -qsxF "$(checksum <<< "$settings")" "$exp_dir/.settings_checked"; then
    # before anything else, so that a misspelt setting does not wait for the corpus to be read
    if ! print_config > /dev/null 2> "$exp_dir/.config_error"; then
        message=$(sed 's/^error: //' "$exp_dir/.config_error")
        rm -f "$exp_dir/.config_error"
        # the configuration alone is good: it is what the command line adds
        if (overrides=() && print_config > /dev/null 2>&1); then bad_option "$message"; fi
        die "$message"
    fi
    rm -f "$exp_dir/.config_error"
    checksum <<< "$settings" > "$exp_dir/.settings_checked"
fi

if runs 0; then
    # Before the stage, whose marker holds a listing of the corpus. Done once; --force does not fetch anew.
    if $download; then
        # shellcheck disable=SC2086
        sqvae prepare "$corpus_name" --download --corpus "$corpus" $prepare_args ||
            die "the corpus could not be fetched (--download)"
    fi
    # what the recipe makes itself is decided by its script; what is there, by its files
    if [ -n "$make_corpus" ]; then
        corpus="$work_dir/downloads/$corpus_name"
        made_of=$(find "$(dirname "$make_corpus")" -type f ! -name '*.pyc' | LC_ALL=C sort | contents)
    else
        made_of=$(listing "$corpus")
    fi
    run_stage 0 "data directories" "$data_dir/.stage0" "version $version
corpus $corpus_name $corpus
$made_of
prepare-args $prepare_args" stage_prepare "$data_dir"/{train,dev,test,wavs} ${make_corpus:+"+$corpus"}
fi

if runs 1; then
    need_train "$data_dir" wav.scp 0
    run_stage 1 shards "$dump_dir/.stage1" "version $version
mel-spec $mel_spec
shards-args $shards_args
$(lines "$data_dir/.stage0" "$data_dir"/{train,dev,test}/{wav.scp,utt2spk,text,segments,ali} | contents)" \
        stage_shards "+$dump_dir"/{train,dev,test}
fi

if runs 2; then
    need_train "$dump_dir" index.json 1
    if [ "$machine_rank" -gt 0 ]; then # machine 0 looks after the experiment's folder
        train_options
        launch_training sqvae_speech.bin.train "${train_words[@]}" --exp-dir "$exp_dir"
        exit
    fi
    run_stage 2 training "$exp_dir/.stages/2" "version $version
$(lines "$dump_dir"/{train,dev}/index.json | contents)
$settings" stage_train "+$exp_dir/checkpoints/latest"
fi

if runs 3 || runs 4 || runs 5; then
    need_train "$dump_dir" index.json 1
    [ -e "$exp_dir/checkpoints/latest" ] || die "$exp_dir has no checkpoint; run stage 2 first (--stage 2)"
    inputs="version $version
$(checkpoint_files | contents)
$(lines "$dump_dir"/{train,dev,test}/index.json | contents)"
fi

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
convert-args $convert_args" stage_convert "$exp_dir/wav"
fi

if runs 6; then
    ls "$exp_dir"/units/*.parquet > /dev/null 2>&1 || die "$exp_dir/units has no units; run stage 3 first (--stage 3)"
    run_stage 6 exports "$exp_dir/.stages/6" "version $version
$(lines "$exp_dir"/units/*.parquet | contents)" stage_export "$exp_dir/exports"
fi

if runs 7; then
    [ -e "$exp_dir/units/train.parquet" ] || die "$exp_dir/units has no units of train; run stage 3 first (--stage 3)"
    lm_inputs="version $version
$(lines "$exp_dir"/units/*.parquet | contents)
lm-args $lm_args
$(config_files "$lm_config" | contents)"
    run_stage 7 "language model" "$exp_dir/.stages/7" "$lm_inputs
num-samples $num_samples" stage_lm \
        "+$exp_dir/lm/checkpoints/latest" "+$exp_dir/lm/"{scores.json,samples}
fi

# ---- where everything is

say ""
while read -r what path; do
    if [ -e "$path" ]; then printf '%-21s %s\n' "${what//-/ }" "$path"; fi
done << END
data-directories $data_dir
shards $dump_dir
checkpoints $exp_dir/checkpoints
plots $exp_dir/plots
units $exp_dir/units
exports $exp_dir/exports
scores $exp_dir/scores
converted-recordings $exp_dir/wav
language-model $exp_dir/lm
END
if [ -e "$exp_dir/scores/scores.md" ]; then
    say ""
    cat "$exp_dir/scores/scores.md"
fi
if runs 7; then
    say ""
    cat "$exp_dir/lm/scores.md"
fi
