# Numbers that can be trusted: what is computed here against what others compute. Sourced by script/verify.

tokens() {  # ids of our tokenizer, of SentencePiece and of transformers on all real rows and a torture list
  [ -f "$data/amcd_train.tsv" ] || { echo "no data in $data"; return 1; }
  cmake --build build/release --target token_ids tasuki-tokenizer-trainer || return 1
  "$python" tests/oracles/tokens.py --token-ids build/release/token_ids --data "$data" --work "$out/tokens"
}

dataset_tests() {  # rows of the catalogue of failures about datasets and tokenizers
  local regex='^(Table/RowParser|RowParser|ReadExamples|CanonicalLine|DatasetReport|DatasetsTest|JobCheck|Tokenizer|TrainTokenizer|LabelTrie|Estimate)'
  ctest --test-dir build/release --output-on-failure -R "$regex" || return 1
  ctest --test-dir build/release -N -R "$regex" | sed -n 's/^Total Tests: \(.*\)/\1 tests passed/p'
}

check "token ids equal SentencePiece's and transformers' on AMCD, MARC and the torture list" tokens
check "datasets, reports, estimates and tokenizers: bad input ends as documented" dataset_tests
