#!/bin/sh
# The Dockerfile's steps where no docker is: what the image would hold, installed and run as a user
# would, in a folder that is removed afterwards.
#
#   tools/smoke.sh [TORCH_INDEX]      empty: pip's own index
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/home"
# the same files that .dockerignore lets through
sed -n 's/^!//p' "$root/.dockerignore" | (cd "$root" && xargs tar cf - --exclude=__pycache__) \
    | tar xf - -C "$work/source"
sh "$work/source/tools/install.sh" "$work/source" "$work/venv" "${1:-}" serve
cd "$work/home"
export HF_HUB_OFFLINE=1 LORAWRIGHT_CACHE="$work/cache"
"$work/venv/bin/lorawright" --version
"$work/venv/bin/lorawright" quickstart
"$work/venv/bin/lorawright" chat quickstart/run --prompt "Who are you?"
