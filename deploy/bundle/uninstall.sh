#!/usr/bin/env bash
# Removes what install.sh installed.
#
# usage: uninstall.sh [--prefix DIR] [--purge]
#   --prefix DIR  what install.sh was given (default: the prefix it lies in, else /opt/tasuki)
#   --purge       also /var/lib/tasuki, /etc/tasuki and the user tasuki: all datasets, jobs and models of
#                 the service. Other data directories are never touched
set -euo pipefail
say() { echo "uninstall: $*"; }
fail() { echo "uninstall: $*" >&2; exit 1; }

# Only what these know as ours is ever taken for an installation, or removed.
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

main() {  # read as a whole, for the file goes too
  local prefix purge= there= aside path
  prefix=$(prefix_here "$(dirname "$(realpath "$0")")") || prefix=/opt/tasuki
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix) prefix=${2:-}; shift 2 || fail "--prefix needs a directory" ;;
      --purge) purge=1; shift ;;
      -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
      *) fail "unknown argument $1; see uninstall.sh --help" ;;
    esac
  done
  [ -n "$prefix" ] || fail "--prefix is empty; name a directory"
  prefix=$(realpath -m "$prefix")
  local service=/etc/systemd/system/tasukid.service ours=
  if grep -qsF "ExecStart=$prefix/current/" "$service"; then ours=1; fi
  if is_installed "$prefix" || is_begun "$prefix"; then there=1; fi
  [ -n "$there$purge" ] || fail "there is no installation in $prefix."
  [ -z "$ours$purge" ] || [ "$(id -u)" = 0 ] || fail "a service, and --purge, need root."

  if [ -n "$there" ]; then
    exec 9>"$prefix/lock"
    flock -n 9 || fail "another install.sh or uninstall.sh works on $prefix."
  fi
  if [ -n "$ours" ] && [ -d /run/systemd/system ]; then systemctl disable --now tasukid; fi
  if [[ $'\n'$(readlink /proc/[0-9]*/exe 2>/dev/null || true) == *$'\n'"$prefix/"* ]]; then fail "a program of $prefix runs; stop it first."; fi
  if [ -n "$ours" ]; then
    rm -f "$service" /etc/sysusers.d/tasuki.conf
    case $(readlink /usr/local/bin/tasuki || true) in "$prefix"/*) rm /usr/local/bin/tasuki ;; esac
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
  fi
  if [ -n "$there" ]; then
    aside=$(mktemp -d "$prefix/tasuki-aside.XXXXXX")
    for path in "$prefix"/versions/*; do if is_version "$path"; then mv "$path" "$aside/"; fi; done
    for path in "$prefix"/libtorch-*; do if is_libtorch "$path"; then mv "$path" "$aside/"; fi; done
    for path in "$prefix"/{current,previous}{,.new}; do if [ -L "$path" ]; then rm "$path"; fi; done
    rm -rf "$prefix"/tasuki-aside.??????
    if [ -d "$prefix/versions" ]; then rmdir --ignore-fail-on-non-empty "$prefix/versions"; fi
    rm -f "$prefix/lock"
    rmdir "$prefix" 2>/dev/null || say "$prefix has other things in it and stays"
  fi
  if [ -n "$purge" ]; then
    [ ! -e "$service" ] || fail "$service belongs to another prefix; uninstall that first."
    rm -rf /var/lib/tasuki /etc/tasuki
    if getent passwd tasuki >/dev/null; then userdel tasuki; fi
    say "Tasuki, its data and its configuration are gone"
  else
    say "Tasuki is gone; its data and its configuration stay"
  fi
  exit 0
}
main "$@"
