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

main() {  # read as a whole, for the file goes too
  local here prefix=/opt/tasuki purge=
  here=$(dirname "$(realpath "$0")")
  case $here in */versions/*) prefix=${here%/versions/*} ;; esac
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
  [ -d "$prefix/versions" ] || [ -n "$purge" ] || fail "there is no installation in $prefix."
  [ -z "$ours$purge" ] || [ "$(id -u)" = 0 ] || fail "a service, and --purge, need root."

  if [ -d "$prefix/versions" ]; then
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
  if [ -d "$prefix/versions" ]; then
    rm -rf "$prefix"/current "$prefix"/previous "$prefix"/versions "$prefix"/libtorch-* "$prefix"/aside.* "$prefix/lock"
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
