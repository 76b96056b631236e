#!/bin/sh
# Before `dvc repro`: DVC expects a git repository with a commit; says so where there is none, and goes on without.
set -eu

if ! git rev-parse --git-dir >/dev/null 2>&1 && [ ! -e .git ]; then
    echo 'Not a git repository: dvc repro works, dvc exp does not. For experiments: git init, git add -A, git commit.'
    dvc config --local core.no_scm true
    exit
fi
# The files were unpacked without git first, and have become a repository since.
if grep -qs no_scm .dvc/config.local; then dvc config --local --unset core.no_scm; fi
if ! git rev-parse --verify --quiet HEAD >/dev/null; then
    echo 'This git repository has no commit yet: dvc exp run needs one (git add -A, git commit); dvc repro goes on without.'
fi
