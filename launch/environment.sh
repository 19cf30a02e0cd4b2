# Shared by quickstart.sh and test.sh, which set `root` (the checkout) and then source this file.
# shellcheck shell=bash

me=$(basename "$0")

stop() { # STATUS MESSAGE
    printf '%s: %s\n' "$me" "$2" >&2
    exit "$1"
}

is_new_enough() { # PYTHON
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Sets `python` to the first Python of at least 3.11; the variable PYTHON, if set, is the only candidate.
find_python() {
    local candidate candidates=(python3.13 python3.12 python3.11 python3 python)
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if is_new_enough "$candidate"; then
            python=$candidate
            return
        fi
    done
    stop 2 "Python 3.11 or newer is needed, found $(found "${candidates[@]}"); PYTHON=/path/to/python chooses one."
}

found() { # CANDIDATE...
    local candidate
    for candidate in "$@"; do
        if "$candidate" --version >/dev/null 2>&1; then
            printf '%s (%s)' "$("$candidate" --version 2>&1 | head -n 1)" "$candidate"
            return
        fi
    done
    printf 'none (looked for %s)' "$*"
}

# Makes or reuses the virtual environment FOLDER and installs into it, unless WHAT (a text that changes when
# the installed thing does) is what the last complete install wrote down. Returns 1 with one line on failure.
install_into() { # FOLDER WHAT PIP-ARGUMENT...
    local folder=$1 what=$2 log="$1/install.log"
    shift 2
    if is_new_enough "$folder/bin/python" && [ "$(cat "$folder/installed" 2>/dev/null)" = "$what" ]; then
        return 0
    fi
    if ! is_new_enough "$folder/bin/python" || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
        if ! "$python" -m venv --clear "$folder" >/dev/null 2>&1; then
            printf '%s: "%s -m venv" could not make %s (on Debian and Ubuntu: install python3-venv).\n' \
                "$me" "$python" "$folder" >&2
            return 1
        fi
    fi
    rm -f "$folder/installed"
    printf '%s: installing into %s\n' "$me" "$folder"
    if ! "$folder/bin/python" -m pip install "$@" >"$log" 2>&1; then
        printf '%s: pip could not install distsgd (is there a network?): %s All of its output: %s\n' \
            "$me" "$(grep -o 'ERROR: .*' "$log" | tail -n 1)" "$log" >&2
        return 1
    fi
    printf '%s\n' "$what" >"$folder/installed"
}
