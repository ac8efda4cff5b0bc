# Fast, measured against the machine and against what others use: at t5-base size on 2 cores. Sourced
# by script/verify. Ours and the peers have their turns on this machine, two or three rounds of them;
# what is compared are medians of ratios within a round. Nothing else may run meanwhile.

# measure WHAT ROUNDS
measure() { script/bench --fast --rounds "$2" --data "$data" --only "$1" --out "$out/$1.json" && echo "$2 rounds, in turns"; }

of() { local part=$1; shift; "$python" tests/verify/fast.py "$out/$part.json" "$@"; }

calm() {  # p99 of one-text calls, 20 ms after each answer, beside a job that trains, over that of an idle server
  build/release/bin/bench-latency build/bench/base/model "$data/amcd_train.tsv" build/bench/base/amcd.txt --rounds 3 --gap 20 >"$out/latency.json" || return 1
  python3 - "$out/latency.json" <<'PY'
import json, sys
figures = json.loads(open(sys.argv[1]).read().splitlines()[-1])
print(f"p99 {figures['p99_ratio']:.2f}, p50 {figures['p50_ratio']:.2f} of the idle server's, with {figures['trainer_cores']} cores for the trainer")
sys.exit(figures["p99_ratio"] > 1.5 or figures["trainer_cores"] < .2)
PY
}

growth() {  # growth rows|jobs|watchers: says itself what must hold
  "$python" bench/growth.py --only "$1" --check >"$out/growth-$1.jsonl"
  local status=$?
  tail -n 1 "$out/growth-$1.jsonl"
  return $status
}

readme() {  # how to repeat it and how to read it
  local word
  for word in '^## The machine' '^## Commands' '^## Techniques' '^## How to read it'; do
    grep -q "$word" bench/README.md || { echo "bench/README.md has no section $word"; return 1; }
  done
  echo "machine, commands, techniques, how to read it"
}

check "everything is built" cmake --build build/release
check "classification, ours and peers" measure classify 2
check "bulk classification in fp32 reaches 85 % of the machine's peak" of classify share fp32 .85
check "bulk classification in bf16 reaches 80 % of the machine's peak" of classify share bf16 .80
check "bulk classification in int8 reaches 70 % of the machine's peak" of classify share int8 .70
check "bulk against the best peer in fp32" of classify bulk fp32 1.9 1.55
check "bulk against the best peer in bf16" of classify bulk bf16 1.65 1.55
check "bulk against the best peer in int8" of classify bulk int8 1.9 2.9
check "one text at a time against the best peer in fp32" of classify alone fp32 2.3 2.3
check "one text at a time against the best peer in bf16" of classify alone bf16 2.5 2.5
check "one text at a time against the best peer in int8" of classify alone int8 4 3
check "classification through a server" measure serve 2
check "16 callers of 32 texts through gRPC reach 90 % of bulk in one process" of serve served .9
check "training, ours and transformers" measure train 3
check "a step of 8 in fp32 against transformers" of train step fp32 longest=2.3 grouped=1.85 limit=33
check "a step of 8 in bf16 against transformers' autocast" of train step bf16 longest=2.0 grouped=1.8
check "a step without the optimizer reaches 70 % of the peak in fp32" of train step-share .70
check "memory of a step of 8 above weights, gradients and moments" of train memory .3
check "one text a call while a job trains: p99 within 1.5 times the idle server's" calm
check "growth with rows: a row costs the same of a thousand and of a million, in bounded memory" growth rows
check "growth with jobs: a page of 100,000 jobs within 50 ms" growth jobs
check "growth with watchers: 1,000 of one job lose nothing" growth watchers
. tests/verify/gate.bash
check "bench/README.md says how to repeat it and how to read it" readme
