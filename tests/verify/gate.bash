# The same answers in every precision and every batch. Sourced by script/verify.
. tests/verify/shared/amcd.bash

amcd_mini() {  # leaves $out/amcd-mini: here (the version) and rows.jsonl, AMCD's 7,000 rows, those of the test first
  local work=$out/amcd-mini status=0
  amcd_version "$work" mini 174 350 || status=1
  cat "$work/data/$TEST.jsonl" "$work/data/$VALID.jsonl" "$work/data/$TRAIN.jsonl" >"$work/rows.jsonl" || status=1
  stop_server || status=1
  echo "a base of $BASE_STEPS steps from random weights, $STEPS steps on AMCD; $(wc -l <"$work/rows.jsonl") rows"
  return $status
}

gate() { build/release/bin/bench-gate labels "$out/amcd-mini/here" amcd "$out/amcd-mini/rows.jsonl" --scores "$out/amcd-mini/scores.jsonl"; }

scores_of_transformers() {  # of AMCD's test and valid rows, a text at a time: threads would only wait for each other
  local work=$out/amcd-mini
  OMP_NUM_THREADS=1 "$python" tests/oracles/scores.py "$work/here" "$work/here/tasuki.json" "$work/rows.jsonl" "$work/scores.jsonl" --task amcd --text text --rows 1400 |
    tee "$out/scores.txt"
  local status=${PIPESTATUS[0]}
  [ "$(grep -c 'log p differs' "$out/scores.txt")" = 3 ] && sed -n 's/log p differs by //p' "$out/scores.txt" | paste -sd ';' && return "$status"
}

scorer_parity() {  # scorer_parity DIRECTORY: of goldens; the largest difference in each precision, as a share of the logits' spread
  TASUKI_PARITY_DIR=$(realpath "$1") build/release/model_t5_test --gtest_filter='*ScorerParity*' | tee "$out/scorer-parity.txt"
  local status=${PIPESTATUS[0]}
  awk '/largest difference of a branch/ { n++; p = $1 ~ /Bf16$/ ? "bf16" : $1 ~ /Int8$/ ? "int8" : "fp32"; share = $0; sub(/.*, /, "", share); if (share + 0 > m[p]) m[p] = share + 0 }
       END { printf "%d ways and variants, largest difference of a branch as a share of the spread of logits: fp32 %.2g, bf16 %.2g, int8 %.2g\n", n, m["fp32"], m["bf16"], m["int8"]; exit n < 8 }' \
    "$out/scorer-parity.txt" && return "$status"
}

batches_at_base_size() {
  [ -f build/bench/base/model/model.safetensors ] || "$python" bench/model.py "$data" build/bench/base || return 1
  build/release/bin/bench-gate batches build/bench/base/model "$out/amcd-mini/rows.jsonl" 50
}

check "scores against transformers' logits, tiny: 1e-5, bf16 .05, int8 .25 of the spread" scorer_parity tests/model/training/golden
check "a mini trained on AMCD" amcd_mini
check "AMCD's 7,000 rows: macro F1 > .6; bf16 changes .3 % of labels and .005, int8 1 % and .015 at most" gate
check "log p against transformers' on 1,400 rows: 1e-4, bf16 .03, int8 .1 of the spread" scores_of_transformers
check "1,000 random batches on that mini: each text's bits as alone, fp32, bf16, int8" \
  build/release/bin/bench-gate batches "$out/amcd-mini/here" "$out/amcd-mini/rows.jsonl" 1000
check "50 random batches at base size: each text's bits as alone, fp32, bf16, int8" batches_at_base_size
