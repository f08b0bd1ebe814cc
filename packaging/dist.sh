#!/bin/sh
# dist.sh [--build]: the source of the last commit with every crate that is compiled in.
#
#   git archive + cargo vendor --> TARGET/dist/medevac-VERSION.tar.xz
#
# --build: unpacks what was made and builds the programs from it, without a network and
# without what this machine's cargo has downloaded before.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-$project/target}/dist
cd "$project"
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
name=medevac-$version

if [ "${1:-}" != --build ]; then
    rm -rf "$out"
    mkdir -p "$out/$name/.cargo"
    git archive HEAD | tar -x -C "$out/$name"
    cd "$out/$name"
    "$cargo" vendor --quiet --locked --versioned-dirs vendor
    # What cargo itself would print, were it not quiet about each crate.
    cat >.cargo/config.toml <<'CONFIG'
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "vendor"
CONFIG
    cd "$out"
    # The same commit gives the same bytes.
    stamp=$(git -C "$project" log -1 --format=%ct)
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" -c "$name" | xz -T2 -3 >"$name.tar.xz"
    rm -rf "${out:?}/$name"
    sha256sum "$name.tar.xz" | tee "$name.tar.xz.sha256"
    exit 0
fi

work=$(mktemp -d /var/tmp/medevac-dist.XXXXXX)
trap 'rm -rf "$work"' EXIT
tar -xJf "$out/$name.tar.xz" -C "$work"
cd "$work/$name"
# Rust's own programs stay where they are; of cargo's downloads there are none.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH CARGO_HOME=$work/home CARGO_TARGET_DIR=$work/target \
    "$cargo" build --offline --locked -p medevac-agent -p medevac-aggregator -p medevac-ctl
for program in medevac-agent medevac-aggregator medevacctl; do
    "$work/target/debug/$program" --version
done
