#!/bin/sh
# Installs lorawright into a new virtual environment, as the Dockerfile does.
#
#   tools/install.sh SOURCE VENV [TORCH_INDEX] [EXTRAS]
#
# SOURCE: this repository. TORCH_INDEX: where torch comes from; empty: pip's own index.
set -eu
source=$1 venv=$2 index=${3:-} extras=${4:-}
torch=$(grep '^torch==' "$source/constraints.txt")
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --no-cache-dir ${index:+--index-url "$index"} "$torch"
"$venv/bin/pip" install --quiet --no-cache-dir -c "$source/constraints.txt" "$source${extras:+[$extras]}"
