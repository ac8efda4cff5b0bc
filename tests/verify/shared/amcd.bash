# AMCD by a server of its own, for files of tests/verify to source.

# amcd_version DIRECTORY SIZE BASE_STEPS STEPS: starts a server in DIRECTORY, uploads AMCD (exporting TRAIN,
# VALID and TEST), trains a base from random weights (amcd-base@1) and fine-tunes it (amcd@1). Leaves them in
# DIRECTORY/base and DIRECTORY/here, and the server running.
amcd_version() {
  local work=$1 column=(--text-column sentence --label-column is_counterfactual)
  export SIZE=${2^^} BASE_STEPS=$3 STEPS=$4
  mkdir -p "$work"
  start_server "$work" || return 1
  upload TRAIN "$data/amcd_train.tsv" "${column[@]}" && upload VALID "$data/amcd_valid.tsv" "${column[@]}" &&
    upload TEST "$data/amcd_test.tsv" "${column[@]}" &&
    tasuki job submit --file tests/verify/amcd-base.yaml --id base --wait &&
    tasuki job submit --file tests/verify/amcd.yaml --id amcd --wait &&
    tasuki model export amcd-base@1 "$work/base" && tasuki model export amcd@1 "$work/here"
}
