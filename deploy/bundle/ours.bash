# What install.sh and uninstall.sh, which source this, know as theirs: only that is ever taken for an installation, or
# removed.
is_version() {  # is_version DIRECTORY: a version that install.sh made, by its name and its RELEASE
  [[ ${1##*/} =~ ^(.+)-[0-9a-f]{8}$ ]] && [ "$(awk '$1 == "tasuki" { print $2 }' "$1/RELEASE" 2>/dev/null)" = "${BASH_REMATCH[1]}" ]
}
is_libtorch() { [[ ${1##*/} =~ ^libtorch-[0-9]+(\.[0-9]+)+$ ]]; }
is_installed() {  # is_installed PREFIX
  local link target
  [ -f "$1/lock" ] || return 1
  for link in current previous; do
    target=$(readlink "$1/$link") || continue
    if [[ $target =~ ^versions/[^/]+$ ]] && is_version "$1/$target"; then return 0; fi
  done
  return 1
}
is_begun() {  # is_begun PREFIX: an installation or a removal that was cut short, and nothing else
  local path
  [ -f "$1/lock" ] || return 1
  for path in "$1"/* "$1"/.[!.]* "$1"/versions/* "$1"/versions/.[!.]*; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    case ${path#"$1"/} in
      lock|versions|tasuki-aside.??????) ;;
      current|previous|current.new|previous.new) [[ $(readlink "$path") =~ ^versions/[^/]+-[0-9a-f]{8}$ ]] || return 1 ;;
      libtorch-*) is_libtorch "$path" || return 1 ;;
      versions/*) is_version "$path" || return 1 ;;
      *) return 1 ;;
    esac
  done
}
prefix_here() {  # prefix_here DIRECTORY: the installation that it is a version of, if it is one
  local prefix=${1%/versions/*}
  [ "$1" = "$prefix/versions/${1##*/}" ] && is_version "$1" && is_installed "$prefix" && echo "$prefix"
}
