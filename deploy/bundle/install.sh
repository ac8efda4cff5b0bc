#!/usr/bin/env bash
# Installs Tasuki from the bundle it lies in, upgrades what is there, or goes back to its version.
#
# usage: install.sh [--prefix DIR] [--libtorch DIR] [--system]
#   --prefix DIR    where to (default: the prefix it lies in if that is installed, else /opt/tasuki)
#   --libtorch DIR  takes LibTorch from there (the libtorch-… of another prefix or of script/bootstrap's
#                   cache), not from the package index: no network is needed
#   --system        also the user tasuki, tasukid.service, /etc/tasuki/tasukid.conf and
#                   /usr/local/bin/tasuki; as root. An upgrade of such an installation does it unasked
#
# PREFIX/current is the version in use, PREFIX/previous the one before; others are removed. Programs that
# run go on with theirs until they are restarted. Safe to call again: what is there is left alone.
set -euo pipefail
umask 022
here=$(dirname "$(realpath "$0")")
say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

. "$here/share/ours.bash"

prefix=$(prefix_here "$here") || prefix=/opt/tasuki
libtorch_from=; system=
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:-}; shift 2 || fail "--prefix needs a directory" ;;
    --libtorch) libtorch_from=${2:-}; shift 2 || fail "--libtorch needs a directory" ;;
    --system) system=1; shift ;;
    -h|--help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown argument $1; see install.sh --help" ;;
  esac
done
[ -n "$prefix" ] || fail "--prefix is empty; name a directory"
prefix=$(realpath -m "$prefix")
service=/etc/systemd/system/tasukid.service
if grep -qsF "ExecStart=$prefix/current/" "$service"; then system=1; fi

# ---- Before anything is written ----
release() { awk -v key="$1" '$1 == key { print $2 }' "$here/RELEASE"; }
[ "$(uname -sm)" = "Linux x86_64" ] || fail "this is $(uname -sm); the bundle is for Linux x86_64."
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || fail "this system has no glibc."
printf '%s\n' "$(release glibc)" "${glibc#glibc }" | sort -C -V || fail "this system has $glibc; the bundle needs $(release glibc) or newer (Debian 12)."
intact() { [ -f "$1/SHA256SUMS" ] && (cd "$1" && sha256sum --quiet --strict -c SHA256SUMS) >/dev/null 2>&1; }
intact "$here" || fail "a file of this bundle is missing or changed (sha256sum -c SHA256SUMS in $here names it); unpack it again."
if [ -n "$system" ]; then
  [ "$(id -u)" = 0 ] || fail "--system needs root."
  command -v systemd-sysusers >/dev/null || fail "--system needs systemd, which is not here; leave it out and start tasukid by other means."
  [[ $prefix =~ ^[A-Za-z0-9/._-]+$ ]] || fail "--system needs a prefix without blanks and special characters, not $prefix."
fi
for link in current previous; do
  [ ! -e "$prefix/$link" ] || [ -L "$prefix/$link" ] || fail "$prefix/$link is not a link that install.sh made; move it away first."
done
if [ -n "$(ls -A "$prefix" 2>/dev/null)" ] && ! is_installed "$prefix" && ! is_begun "$prefix"; then
  fail "$prefix has other things in it; name a new directory, or an earlier installation."
fi
locked=
lock() { exec 9>"$prefix/lock"; flock -n 9 || fail "another install.sh or uninstall.sh works on $prefix."; locked=1; }
[ ! -e "$prefix/lock" ] || lock
need_mb() {  # need_mb MEGABYTES WHAT
  local at=$prefix free
  until [ -e "$at" ]; do at=$(dirname "$at"); done
  free=$(df -Pm "$at" | awk 'NR==2 {print $4}')
  [ "$free" -ge "$1" ] || fail "$2 needs $1 MB in $prefix, which has $free MB free."
}
# LibTorch: what the programs need of it, checked by the sums of the files they were linked with.
libtorch=libtorch-$(release libtorch)
complete() { [ -d "$1" ] && (cd "$1" && sha256sum --quiet --strict -c "$here/share/libtorch.sha256") >/dev/null 2>&1; }
libtorch_missing=
if ! complete "$prefix/$libtorch"; then
  libtorch_missing=1
  if [ -n "$libtorch_from" ]; then
    while read -r _ file; do
      [ -f "$libtorch_from/$file" ] || fail "there is no LibTorch in $libtorch_from."
    done <"$here/share/libtorch.sha256"
    complete "$libtorch_from" || fail "$libtorch_from is not the LibTorch $(release libtorch) that this bundle was built with."
    need_mb 600 "LibTorch"
  else
    python3 -m pip --version >/dev/null 2>&1 || fail "fetching LibTorch needs pip (apt-get install python3-pip); or name a directory that has it: --libtorch DIR"
    need_mb 2000 "fetching LibTorch"
  fi
fi
version=$(release tasuki)-$(sha256sum "$here/SHA256SUMS" | cut -c1-8)
installed=$prefix/versions/$version
version_missing=
if ! intact "$installed"; then version_missing=1; need_mb 200 "Tasuki"; fi

mkdir -p "$prefix"
[ -n "$locked" ] || lock
mkdir -p "$prefix/versions"
aside=$(mktemp -d "$prefix/tasuki-aside.XXXXXX"); trap 'rm -rf "$aside"' EXIT
chmod 755 "$aside"

# ---- LibTorch ----
if [ -n "$libtorch_missing" ]; then
  mkdir "$aside/libtorch"
  if [ -n "$libtorch_from" ]; then
    say "copying LibTorch from $libtorch_from"
    while read -r _ file; do
      mkdir -p "$aside/libtorch/$(dirname "$file")"
      cp -L "$libtorch_from/$file" "$aside/libtorch/$file"
    done <"$here/share/libtorch.sha256"
  else
    say "fetching LibTorch $(release libtorch) (530 MB)"
    . "$here/share/wheels.bash"
    export TMPDIR=$aside PIP_NO_CACHE_DIR=1
    pip_download "$here/share/libtorch.txt" "$aside/wheels"
    python3 - "$aside" "$here/share/libtorch.sha256" <<'PY'
import pathlib, sys, zipfile
aside, wanted = pathlib.Path(sys.argv[1]), {line.split()[1] for line in open(sys.argv[2])}
for wheel in (aside / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in wanted & set(archive.namelist()):
            archive.extract(name, aside / "libtorch")
PY
    unset TMPDIR
    complete "$aside/libtorch" || fail "the LibTorch that was fetched is not the one that this bundle was built with."
  fi
  rm -rf "${prefix:?}/$libtorch"
  mv -T "$aside/libtorch" "$prefix/$libtorch"
fi

# ---- The version, made aside, tried, and renamed ----
if [ -n "$version_missing" ]; then
  mkdir "$aside/version"
  tar -C "$here" -cf - --files-from=<(cut -c67- "$here/SHA256SUMS") SHA256SUMS | tar -C "$aside/version" -xf - --no-same-owner
  ln -s "../../$libtorch" "$aside/version/libtorch"
  for program in "$aside"/version/bin/*; do
    missing=$(ldd -r "$program" 2>&1 | grep -E 'not found|undefined symbol|not a dynamic' || true)
    [ -z "$missing" ] || fail "${program##*/} does not find what it needs: $missing"
  done
  "$aside/version/bin/tasukid" --version >/dev/null || fail "tasukid does not run in $prefix; is it mounted noexec?"
  rm -rf "$installed"
  mv -T "$aside/version" "$installed"
fi

# ---- The change itself: one rename ----
point() { ln -sfn "$2" "$prefix/$1.new" && mv -T "$prefix/$1.new" "$prefix/$1"; }  # point NAME TARGET
before=$(readlink "$prefix/current" || true)
if [ "$before" = "versions/$version" ]; then
  say "$version is current already"
else
  [ -z "$before" ] || point previous "$before"
  point current "versions/$version"
  say "$version is current${before:+, ${before#versions/} previous}"
fi

# ---- What is neither, and runs nowhere, goes ----
running=$(readlink /proc/[0-9]*/exe 2>/dev/null || true)
for directory in "$prefix"/versions/*; do
  is_version "$directory" || continue
  case versions/${directory##*/} in "$(readlink "$prefix/current")"|"$(readlink "$prefix/previous" || true)") continue ;; esac
  if [[ $'\n'$running == *$'\n'"$directory/"* ]]; then say "${directory##*/} still runs and is kept"; continue; fi
  mv -T "$directory" "$aside/old"; rm -rf "$aside/old"; say "removed ${directory##*/}"  # at once, or it is half of ours
done
links=$(readlink "$prefix"/versions/*/libtorch || true)
for directory in "$prefix"/libtorch-*; do
  is_libtorch "$directory" || continue
  grep -xF "../../${directory##*/}" <<<"$links" >/dev/null || { rm -rf "$directory"; say "removed ${directory##*/}"; }
done

# ---- The service ----
upgraded() { [ ! -e "$prefix/previous" ] || echo "; after an upgrade$1"; }  # upgraded TEXT: this, if there was one
if [ -n "$system" ]; then
  share=$prefix/current/share
  install -D -m 644 "$share/sysusers.conf" /etc/sysusers.d/tasuki.conf
  systemd-sysusers /etc/sysusers.d/tasuki.conf
  [ -e /etc/tasuki/tasukid.conf ] || install -D -m 640 -g tasuki "$share/tasukid.conf" /etc/tasuki/tasukid.conf
  mkdir -p "${service%/*}"
  sed "s|@PREFIX@|$prefix|" "$share/tasukid.service" >"$service.new"
  mv "$service.new" "$service"
  if [ -e /usr/local/bin/tasuki ] && [ ! -L /usr/local/bin/tasuki ]; then
    say "/usr/local/bin/tasuki is another program and stays"
  else
    ln -sfn "$prefix/current/bin/tasuki" /usr/local/bin/tasuki
  fi
  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
  say "to start it, now and with the machine: systemctl enable --now tasukid$(upgraded ": systemctl restart tasukid")"
else
  say "to start it: $prefix/current/bin/tasukid --data_dir=DIR$(upgraded ", stop the one that runs first")"
fi
