#!/bin/sh
# Prints the first of the given interpreters, else of the usual names, that is Python 3.11 or newer.
# A version, such as 3.12, stands for the interpreter of that version, also one that only pyenv knows.
[ $# -gt 0 ] || set -- python3.13 python3.12 python3.11 python3.14 python3
for asked in "$@"; do
    case $asked in
    3.*) set -- "python$asked" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$asked".*/bin/python ;;
    *) set -- "$asked" ;;
    esac
    for candidate in "$@"; do
        # Run it: a version manager leaves names on PATH for versions that are not there.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            exit 0
        fi
    done
done
echo "No Python 3.11 or newer among what was asked for. Name one: make PYTHON=/path/to/python ..." >&2
exit 1
