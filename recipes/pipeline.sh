# What the pipelines of speech and of images share: options, folders, the stages that both have. Sourced, never run.
#
# A pipeline sets its own options (plain variables), defines print_help, and calls, in this order: parse_options,
# check_options, set_folders, begin_recipe; then the stages.

source "$root/recipes/lib.sh"

recipe_dir=""
corpus_name=""
corpus=""
make_corpus=""
embedded=false
work_dir=""
exp_dir=""
tag=""
config="conf/train.yaml"
stage=0
ngpu=""
num_processes=1
num_machines=1
machine_rank=0
main_address=""
nj=""
prepare_args=""
shards_args=""
lm_config="$root/recipes/conf/unit_lm.yaml"
lm_args=""
num_samples=8
download=false
force=false
report=true
help=false
overrides=()

# ---- options

print_common_help() { # the options that all pipelines have, for the middle of a help
    cat << END
  --stage N             first stage ($stage)
  --stop-stage N        last stage ($stop_stage)
  --force               do the stages again even if they are done; training begins anew
  --no-report           leave out the page about the experiment at the end
  --corpus PATH         the corpus, for stage 0 (${corpus:-${make_corpus:+made by the recipe}})
  --download            fetch the corpus first, unless it is there, to PATH (default: <work dir>/downloads/<name>)
  --corpus-name NAME    what 'sqvae-speech prepare' calls it (${corpus_name})
  --config FILE         training configuration ($config)
  --section.key VALUE   any setting of that configuration, such as --training.num_steps 200
  --tag NAME            name of the experiment (default: from the configuration and settings given)
  --exp-dir DIR         folder of the experiment (default: <work dir>/exp/<tag>)
  --work-dir DIR        where data/, dump/ and exp/ go (${work_dir:-the recipe})
  --ngpu N              GPUs to train on; 0 is the CPU (default: 1 if there is one)
  --num-processes N     processes to train with on the CPU ($num_processes)
  --num-machines N      machines to train on, with the same options on each ($num_machines)
  --machine-rank N      number of this machine, from 0; others than 0 do stage 2 only ($machine_rank)
  --main-address H:P    host of machine 0 and a free port there (${main_address})
  --nj N                parallel jobs of the other stages (default: the number of cores)
  --prepare-args ARGS   further options of 'sqvae-speech prepare NAME' ($prepare_args)
  --shards-args ARGS    further options of 'sqvae-speech shards' ($shards_args)
END
}

# parse_options TEXTS COUNTS OPTION...: set the variables that the options name. TEXTS and COUNTS are the pipeline's own
# options in words, those that take a text and those that take a number.
parse_options() {
    local texts=" --recipe-dir --corpus-name --corpus --make-corpus --work-dir --exp-dir --tag --config --main-address \
--prepare-args --shards-args --lm-config --lm-args $1 "
    local counts=" --stage --stop-stage --ngpu --num-processes --num-machines --machine-rank --nj --num-samples $2 "
    local option value name
    shift 2
    while [ $# -gt 0 ]; do
        option=$1
        shift
        case $option in
            -h | --help) help=true; continue ;;
            --force) force=true; continue ;;
            --no-report) report=false; continue ;;
            --download) download=true; continue ;;
            --embedded) embedded=true; continue ;;
            --*=*) value=${option#*=} option=${option%%=*} ;;
            --*)
                [ $# -gt 0 ] || bad_option "$option needs a value, or is no option"
                value=$1
                shift
                ;;
            *) bad_option "cannot read '$option': options begin with --" ;;
        esac
        if [[ $counts == *" $option "* ]]; then
            is_count "$value" || bad_option "$option takes a whole number, not '$value'"
        elif [[ $option == --?*.?* ]]; then
            overrides+=("$option" "$value")
            continue
        elif [[ $texts != *" $option "* ]]; then
            bad_option "unknown option $option"
        fi
        name=${option#--}
        printf -v "${name//-/_}" '%s' "$value"
    done
    if $help; then
        print_help
        exit
    fi
}

# check_options LAST: LAST is the number of the pipeline's last stage.
check_options() {
    [ "$stage" -le "$stop_stage" ] || bad_option "--stage $stage comes after --stop-stage $stop_stage"
    [ "$stage" -le "$1" ] || bad_option "--stage $stage: the stages are 0 to $1"
    [ "$num_machines" -ge 1 ] || bad_option "--num-machines must be at least 1"
    [ "$machine_rank" -lt "$num_machines" ] ||
        bad_option "--machine-rank $machine_rank: with --num-machines $num_machines they are 0 to $((num_machines - 1))"
    [ "$num_machines" = 1 ] || [[ $main_address =~ ^[^:]+:[0-9]+$ ]] ||
        bad_option "--num-machines $num_machines needs --main-address HOST:PORT of machine 0"
    [ -n "$corpus_name" ] || bad_option "--corpus-name is needed (egs/<corpus>/run.sh gives it)"
    case " $prepare_args " in *" --download "*) download=true ;; esac
    if $download && [ -n "$make_corpus" ]; then bad_option "--download: the recipe makes its corpus itself"; fi
    if $download && $embedded; then bad_option "--download: the corpus comes with a package, nothing is fetched"; fi
    [ -n "$corpus$make_corpus" ] || $download || $embedded || [ "$stage" -gt 0 ] ||
        bad_option "stage 0 needs --corpus PATH, or --download"
    [ "$num_processes" -ge 1 ] || bad_option "--num-processes must be at least 1"
    [ "$num_samples" -ge 1 ] || bad_option "--num-samples must be at least 1"
    [[ $tag =~ ^[A-Za-z0-9._=-]*$ ]] || bad_option "--tag '$tag': letters, digits and . _ = - only"
}

# ---- folders and the environment

# find_config FILE: a configuration is looked for where the user stands, then in the recipe.
find_config() {
    if [ -f "$1" ]; then absolute "$1"; else absolute "$1" "$recipe_dir"; fi
}

# set_folders FEATURES: FEATURES names what the shards hold, where a corpus can be written to several kinds of shards.
set_folders() {
    local word
    recipe_dir=$(absolute "${recipe_dir:-.}")
    work_dir=$(absolute "${work_dir:-$recipe_dir}")
    [ -z "$corpus" ] || { corpus=$(absolute "$corpus") make_corpus=""; }
    if $download && [ -z "$corpus" ]; then corpus="$work_dir/downloads/$corpus_name"; fi
    config=$(find_config "$config")
    [ -f "$config" ] || die "no configuration $config"
    lm_config=$(find_config "$lm_config")
    if [ -z "$tag" ]; then
        tag=$(basename "$config" .yaml)${1:+_$1}
        for word in "${overrides[@]+"${overrides[@]}"}"; do tag+=_${word#--}; done
        tag=$(printf '%s' "$tag" | tr -c 'A-Za-z0-9._=-' '-' | sed -E 's/_(training|model|data)\./_/g')
        # a name may have 255 bytes
        if [ ${#tag} -gt 120 ]; then tag=${tag:0:100}_$(printf '%s' "$tag" | checksum); fi
    fi
    exp_dir=$(absolute "${exp_dir:-$work_dir/exp/$tag}")
    data_dir="$work_dir/data"
    dump_dir="$work_dir/dump${1:+/$1}"
    log_dir="$exp_dir/logs"

    if [ "$machine_rank" -gt 0 ]; then stage=2 stop_stage=2; fi

    source "$root/tools/activate.sh"
    [ -n "$nj" ] && [ "$nj" -gt 0 ] || nj=$(number_of_cores)
    gpus=$(number_of_gpus)
    [ -n "$ngpu" ] || ngpu=$((gpus > 0))
    [ "$ngpu" -le "$gpus" ] || die "--ngpu $ngpu, but this machine shows $gpus (--ngpu 0 uses the CPU)"
    [ "$ngpu" = 0 ] || [ "$num_processes" = 1 ] ||
        bad_option "--num-processes is for the CPU; --ngpu $ngpu starts $ngpu"
    if [ "$ngpu" = 0 ]; then export CUDA_VISIBLE_DEVICES="" ACCELERATE_USE_CPU=true; fi
    if ! [ -t 1 ]; then export TQDM_MININTERVAL=10; fi # a line of progress in the logs now and then, not ten a second
}

sqvae() { python -m sqvae_speech.bin.main "$@"; }
runs() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }

begin_recipe() {
    local message
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
}

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
# The splits to score.
held_out() { splits_in "$dump_dir" index.json | grep -v train || echo train; }

# ---- stage 0: data directories

# run_prepare_stage LIST OUTPUT...: LIST is the file that every data directory has, OUTPUT what else is written.
run_prepare_stage() {
    local made_of output outputs=("$data_dir"/{train,dev,test})
    data_list=$1
    shift
    for output in "$@"; do outputs+=("$data_dir/$output"); done
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
    elif $embedded; then
        made_of="comes with a package"
    else
        made_of=$(listing "$corpus")
    fi
    run_stage 0 "data directories" "$data_dir/.stage0" "version $version
corpus $corpus_name $corpus
$made_of
prepare-args $prepare_args" stage_prepare "${outputs[@]}" ${make_corpus:+"+$corpus"}
}

stage_prepare() {
    local split folders=() words=()
    if [ -n "$make_corpus" ]; then python "$make_corpus" "$corpus" --num-workers "$nj"; fi
    $embedded || words=(--corpus "$corpus")
    # shellcheck disable=SC2086  # further options are words
    sqvae prepare "$corpus_name" "${words[@]+"${words[@]}"}" --output "$data_dir" $prepare_args
    for split in $(splits_in "$data_dir" "$data_list"); do folders+=("$data_dir/$split"); done
    sqvae data validate "${folders[@]}"
}

# ---- stage 1: shards

# write_shards LIST OPTION...: write the shards of all splits, with these options of 'sqvae-speech shards'.
write_shards() {
    local list=$1 split
    shift
    for split in train dev test; do
        # also what an earlier corpus had and this one has not
        if $force || ! [ -e "$data_dir/$split/$list" ]; then rm -rf "${dump_dir:?}/$split"; fi
    done
    for split in $(splits_in "$data_dir" "$list"); do
        # shellcheck disable=SC2086
        sqvae shards "$data_dir/$split" "$dump_dir/$split" --num-workers "$nj" "$@" $shards_args
    done
}

# ---- stage 2: training

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
         { keep = !/^ +(num_steps|num_workers|[a-z]+_interval|keep_[a-z]+|num_plots|train|valid|[a-z]+_recordings|cache_gb|download_[a-z]+|trackers|tracker_project|collapse_[a-z]+):/ }
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
    rm -f "$exp_dir"/.stages/[3-9]
    say "$1; the earlier training is now $exp_dir.old-$number"
}

run_train_stage() {
    need_train "$dump_dir" index.json 1
    if [ "$machine_rank" -gt 0 ]; then # machine 0 looks after the experiment's folder
        train_options
        launch_training sqvae_speech.bin.train "${train_words[@]}" --exp-dir "$exp_dir"
        exit
    fi
    run_stage 2 training "$exp_dir/.stages/2" "version $version
$(lines "$dump_dir"/{train,dev}/index.json | contents)
$settings" stage_train "+$exp_dir/checkpoints/latest"
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

# ---- stages that use the model

# checkpoint_files FOLDER: the files that say which weights `--model FOLDER` means.
checkpoint_files() {
    local pointer
    for pointer in best latest; do
        echo "$1/checkpoints/$pointer"
        if [ -f "$1/checkpoints/$pointer" ]; then
            echo "$1/checkpoints/$(cat "$1/checkpoints/$pointer")/model.safetensors"
        fi
    done
}

# What these stages depend on, as $inputs.
find_model_inputs() {
    need_train "$dump_dir" index.json 1
    [ -e "$exp_dir/checkpoints/latest" ] || die "$exp_dir has no checkpoint; run stage 2 first (--stage 2)"
    inputs="version $version
$(checkpoint_files "$exp_dir" | contents)
$(lines "$dump_dir"/{train,dev,test}/index.json | contents)"
}

stage_encode() {
    local split
    for split in $(splits_in "$dump_dir" index.json); do
        sqvae encode --model "$exp_dir" --shards "$dump_dir/$split" --output "$exp_dir/units/$split.parquet"
    done
}

# score_splits OPTION...: scores of the splits that were not trained on.
score_splits() {
    local split words=()
    for split in $(held_out); do words+=("$dump_dir/$split"); done
    sqvae score --model "$exp_dir" --shards "${words[@]}" --output "$exp_dir/scores/scores.json" --plots "$exp_dir/scores" "$@"
}

# ---- a language model over the units, the prior of images

# find_unit_inputs CONFIG OPTION ARGS: what a model of units depends on, as $unit_inputs; OPTION is that of ARGS.
find_unit_inputs() {
    [ -f "$1" ] || die "no configuration $1"
    [ -e "$exp_dir/units/train.parquet" ] || die "$exp_dir/units has no units of train; run stage 3 first (--stage 3)"
    unit_inputs="version $version
$(lines "$exp_dir"/units/*.parquet | contents)
$2 $3
$(config_files "$1" | contents)"
}

# keep_training FOLDER INPUTS: keeps a training to go on with if it was begun with these inputs, else removes it.
keep_training() {
    if $force || { [ -e "$1/.made_of" ] && ! diff "$1/.made_of" - <<< "$2"; }; then rm -rf "$1"; fi
    mkdir -p "$1"
    printf '%s\n' "$2" > "$1/.made_of"
}

# train_lm FOLDER
train_lm() {
    local units="$exp_dir/units" words=() num_machines=1
    keep_training "$1" "$unit_inputs"
    if [ -e "$units/dev.parquet" ]; then words+=(--data.valid "$units/dev.parquet"); fi
    # shellcheck disable=SC2086  # further settings are words
    launch_training sqvae_speech.bin.train --config "$lm_config" --data.train "$units/train.parquet" \
        "${words[@]+"${words[@]}"}" $lm_args --exp-dir "$1"
}

# score_lm FOLDER: against simpler models, on the splits that were not trained on.
score_lm() {
    local split stores=()
    for split in $(held_out); do stores+=("$exp_dir/units/$split.parquet"); done
    sqvae lm score --model "$1" --train "$exp_dir/units/train.parquet" --units "${stores[@]}" --output "$1/scores.json"
}

# sample_lm FOLDER
sample_lm() {
    sqvae lm sample --model "$1" --tokenizer "$exp_dir" --number "$num_samples" --output "$1/samples"
}

# ---- the end

# write_report FUNCTION OPTION...: a page about the experiment, again only when what it shows has changed. FUNCTION makes
# what it shows besides the work of the stages, OPTIONs are of 'sqvae-speech report'. It fails no recipe.
write_report() {
    local marker="$exp_dir/.stages/report" shown prepare=$1
    shift
    if ! $report || ! [ -e "$exp_dir/checkpoints/latest" ]; then return 0; fi
    shown="version $version
options $*
$(checkpoint_files "$exp_dir" | contents)
$(lines "$exp_dir"/{status.json,scores/scores.json,evaluation.json,wav/log.jsonl,prior/samples/samples.png} | contents)"
    if [ -e "$exp_dir/report.html" ] && [ "$(cat "$marker" 2> /dev/null)" = "$shown" ]; then return 0; fi
    mkdir -p "$log_dir" "$(dirname "$marker")"
    say "writing the report (log: $log_dir/report.log)"
    # a page that lacks something says so, and how it is made
    if { "$prepare" || true; sqvae report "$exp_dir" "$@"; } > "$log_dir/report.log" 2>&1; then
        lines "$shown" > "$marker"
    else
        warn "the report could not be written; log: $log_dir/report.log"
    fi
}

# print_places: where everything is; lines 'what-it-is PATH' on standard input, those that are there.
print_places() {
    local what path
    say ""
    while read -r what path; do
        if [ -e "$path" ]; then printf '%-21s %s\n' "${what//-/ }" "$path"; fi
    done
}

print_table() { # print_table FILE, if it is there
    if [ -e "$1" ]; then
        say ""
        cat "$1"
    fi
}
