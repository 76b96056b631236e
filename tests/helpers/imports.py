"""What a module imports of this project, itself included, read from the sources."""

import ast
from functools import cache

from helpers import ROOT


def closure(module: str) -> set[str]:
    """Files, relative to the root, that importing `module` (such as stages.prepare) may run."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or path in seen:
            continue
        seen.add(path)
        waiting += imports(path)
        waiting += [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
    return {path for path in seen if (ROOT / path).stat().st_size}  # empty __init__ files say nothing


@cache
def imports(path: str) -> tuple[str, ...]:
    """Modules of this project that a file names in its import statements, wherever they stand."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(name for name in found if name and name.split(".")[0] in ("dsrg", "stages"))


def _file(module: str) -> str | None:
    base = module.replace(".", "/")
    for path in (f"{base}.py", f"{base}/__init__.py"):
        if (ROOT / path).is_file():
            return path
    return None
