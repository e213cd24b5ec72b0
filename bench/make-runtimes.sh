#!/usr/bin/env bash
# Builds a Platform and a Sdk in two versions out of the machine's Debian packages and exports each version into a
# repository of its own, as a CI worker would have it:
#
#   bench/make-runtimes.sh OUT [full|small]
#
#   OUT/repo-1   OUT/repo-2
#
# Version 1 takes the oldest, version 2 the newest package that the configured sources offer: what differs is a real week
# of updates. `full` downloads 1.2 GB, needs 20 GB of disk and two cores for five minutes of `flatpak build-export`.
set -euo pipefail
for program in flatpak dpkg-deb apt-get; do
  command -v "$program" >/dev/null || { echo "$program is missing" >&2; exit 1; }
done
out=$(realpath -m "${1:?OUT is missing}"); size=${2:-full}
platform=(libglib2.0-0 python3-minimal openssl curl libxml2)
sdk=(libglib2.0-dev libssl-dev linux-libc-dev git)
if [ "$size" = full ]; then
  platform=(libgtk-4-1 libgtk-3-0 libwebkit2gtk-4.1-0 gstreamer1.0-plugins-{base,good,bad} libavcodec59 python3
    mesa-vulkan-drivers libgl1-mesa-dri adwaita-icon-theme fonts-dejavu locales openssl curl)
  sdk=(build-essential clang-14 cmake meson libgtk-4-dev libwebkit2gtk-4.1-dev git valac gdb linux-libc-dev libssl-dev)
fi
mkdir -p "$out/debs" && cd "$out"

with_dependencies() {
  apt-cache depends --recurse --no-{recommends,suggests,conflicts,breaks,replaces,enhances} "$@" |
    grep -E '^[a-z0-9][^:]*$' | sort -u
}
versions_of() { # newest|oldest, package...: a line with package and version for each that is on offer
  local which=$1; shift
  apt-cache madison "$@" | awk -v which="$which" '
    !($1 in found) { order[++count] = $1 }
    !($1 in found) || which == "oldest" { found[$1] = $3 }
    END { for (at = 1; at <= count; at++) print order[at], found[order[at]] }'
}
make_build_dir() { # kind, number, newest|oldest, package...
  local kind=$1 build=$out/$1-$2 which=$3 usr package version; shift 3
  usr=$build/usr; rm -rf "$build"; mkdir -p "$usr" "$build/files" "$build/root"
  versions_of "$which" $(with_dependencies "$@") > "$build/packages"
  # Many at a time: apt reads all of its lists for each call.
  while read -r package version; do
    compgen -G "debs/${package}_${version//:/%3a}_*.deb" >/dev/null || echo "$package=$version"
  done < "$build/packages" | (cd debs && xargs -r -n 100 apt-get download -q >/dev/null 2>&1)
  while read -r package version; do
    dpkg-deb --fsys-tarfile "debs/${package}_${version//:/%3a}"_*.deb | tar -x -C "$build/root" --no-same-owner
  done < "$build/packages"
  for dir in bin sbin lib lib64; do
    if [ -d "$build/root/$dir" ]; then mkdir -p "$usr/$dir"; cp -a --remove-destination "$build/root/$dir/." "$usr/$dir/"; fi
  done
  cp -a --remove-destination "$build/root/usr/." "$usr/"
  if [ -d "$build/root/etc" ]; then cp -a "$build/root/etc" "$usr/etc"; fi
  rm -rf "$build/root" "$build/packages" "$usr/share/doc" "$usr/share/man"
  find "$usr" ! -type f ! -type d ! -type l -delete
  chmod -R u+rwX "$usr"
  printf '[Runtime]\nname=org.example.%s\nruntime=org.example.Platform/x86_64/master\nsdk=org.example.Sdk/x86_64/master\n' \
    "$kind" > "$build/metadata"
}
export_version() { # number: the Sdk after the Platform, into one repository, which has its name when it is complete
  rm -rf "repo-$1" "repo-$1.new"
  for kind in Platform Sdk; do
    flatpak build-export --disable-sandbox --no-update-summary --runtime --timestamp="2026-01-0$1T00:00:00Z" \
      "repo-$1.new" "$kind-$1" master
  done
  mv "repo-$1.new" "repo-$1"
}
for number in 1 2; do
  if [ $number = 1 ]; then which=oldest; else which=newest; fi
  make_build_dir Platform $number $which "${platform[@]}"
  make_build_dir Sdk $number $which "${platform[@]}" "${sdk[@]}"
done
export_version 1 &
export_version 2
wait $!
