# Numbers that can be trusted: what is computed here against what others compute. Sourced by script/verify.
. tests/verify/shared/amcd.bash

built() { cmake --preset release >/dev/null && cmake --build build/release; }

parity() {  # parity SIZE: of model, loss, gradients and AdamW; the largest differences of all variants
  local directory=tests/model/training/golden
  if [ "$1" = base ]; then
    directory=$out/parity; rm -rf "$directory"
    "$python" tests/oracles/parity.py --size base --out "$directory" || return 1
  fi
  TASUKI_PARITY_DIR=$(realpath "$directory") build/release/model_training_test --gtest_filter='*Parity*' | tee "$out/parity-$1.txt"
  local status=${PIPESTATUS[0]}
  [ "$1" = base ] && rm -rf "$directory"
  awk 'function most(name, value) { if (value + 0 > m[name]) { m[name] = value + 0; of[name] = $1 } }
       /logits differ by/ { n++; most("logits", $5); most("loss", $8) } /gradients differ/ { most("gradients", $5) }
       /losses of ten/ { most("ten losses", $8); most("ten updates", $11) }
       END { printf "%d variants, largest differences: logits %.2g, loss %.2g, gradients %.2g of the largest, ten losses %.2g, weights %.2g of what they moved (%s)\n",
             n, m["logits"], m["loss"], m["gradients"], m["ten losses"], m["ten updates"], substr(of["ten updates"], 1, length(of["ten updates"]) - 1); exit n < 4 }' "$out/parity-$1.txt" && return "$status"
}

figures_of_scikit_learn() {
  "$python" tests/oracles/figures.py --count 1000 >"$out/figures.jsonl" || return 1
  TASUKI_FIGURES=$out/figures.jsonl build/release/model_text_test --gtest_filter='Figures.*' | tee "$out/figures.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep 'largest difference' "$out/figures.txt"
}

weighted_loss() {  # a worked example; that weights of one give transformers' loss is in the parity line
  build/release/model_training_test --gtest_filter='Backward.*' | tee "$out/loss.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep '\[  PASSED  \]' "$out/loss.txt"
}

resumes() {
  TASUKI_KILLS=$([ -n "$full" ] && echo 200 || echo 20) build/release/server_trainer_test --gtest_filter='Resume*' | tee "$out/resume.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep 'the same bytes' "$out/resume.txt"
}

# amcd_models SIZE BASE_STEPS STEPS: a base, a version fine-tuned here from it, one with an adapter, one by
# transformers; with their answers to AMCD's test rows. Left in $out/amcd-SIZE for the lines below.
amcd_models() {
  local work=$out/amcd-$1 status=1
  amcd_version "$work" "$@" &&
    tasuki job submit --file tests/verify/amcd-lora.yaml --id lora --wait &&
    tasuki --output json job get amcd >"$work/job.json" &&
    tasuki model export amcd-lora@1 "$work/lora" && tasuki model export amcd-lora@1 --adapter "$work/adapter" &&
    tasuki model evaluate amcd@1 --task amcd --dataset "$TEST" --id here --predictions "$work/here.jsonl" &&
    "$python" tests/oracles/fine_tune.py "$work/base" "$data/amcd_train.tsv" "$work/there" --text sentence --label is_counterfactual --steps "$STEPS" &&
    tasuki model import "$work/there" --model there &&
    tasuki job submit --file tests/verify/amcd-evaluation.yaml --set VERSION=there@1 --id there --wait &&
    tasuki job predictions there "$work/there.jsonl" && status=0
  cp "$work/data/datasets/${TRAIN#datasets/}.jsonl" "$work/train.jsonl" || status=1
  stop_server || status=1
  echo "a base of $BASE_STEPS steps from random weights, $STEPS steps on AMCD each; $(wc -l <"$work/here.jsonl") and $(wc -l <"$work/there.jsonl") answers"
  return $status
}

# same_labels SIZE here|there: transformers' answers from its logits, and ours. 150 steps do not teach a base-sized
# model of random weights: it says one label, and what is compared is that, and all probabilities.
same_labels() {
  local work=$out/amcd-$1 one=
  [ "$1" = base ] && one=--one-label
  echo '{"tasks": [{"name": "amcd", "labels": [{"name": "0"}, {"name": "1"}]}]}' >"$work/tasks.json"
  "$python" tests/oracles/scores.py "$work/$2" "$work/tasks.json" "$data/amcd_test.tsv" "$work/$2.jsonl" --task amcd --text sentence $one
}

loss_of_100_steps() {  # loss_of_100_steps SIZE
  local work=$out/amcd-$1
  build/release/loss_curve "$work/base" "$work/train.jsonl" 100 "$work/curve.safetensors" &&
    "$python" tests/oracles/loss_curve.py "$work/base" "$work/curve.safetensors"
}

adapter() {  # adapter SIZE
  local work=$out/amcd-$1
  build/release/version_logits "$work/lora" "$work/train.jsonl" 64 "$work/lora.safetensors" &&
    "$python" tests/oracles/lora.py "$work/base" "$work/adapter" "$work/lora" "$work/lora.safetensors"
}

calibration() {
  python3 - "$out/amcd-mini/job.json" <<'PY'
import json, sys
(c,) = json.load(open(sys.argv[1]))["calibrations"]
before, after = c["before"], c["after"]
print(f"T {c['temperature']:.3f}: validation NLL {c['valid_nll_before']:.4f} to {c['valid_nll_after']:.4f}; test " +
      ", ".join(f"{name.upper()} {before[name]:.4f} to {after[name]:.4f}" for name in ("nll", "ece", "brier")))
sys.exit(not c["calibrated"] or c["valid_nll_after"] > c["valid_nll_before"])
PY
}

amcd() {  # amcd SIZE BASE_STEPS STEPS
  check "AMCD at size $1: trained here, with an adapter too, and by transformers and imported" amcd_models "$@"
  check "AMCD at size $1: trained here, transformers' scores give the same labels on all test rows" same_labels "$1" here
  check "AMCD at size $1: trained by transformers, ours give the same labels" same_labels "$1" there
  check "AMCD at size $1: loss of 100 steps from the same weights within 1e-3 of transformers'" loss_of_100_steps "$1"
  check "AMCD at size $1: peft loads our LoRA export and gives the same logits" adapter "$1"
}

catalogue() {  # rows of the catalogue of failures about checkpoints and model files
  tests_named '^(Safetensors|ModelDirectory|Checkpoints?|ReadWeights|T5Config|Classifier|Durable|Manifest)' 40
}

converts() {  # pickled weights to safetensors, as transformers writes and reads them
  "$python" tests/client/python/convert_test.py 2>&1 | tee "$out/convert.txt"
  grep -q '^OK$' "$out/convert.txt" && grep '^Ran ' "$out/convert.txt"
}

tokens() {  # ids of our tokenizer, of SentencePiece and of transformers on all real rows and a torture list
  [ -f "$data/amcd_train.tsv" ] || { echo "no data in $data"; return 1; }
  "$python" tests/oracles/tokens.py --token-ids build/release/token_ids --data "$data" --work "$out/tokens"
}

dataset_tests() {  # rows of the catalogue of failures about datasets and tokenizers
  tests_named '^(Table/RowParser|RowParser|ReadExamples|CanonicalLine|DatasetReport|DatasetsTest|JobCheck|Tokenizer|TrainTokenizer|LabelTrie|Estimate)' 60
}

check "everything is built" built
check "parity with transformers: logits 1e-4, loss 1e-5, gradients 1e-4, ten AdamW steps (tiny)" parity tiny
check "figures equal scikit-learn's to 1e-12 on 1,000 random answers" figures_of_scikit_learn
check "the weighted multi-task loss equals a worked example" weighted_loss
check "kills at random steps end with the same bytes" resumes
if [ -f "$data/amcd_train.tsv" ]; then
  check "token ids equal SentencePiece's and transformers' on AMCD, MARC and the torture list" tokens
  amcd mini 174 350
  check "calibration on AMCD: validation NLL not above T = 1's" calibration
  [ -n "$full" ] && amcd base 20 150
else
  line 1 "AMCD" "no data in $data"
fi
check "pickled weights become safetensors that transformers opens; what runs code is refused" converts
check "datasets, reports, estimates and tokenizers: bad input ends as documented" dataset_tests
check "checkpoints and model files: bad ones end as documented" catalogue
if [ -n "$full" ]; then check "parity with transformers at size base" parity base; fi
