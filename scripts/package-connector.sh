#!/usr/bin/env bash
# Builds the archive of the connector definition: .hasura-connector/ in a tar.gz that has the same bytes each time.
# usage: scripts/package-connector.sh [--image IMAGE] [--out FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
image='' out=connector-definition.tgz
while [ $# -gt 0 ]; do
  case $1 in
    --image) image=${2:?--image needs a name}; shift 2 ;;
    --out) out=${2:?--out needs a file}; shift 2 ;;
    *) echo "package-connector: unknown argument '$1'; usage: $0 [--image IMAGE] [--out FILE]" >&2; exit 2 ;;
  esac
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -R .hasura-connector "$folder/"
if [ -n "$image" ]; then
  case $image in *[!A-Za-z0-9._:/@-]*) echo "package-connector: '$image' is not the name of an image" >&2; exit 2 ;; esac
  sed -i "s|^  dockerImage: .*|  dockerImage: $image|" "$folder/.hasura-connector/connector-metadata.yaml"
fi
# No times, no owners: two builds of one commit are one archive.
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
  --directory "$folder" .hasura-connector | gzip --no-name >"$out"
echo "package-connector: $out"
