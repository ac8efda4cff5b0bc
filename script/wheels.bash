# Sourced by script/bootstrap and by install.sh of the release bundle; `fail` is the caller's.
# pip_download REQUIREMENTS DESTINATION fetches the wheels whose versions and hashes a file names,
# with the machine's own configuration of pip, for the Python they are made for and not the one here.

pip_download() {
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux2014_x86_64 --platform any -r "$1" -d "$2" \
    || fail "pip could not download what $1 names."
}
