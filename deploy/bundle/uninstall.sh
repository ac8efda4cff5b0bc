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

here=$(dirname "$(realpath "$0")")
. "$here/share/ours.bash"

main() {  # read as a whole, for the file goes too
  local prefix purge= there= aside path
  prefix=$(prefix_here "$here") || prefix=/opt/tasuki
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
