# Models that are made in seconds. Sourced by files of tests/verify.

# small_models DIRECTORY: on the server, a base that has learnt nothing, mood@1 and mood@2 (one task) and
# reviews@1 (two tasks), in seconds.
small_models() {
  python3 - "$1" <<'PY' || return 1
import json, sys
things = "カメラ 椅子 本 鞄 時計 靴 傘 机".split()
rows = {
    "mood": [(f"{day}日前に届いた{thing}は{end}", label) for thing in things for day in range(1, 4)
             for end, label in (("最高です。", "positive"), ("普通です。", "neutral"), ("壊れていました。", "negative"))],
    "counterfactual": [(f"{price}000円の{thing}{end}", label) for thing in things for price in range(1, 5)
                       for end, label in (("がもっと軽ければ買ったのに。", "1"), ("は軽いので買いました。", "0"))],
}
for name, pairs in rows.items():
    with open(f"{sys.argv[1]}/{name}.jsonl", "w", encoding="utf-8") as file:
        for text, label in pairs:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
PY
  local job SEED=0
  export SEED
  upload MOOD "$1/mood.jsonl" && upload COUNTERFACTUAL "$1/counterfactual.jsonl" || return 1
  for job in base mood mood reviews; do
    SEED=$((SEED + 1))  # another each time: no two versions are the same
    tasuki job submit --file "tests/verify/serving-$job.yaml" --wait || return 1
  done
}
