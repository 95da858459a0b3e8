"""The plan of the house: which room may import which, how large one may be, and who touches which library."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ffdr

PACKAGE = Path(ffdr.__file__).parent

ORDER = (
    "__main__", "cli", "demo", "ablate", "bench", "deploy", "train", "reinforce", "evaluate", "inspect", "fkd", "mldr",
    "archive", "ffcv", "loader", "write", "beton", "data", "codec", "models", "config", "augment", "jit", "util",
)  # fmt: skip
"""Top to bottom: a room imports from those behind it only."""
MOST_LINES = 2700
MOST_LINES_OF_A_FILE = 400
MOST_FILES_WITHOUT_A_MAP = 5


def name_of(path):
    parts = ["ffdr", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module):
    """All names that a module imports, inside of functions and for type checkers too; of ours, the modules."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found - {module}


def room_of(module):
    return module.split(".")[1] if "." in module else ""


@pytest.fixture(scope="module")
def graph():
    """Which modules import which. The package's face is above all; what anyone may ask of it is its version."""
    return {module: {name for name in imports_of(module) if name in MODULES} - {"ffdr"} for module in MODULES}


def test_every_arrow_between_rooms_points_down(graph):
    floors = {room: floor for floor, room in enumerate(ORDER)}
    assert {room_of(module) for module in MODULES} - {""} == set(ORDER)
    upwards = [
        (module, other)
        for module, others in graph.items()
        for other in others
        if module != "ffdr" and floors[room_of(other)] < floors[room_of(module)]
    ]
    assert not upwards


def test_no_modules_import_each_other_in_a_circle(graph):
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names them


def test_rooms_and_files_are_of_a_size_to_find_ones_way_in():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    assert max(lines.values()) <= MOST_LINES_OF_A_FILE
    rooms = Counter()
    for path, count in lines.items():
        rooms[path.parent.relative_to(PACKAGE)] += count
    assert {room: count for room, count in rooms.items() if count >= MOST_LINES} == {}


@pytest.mark.parametrize("map_", sorted(PACKAGE.rglob("README.md")), ids=lambda path: path.parent.name)
def test_the_map_of_a_room_lists_each_file_once(map_):
    room, rows = map_.parent, re.findall(r"^\|([^|]*)\|", map_.read_text(encoding="utf-8"), re.M)
    listed = [name.rpartition("/")[2] for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)]
    parts = (folder for folder in room.iterdir() if folder.is_dir() and not (folder / "README.md").exists())
    folders = [room, *(folder for folder in parts if len(list(folder.glob("*.py"))) > MOST_FILES_WITHOUT_A_MAP)]
    there = [path.name for folder in folders for path in folder.glob("*.py")]
    assert sorted(set(listed) - {"__init__.py"}) == sorted(set(there) - {"__init__.py"})
    assert max(Counter(listed).values()) == 1


def test_a_room_of_many_files_has_a_map():
    mapped = {path.parent for path in PACKAGE.rglob("README.md")}
    many = {path for path in PACKAGE.rglob("*") if len(list(path.glob("*.py"))) > MOST_FILES_WITHOUT_A_MAP}
    assert [folder for folder in many if not {folder, folder.parent} & mapped] == []


@pytest.mark.parametrize(
    "library, allowed",
    [
        ("fastargs", {"ffdr.config.recipe"}),
        ("ffcv.loader", {"ffdr.loader.ffcv_loader", "ffdr.bench.loading.stock", "ffdr.util.lean_ffcv"}),
        ("ffcv.memory_managers", {"ffdr.loader.ffcv_loader", "ffdr.util.lean_ffcv"}),
    ],
)
def test_one_module_touches(library, allowed):
    users = {module for module in MODULES if any(f"{name}.".startswith(f"{library}.") for name in imports_of(module))}
    assert users == allowed


@pytest.mark.parametrize(
    "module, absent",
    [
        ("ffdr", ("torch", "numba", "ffcv", "ffdr.util")),
        ("ffdr.cli", ("torch", "numba", "ffcv")),
        ("ffdr.util.ranks", ("ffcv", "ffdr.config", "ffdr.beton")),
        (
            "ffdr.loader.loader",
            (
                *(f"ffdr.{room}" for room in ORDER[: ORDER.index("loader")]),
                *("fastargs", "timm", "matplotlib", "ffdr.models", "ffdr.write"),
                *("ffdr.config.recipe", "ffdr.config.learning", "ffdr.config.training", "ffdr.config.verbs"),
            ),
        ),
    ],
)
def test_importing_pulls_in_nothing_of(module, absent):
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    prefixes = tuple(f"{name}." for name in absent)
    assert [name for name in loaded if f"{name}.".startswith(prefixes)] == []
