#!/bin/sh
# Pins what the demo and the tests are run with: the newest versions for each Airflow supported, and the oldest
# ones that pyproject.toml admits. Its argument is uv.
set -e
cd "$(dirname "$0")/.."
uv=$1
pins=rig/constraints

compile() {
    "$uv" pip compile --quiet --upgrade --universal --no-annotate --no-header --python-version 3.11 "$@" pyproject.toml
}

newest() {
    echo "apache-airflow==$2" | compile --all-extras --group dev --group docs --group chaos --group fab \
        --constraint - --output-file "$pins/$1.txt"
}

newest 3.3 '3.3.*'
newest 3.2 '3.2.*'
newest 3.1 '3.1.*'
newest 2.11 '2.11.*'

# The oldest providers that pyproject.toml admits, which other packages would replace by newer ones.
floors() {
    sed -n 's/^ *"\(apache-airflow-providers-[a-z-]*\)>=\([0-9.]*\)",$/\1==\2/p' pyproject.toml \
        | grep -e -google -e -common-compat
    # Newer ones refuse the NumPy that the oldest Google provider asks for.
    echo 'pyarrow<20'
}

# A managed Airflow keeps its own providers, which are older than what pip would choose.
{ echo 'apache-airflow>=3.1.8,<3.2'; floors; } | compile --all-extras --group dev --group chaos \
    --constraint - --output-file "$pins/3.1-old-google.txt"

# The test tools may be new.
oldest=$(mktemp)
trap 'rm -f "$oldest"' EXIT
floors | compile --all-extras --resolution lowest-direct --constraint - --output-file "$oldest"
compile --all-extras --group dev --group chaos --group fab --constraint "$oldest" --output-file "$pins/lowest.txt"

for name in bigquery outsiders; do
    "$uv" pip compile --quiet --upgrade --universal --no-annotate --no-header --python-version 3.11 \
        "rig/$name-requirements.txt" --output-file "$pins/$name.txt"
done
