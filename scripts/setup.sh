#!/bin/sh
# Makes .venv from requirements.lock; run by make. Does nothing if .venv is up to date.
#   PYTHON       the interpreter to make it from (python3)
#   TORCH_INDEX  source of torch and torchvision: the URL of an index, or a folder of wheels. The lock's CUDA packages
#                are then left out. The environment remembers the value; an empty value restores the default index.
#   LOCK         the lock file (requirements.lock)
#   HASHES       required: a file whose hash is not in the lock is refused; none: no hash is checked. By default they are
#                required, unless pip is set up with an index or wheels of your own, which may hold rebuilt files. torch
#                and torchvision of TORCH_INDEX are never compared: the lock holds the hashes of the default index.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LOCK=${LOCK:-requirements.lock}
VENV=.venv
VPY=$VENV/bin/python
STAMP=$VENV/.installed       # sha256 of the lock and TORCH_INDEX of the last finished installation
SOURCE=$VENV/.torch_index    # TORCH_INDEX of the last installation, finished or not
WORK=$VENV/.tmp              # pip's temporary files, on the disk whose free space is checked, not on a small /tmp
CUDA='^(nvidia-|cuda-|triton==)'

refuse() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

check_git() {
    command -v git >/dev/null 2>&1 || refuse "git is missing; DVC needs it: install it and run this again"
    reason=$(git rev-parse --is-inside-work-tree 2>&1) && [ "$reason" = true ] ||
        refuse "not inside a git work tree, which DVC needs: use git clone, not an archive ($(echo "$reason" | head -n 1))"
    [ -f "$LOCK" ] || refuse "$LOCK is missing: git checkout $LOCK"
}

torch_index() { # prints the index to install from; a folder as an absolute path
    if [ -z "${TORCH_INDEX+given}" ]; then
        cat "$SOURCE" 2>/dev/null || true
        return
    fi
    case $TORCH_INDEX in
        '' | http://* | https://*) printf '%s\n' "$TORCH_INDEX" ;;
        *)
            folder=${TORCH_INDEX#file://}
            [ -d "$folder" ] || refuse "TORCH_INDEX is neither the URL of an index nor a folder: $TORCH_INDEX"
            (cd "$folder" && pwd)
            ;;
    esac
}

expected_stamp() { # prints nothing if the environment's Python does not run or its version is not supported
    "$VPY" -IS -c '
import hashlib, pathlib, sys
if (3, 11) <= sys.version_info[:2] <= (3, 13):
    print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest(), sys.argv[2])
' "$LOCK" "$index" 2>/dev/null || true
}

check_python() {
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        refuse "Python is missing ($PYTHON does not run): install Python 3.11 to 3.13, or make PYTHON=/path/to/python3"
    case $version in
        3.11 | 3.12 | 3.13) ;;
        [0-2].* | 3.[0-9] | 3.10)
            refuse "Python $version is too old ($PYTHON): 3.11 to 3.13 are supported, make PYTHON=/path/to/python3" ;;
        *) refuse "Python $version is too new ($PYTHON): 3.11 to 3.13 are supported, make PYTHON=/path/to/python3" ;;
    esac
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        refuse "$PYTHON has no venv module: install it (Debian, Ubuntu: apt install python$version-venv)"
}

check_disk() { # measured: 6.5 GB installed, 9 with the downloads; 2 and 3 without CUDA
    need=3 hint=
    [ -n "$index" ] || need=9 hint='; 3 GB without CUDA: make TORCH_INDEX=https://download.pytorch.org/whl/cpu'
    used=0
    [ ! -d "$VENV" ] || used=$(du -sk "$VENV" | awk '{ print $1 }')
    free=$(df -Pk . | awk 'NR == 2 { print $4 }')
    missing=$((need * 1048576 - used))
    [ "$missing" -ge 1048576 ] || missing=1048576
    [ "$free" -ge "$missing" ] ||
        refuse "too little disk: $((free / 1048576)) GB free, about $(((missing + 1048575) / 1048576)) GB needed$hint"
}

clear_other_torch() { # pip would take the same version from another index for installed
    [ "$(cat "$SOURCE" 2>/dev/null || true)" != "$index" ] || return 0
    grep -oE "^(torch|torchvision|nvidia-[^=]*|cuda-[^=]*|triton)==" "$LOCK" | tr -d = >"$WORK/torch-names"
    "$VPY" -m pip uninstall -q -y -r "$WORK/torch-names" >/dev/null 2>&1 || true
}

choose_hashes() { # sets `hashes` to empty if they are not checked
    hashes=${HASHES:-}
    case $hashes in
        none) hashes= ;;
        required) ;;
        '')
            hashes=required
            if own=$("$VPY" -m pip config list | grep -oE '(index-url|find-links|no-index)=.*' | head -n 1) && [ "$own" ]; then
                hashes=
                echo "setup: pip is set up with ${own%%=*}: hashes are not checked (HASHES=required checks them)"
            fi ;;
        *) refuse "HASHES is $hashes: use required or none" ;;
    esac
}

requirements() { # prints the packages of the lock that match $1 and do not match $2, with the hashes if $3 is not empty
    awk -v only="$1" -v skip="$2" -v hashes="$3" '
        /^[A-Za-z0-9]/ { wanted = (only == "" || $0 ~ only) && (skip == "" || $0 !~ skip) }
        !wanted || !(/^[A-Za-z0-9]/ || (hashes != "" && /^ *--hash=/)) { next }
        hashes == "" { sub(/ *\\$/, "") }
        { print }
    ' "$LOCK"
}

progress() { # shows pip's progress on one line, on a terminal only; awk is not used, since it may buffer its input
    [ -t 1 ] || { cat >/dev/null; return; }
    n=0
    while IFS= read -r line; do
        line=${line#"${line%%[! ]*}"}
        case $line in
            "Requirement already satisfied: "*) name=${line#*: } ;;
            "Collecting "* | "Processing "* | "Ignoring "*) name=${line#* } ;;
            "Installing collected packages"*) n=$count name=unpacking ;;
            *) continue ;;
        esac
        [ "$name" = unpacking ] || n=$((n + 1))
        name=${name%% *}
        printf '\r  %d of %d  %-48.48s' "$n" "$count" "${name##*/}"
    done
    printf '\r%70s\r' ''
}

pip_install() {
    rm -f "$WORK/failed"
    { TMPDIR=$PWD/$WORK PYTHONUNBUFFERED=1 "$VPY" -m pip install --no-deps --no-input --disable-pip-version-check \
        --progress-bar off "$@" || : >"$WORK/failed"; } | progress
    [ ! -e "$WORK/failed" ] || refuse "pip failed (see above); run the same command again to continue"
}

install_torch() { # without --no-index, pip would also ask a mirror in its configuration
    requirements '^(torch|torchvision)==' '' '' >"$WORK/torch.txt"
    count=$(awk 'END { print NR }' "$WORK/torch.txt")
    case $index in
        *://*) set -- --index-url "$index" ;;
        *) if [ -n "$(find "$index" -maxdepth 1 -name 'torch-*.whl')" ]
           then set -- --no-index --find-links "$index"; else set -- --index-url "file://$index"; fi ;;
    esac
    pip_install "$@" -r "$WORK/torch.txt"
    "$VPY" -c 'import torch, torchvision' >/dev/null 2>"$WORK/error" ||
        refuse "torch and torchvision of $index do not load together: $(tail -n 1 "$WORK/error")"
}

install() {
    rm -rf "$STAMP" "$WORK"
    mkdir -p "$WORK"
    trap 'rm -rf "$WORK"' EXIT
    trap 'exit 130' HUP INT TERM
    clear_other_torch
    printf '%s\n' "$index" >"$SOURCE"
    start=$(date +%s)
    choose_hashes
    requirements '' "${index:+^(torch|torchvision)==|$CUDA}" "$hashes" >"$WORK/rest.txt"
    count=$(awk '/^[A-Za-z0-9]/ { n++ } END { print n + 0 }' "$WORK/rest.txt")
    size=', about 5 minutes, 6.5 GB'
    [ -z "$index" ] || size=', about 2 minutes, 2 GB'
    [ -n "$rebuild" ] || size=', only what is missing or changed'
    echo "setup: installing $LOCK into $VENV: up to $count packages$size"
    pip_install ${hashes:+--require-hashes} -r "$WORK/rest.txt"
    [ -z "$index" ] || install_torch
    expected_stamp >"$WORK/stamp"
    mv "$WORK/stamp" "$STAMP"
    seconds=$(($(date +%s) - start))
    echo "setup: done in $((seconds / 60)) min $((seconds % 60)) s"
}

check_git
index=$(torch_index)
expected=$(expected_stamp)
[ -z "$expected" ] || [ "$(cat "$STAMP" 2>/dev/null || true)" != "$expected" ] || exit 0
rebuild=
if [ -z "$expected" ] || ! "$VPY" -c 'import pip' 2>/dev/null; then
    check_python
    [ ! -d "$VENV" ] || echo "setup: $VENV has no working Python 3.11 to 3.13: creating it again"
    rebuild=yes
fi
check_disk
[ -z "$rebuild" ] || "$PYTHON" -m venv --clear "$VENV"
install
