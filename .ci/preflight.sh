#!/bin/sh
# Looks at the machine before anything is installed: says in one go all that is missing, and how to get it.
# Needs nothing but a POSIX shell.
#
#   preflight.sh [PYTHON]      prints the Python to use (the first of 3.11 to 3.13 found, unless one is named);
#                              exit 1 and a message on stderr if something is missing
#   preflight.sh --packages    prints the Debian packages that are missing, and nothing else
set -u

problems=''
packages=''
missing() { # what is missing and why it is needed; the Debian packages that bring it
    problems="$problems
  - $1"
    packages="$packages $2"
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

list_packages=''
if [ "${1-}" = --packages ]; then list_packages=yes; shift; fi

python=''
for candidate in ${1:-python3 python3.13 python3.12 python3.11}; do
    if supported "$candidate"; then python=$candidate; break; fi
done

if [ -z "$python" ]; then
    found=$(version "${1:-python3}")
    missing "Python 3.11, 3.12 or 3.13 (${1:-python3} is ${found:-not there}); choose one with: make PYTHON=/path/to/python" \
        'python3 python3-venv python3-dev'
else
    debian=python$(version "$python")
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        missing "Python's venv module: everything is installed into .venv" "$debian-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        missing 'the Python headers: pydensecrf is compiled while it is installed' "$debian-dev"
    for library in libGL.so.1:libgl1 libgthread-2.0.so.0:libglib2.0-0; do
        "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${library%%:*}" 2>/dev/null ||
            missing "the library ${library%%:*}: opencv-python loads it" "${library##*:}"
    done
fi
command -v "${CXX:-g++}" >/dev/null ||
    missing "a C++ compiler (${CXX:-g++}): pydensecrf is compiled while it is installed" g++
if [ -e .git ] && ! command -v git >/dev/null; then
    missing 'git: DVC asks it what has changed' git
fi

if [ -n "$list_packages" ]; then
    echo $packages
elif [ -n "$problems" ]; then
    echo "Before DSRG can be set up, this machine needs:$problems
On Debian or Ubuntu, as root:
  apt-get install$packages" >&2
    exit 1
else
    command -v "$python"
fi
