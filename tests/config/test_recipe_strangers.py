"""Recipes of strangers: crafted ones are refused in one line, at once and within little memory; none runs anything."""

import contextlib
import os
import resource
import threading
import time

import pytest
from bounded import bounded

from ffdr.cli import main
from ffdr.config import recipe, settings
from ffdr.config.yaml_file import (
    MOST_BYTES,
    MOST_CHARACTERS,
    MOST_LEVELS,
    MOST_VALUES,
)
from ffdr.util.errors import UserError, nearest

TRAIN = ["--train.out=run", "--data.train=x.beton", "--model.name=resnet18"]
SECONDS = 5  # on a busy machine; half a second on a quiet one
MEBIBYTES = 64


def refused(capsys, *words):
    """The one line with which a command line is refused: at once, and with nothing in it for a terminal to obey."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bounded(SECONDS):
        assert main(words) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEBIBYTES << 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and len(line) < 500
    return line


def bomb(levels, width):
    """A list of aliases of lists of aliases …"""
    lists = [f"a0: &a0 [{','.join('x' * width)}]"]
    lists += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "ablate:\n  settings:\n" + "".join(f"    {line}\n" for line in lists)


def merges(levels, width):
    """A mapping that takes in many that take in many …"""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * width)}], k{n}: 1}}" for n in range(1, levels)]
    return "ablate:\n  settings:\n" + "".join(f"    {line}\n" for line in lines)


def stairs(levels):
    """Lists within lists, of which each holds an alias of those before."""
    lines = [f"a{n}: &a{n} {'[' * 10}{f'*a{n - 1}' if n else 'x'}{']' * 10}" for n in range(levels)]
    return "ablate:\n  settings:\n" + "".join(f"    {line}\n" for line in lines)


CRAFTED = {
    "aliases at the bottom of lists": (stairs(40), "line 4: more than 16 lists and mappings within each other"),
    "aliases of aliases": (bomb(10, 10), "values, the most that are read of one recipe; an alias counts as all that"),
    "aliases without end": (bomb(60, 2), "line 14: more than 10,000 values"),
    "merges of merges": (merges(8, 20), "line 6: more than 10,000 values"),
    "merges without end": (merges(40, 2), "more than 16 lists and mappings within each other"),
    "itself": ("train: &a {lr: *a}", "line 1: *a stands within &a itself"),
    "itself, merged": ("train: &a\n  <<: *a", "line 2: *a stands within &a itself"),
    "an alias of nothing": ("train: {lr: *a}", "line 1: *a: there is no &a above it"),
    "a merged text": ("train: {<<: x}", "line 1: << takes in a mapping, or a list of them"),
    "brackets": ("[" * 100_000, "more than 16 lists and mappings within each other"),
    "braces": ("{a: " * 10_000, "more than 16 lists and mappings within each other"),
    "dashes": ("- " * 10_000, "more than 16 lists and mappings within each other"),
    "question marks": ("? " * 10_000, "more than 16 lists and mappings within each other"),
    "indents": ("".join(f"{' ' * n}a:\n" for n in range(500)), "more than 16 lists and mappings"),
    "20,000 keys": ("".join(f"k{n}: 1\n" for n in range(20_000)), "line 5000: more than 10,000 values"),
    "keys that merge": ("<<: {}\n" * 20_000, "key '<<' stands twice (see line 1)"),
    "a long list": (f"data: {{mean: [{'0,' * 100_000}]}}", "line 1: more than 10,000 values"),
    "a long text": (f"train: {{out: {'x' * 200_000}}}", "line 1: a text of more than 10,000 characters"),
    "a long key": (f"? {'x' * 200_000}\n: 1", "line 1: a text of more than 10,000 characters"),
    "a key that nothing is near": (f"? {'train.epoch' * 800}\n: 1", "unknown key train.epochtrain"),
    "a list for a key": ("? [a, b]\n: 1", "a key is a text, not a list or a mapping"),
    "a large file": ("#" * (MOST_BYTES + 1), "has more than 256.0 KiB"),
    "line ends": ("\n" * MOST_BYTES, "holds nothing"),
    "5,000 digits": (f"train: {{seed: {'9' * 5000}}}", "train.seed: '999"),
    "5,000 octal digits": (f"train: {{seed: 0{'7' * 5000}}}", "train.seed: '0777"),
    "5,000 hexadecimal digits": (f"train: {{seed: 0x{'f' * 5000}}}", "train.seed: a number of 20,000 bits is not"),
    "5,000 digits of a share": (f"train: {{lr: {'9' * 5000}}}", "train.lr: inf is not between 0 and 1000"),
    "a large power": ("train: {lr: 1e400}", "train.lr: inf is not between 0 and 1000"),
    "no number": ("train: {lr: nan}", "train.lr: nan is not between 0 and 1000"),
    "YAML's no number": ("train: {lr: .nan}", "train.lr: '.nan' is not a number"),
    "a tagged number": ("train: {lr: !!float .inf}", "train.lr: '.inf' is not a number"),
    "a truth for a number": ("train: {epochs: !!bool true}", "train.epochs: 'true' is not an integer"),
    "a bad date": ("train: {out: !!timestamp 9999-99-99}", "!!timestamp: a recipe has no values of such a kind"),
    "bytes": ("train: {out: !!binary YQ==}", "!!binary: a recipe has no values of such a kind"),
    "a set": ("train: !!set {a, b}", "!!set: a recipe has no values of such a kind"),
    "a nothing": ("train: {out: !!null x}", "!!null: a recipe has no values of such a kind"),
    "pairs": ("train: !!omap [a: 1]", "!!omap: a recipe has no values of such a kind"),
    "a call": ("train: !!python/object/apply:os.system ['touch ran']", "!!python/object/apply:os.system: a recipe has"),
    "a name": ("train: {out: !!python/name:os.system }", "!!python/name:os.system: a recipe has no values"),
    "a tag for the terminal": ("%TAG !x! a%1B]0;\n--- !x!b {}", r"a\x1b]0;b: a recipe has no values of such a kind"),
    "a list tagged as a text": ("train: {mean: !!str [a]}", "!!str: a recipe has no values of such a kind"),
    "two documents": ("train: {}\n---\ntrain: {}", "line 2: a second document begins"),
    "many documents": ("--- {}\n" * 20_000, "a second document begins"),
    "a character beyond all": (r'train: {out: "\UFFFFFFFF"}', "not YAML: a number that is none"),
    "a long path": (f"base: {'x' * 5000}", "x.yaml: base: 'xxxxx"),
    "a list for a path": ("base: [[x.yaml]]", "x.yaml: base: ['x.yaml'] is not the path of a recipe"),
    "a mapping for a path": ("base: {x: y}", "x.yaml: base: {'x': 'y'} is not the path of a recipe"),
    "half a character": (r'train: {out: "\ud800"}', r"train.out: '\ud800' has control characters"),
    "half a character in a path": (r'base: ["\ud800/x.yaml"]', r"base: '\ud800/x.yaml' is not the path of a recipe"),
    "a version of 5,000 digits": (f"%YAML 1.{'1' * 5000}\n--- {{}}", "not YAML: a number that is none"),
    "a null character": (r'train: {out: "a\0b"}', r"train.out: 'a\x00b' has control characters"),
    "a null character in a list": (r'{base: ["a\0b"]}', r"base: 'a\x00b' is not the path of a recipe"),
    "a null character in a teacher": (
        r'teacher: {models: ["a:\0"]}',
        r"teacher.models: ['a:\x00'] has control characters",
    ),
    "a null character in the file": ("train: {out: a\0b}", "not YAML: character 0x00 at 14"),
    "an escape for the terminal": (r'train: {out: "\e]0;x\a"}', r"train.out: '\x1b]0;x\x07' has control characters"),
    "an escape in a key": (r'"\e]0;x\a": {"\e[2J": 1}', r"unknown key \x1b]0;x\x07.\x1b[2J"),
    "an escape in an empty section": (r'"\e]0;x\a": {}', r"unknown key \x1b]0;x\x07"),
    "an escape in an anchor": ("train: {lr: *a\N{RIGHT-TO-LEFT OVERRIDE}}", "not YAML: "),
    "writing that turns around": (r'train: {out: "a\u202eb"}', r"train.out: 'a\u202eb' has control characters"),
    "two lines": ("train:\n  out: |\n    a\n    b\n", r"train.out: 'a\nb\n' has control characters"),
    "an empty section with a typo": ("trian: {}", "unknown key trian"),
    "a list within a list": ("data: {mean: [[0.1], 0.2, 0.3]}", "data.mean: "),
    "a mapping for a number": ("train: {lr: {}}", "train.lr: {} is not a number"),
    "UTF-16": ("train: {lr: 1}".encode("utf-16"), "not text in UTF-8 (byte 0)"),
    "UTF-16 without its mark": ("train: {lr: 1}".encode("utf-16-le"), "not YAML: character 0x00 at 1"),
    "tabs": ("train:\n\tlr: 1", "line 2: not YAML: found character '\\t' that cannot start any token"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_recipe_is_refused_in_one_line(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = CRAFTED[kind]
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    verb = "ablate" if file.read_bytes().startswith(b"ablate") else "train"
    line = refused(capsys, verb, "--config-file", "x.yaml")
    assert line.startswith(f"ffdr {verb}: x.yaml") or kind.startswith(
        ("5,000 h", "5,000 digits of", "a large p", "no n")
    )
    assert message in line
    assert os.listdir(tmp_path) == ["x.yaml"]


@pytest.mark.parametrize("place", ["--config-file", "base"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("loop", "Too many levels of symbolic links"),
        ("missing", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_file_is_no_recipe(place, name, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    (tmp_path / "x.yaml").write_text(f"base: {name}")
    line = refused(capsys, "train", "--config-file", name if place == "--config-file" else "x.yaml")
    if (name, place) == ("pipe", "--config-file"):
        message = "a recipe is a mapping of sections, but this file holds nothing"
    assert line == f"ffdr train: {name}: {message}"


def test_a_recipe_may_come_from_a_pipe_that_the_user_names(tmp_path, capsys):
    """As from a shell's <(...), but not from one that a recipe or a grid names, and not without end."""

    def piped(text):
        reader, writer = os.pipe()
        threading.Thread(target=lambda: (time.sleep(0.1), feed(writer, text)), daemon=True).start()
        return reader

    def feed(writer, text):
        with contextlib.suppress(BrokenPipeError), open(writer, "w") as file:
            file.write(text)

    reader = piped("train: {seed: 5}")
    assert recipe.parse("train", ["-C", f"/dev/fd/{reader}", *TRAIN]).train.seed == 5
    os.close(reader)
    reader = piped("#" * (2 * MOST_BYTES))
    assert "has more than 256.0 KiB" in refused(capsys, "train", "-C", f"/dev/fd/{reader}")
    with pytest.raises(UserError, match="not a regular file"):
        recipe.parse("train", ["-C", f"/dev/fd/{reader}"], files=recipe.Files("train"))
    (tmp_path / "x.yaml").write_text(f"base: /dev/fd/{reader}")
    assert "not a regular file" in refused(capsys, "train", "-C", str(tmp_path / "x.yaml"))
    os.close(reader)


def test_a_null_character_on_the_command_line(capsys):
    assert r"--config-file: 'a\x00b' is not the path of a recipe" in refused(capsys, "train", "--config-file=a\0b")
    assert r"train.out: 'a\x00b' has control characters" in refused(capsys, "train", "--out=a\0b")
    assert r"inspect.file: 'a\x00b' has control characters" in refused(capsys, "inspect", "a\0b")
    assert r"unknown key train.a\x00b" in refused(capsys, "train", "--a\0b=1")


def fan_out(folder, levels):
    for level in range(levels):
        following = (
            f"base: [{level + 1}.yaml, ./{level + 1}.yaml, link/{level + 1}.yaml]\n" if level + 1 < levels else ""
        )
        (folder / f"{level}.yaml").write_text(f"{following}train: {{seed: {level}, keep: {level + 1}}}")
    (folder / "link").symlink_to(".")


def test_each_base_is_read_once(tmp_path, monkeypatch):
    fan_out(tmp_path, MOST_LEVELS)
    read = []
    inner = settings.Reading.mapping
    monkeypatch.setattr(
        settings.Reading, "mapping", lambda self, file, **how: read.append(file) or inner(self, file, **how)
    )
    with bounded(SECONDS):
        options = recipe.parse("train", ["-C", str(tmp_path / "0.yaml"), *TRAIN])
    assert (options.train.seed, options.train.keep) == (0, 1)
    assert len(read) == MOST_LEVELS


def test_bases_may_neither_reach_far_nor_come_back(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fan_out(tmp_path, 25)
    line = refused(capsys, "train", "-C", "0.yaml")
    assert line == "ffdr train: 16.yaml: more than 16 recipes, each the base of another"
    (tmp_path / "a.yaml").write_text("base: link/b.yaml")
    (tmp_path / "b.yaml").write_text("base: [3.yaml, link/link/a.yaml]")
    monkeypatch.setattr(settings, "MOST_LEVELS", 100)
    assert refused(capsys, "train", "-C", "a.yaml").endswith("link/link/link/a.yaml: is its own base")


def test_a_base_of_a_link_lies_where_the_link_does(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.yaml").write_text(f"train: {{seed: {seed}}}")
    (tmp_path / "one" / "x.yaml").write_text("base: part.yaml")
    (tmp_path / "two" / "x.yaml").symlink_to("../one/x.yaml")
    (tmp_path / "all.yaml").write_text("base: [one/x.yaml, two/x.yaml]")
    assert recipe.parse("train", ["-C", str(tmp_path / "all.yaml"), *TRAIN]).train.seed == 2


def test_the_limits_hold_for_a_recipe_and_its_bases_together(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.yaml" for number in range(300)]
    (tmp_path / "many.yaml").write_text(f"base: [{', '.join(names)}]")
    for name in names:
        (tmp_path / name).write_text("train: {}")
    line = refused(capsys, "train", "-C", "many.yaml")
    assert line.endswith("249.yaml: more than 250 files, the most that are read of one recipe")
    for name in names[:3]:
        (tmp_path / name).write_text(f"data: {{mean: [{'0, ' * 4000}]}}")
    line = refused(capsys, "train", "-C", "many.yaml")
    assert "2.yaml, line 1: more than 10,000 values, the most that are read of one recipe" in line
    for name in names[:3]:
        (tmp_path / name).write_text("train: {} #" + "#" * (MOST_BYTES // 2 - 10_000))
    line = refused(capsys, "train", "-C", "many.yaml")
    assert "more than 256.0 KiB with the files before it" in line


def test_the_limits_themselves_are_kept_to(tmp_path):
    file = tmp_path / "x.yaml"
    text = "x" * MOST_CHARACTERS
    deep = "[" * (MOST_LEVELS - 4) + "]" * (MOST_LEVELS - 4)
    for part in (f"settings: {{a: {text}}}", f"settings: {{a: {deep}}}", f"prepare: [{'x,' * (MOST_VALUES - 7)}]"):
        file.write_text(f"ablate: {{out: o, {part}}}")
        found = recipe.parse("ablate", ["-C", str(file)], [("ablate.axes", {"train.seed": [0]})])
        assert found.out == "o"
    file.write_text(f"ablate: {{out: o, prepare: [{'x,' * (MOST_VALUES - 6)}]}}")
    with pytest.raises(UserError, match="more than 10,000 values"):
        recipe.parse("ablate", ["-C", str(file)])


def test_honest_notations_are_read(tmp_path):
    """Marks at the start, line ends of other systems, comments, quotes, plain tags, aliases, merged mappings."""
    file = tmp_path / "x.yaml"
    lines = [
        "# a comment",
        "data.mean: &shared [0.1, 0.2, 0.3]",
        "train:",
        "  <<: &more {lr: 0.5, seed: 3}",
        "  seed: !!int '4' # wins",
        "  out: !!str 017",
        '  resume: "\\x66alse"',
        "data: !!map {std: *shared, train: caf\N{LATIN SMALL LETTER E WITH ACUTE}.beton}",
        "model:",
        "  name: >-",
        "    resnet18",
    ]
    for end in ("\n", "\r\n", "\r"):
        file.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
        options = recipe.parse("train", ["-C", str(file)])
        assert (options.train.lr, options.train.seed, options.train.out, options.train.resume) == (0.5, 4, "017", False)
        assert options.data.mean == options.data.std == (0.1, 0.2, 0.3)
        assert options.data.train == "café.beton"
        assert options.model.name == "resnet18"


def test_of_merged_mappings_the_earlier_wins_and_what_stands_there_before_all(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "ablate:\n  out: o\n  axes: {train.seed: [0]}\n  settings:\n    a: &a {x: 1, y: 1}\n    b: &b {y: 2, z: 2}\n"
        "    c: {z: 3, <<: [*a, *b]}\n    d: {<<: *b, y: 4}\n    e: {'<<': 5}\n"
    )
    settings = recipe.parse("ablate", ["-C", str(file)]).settings
    assert settings["c"] == {"y": "1", "z": "3", "x": "1"} and list(settings["c"]) == ["y", "z", "x"]
    assert settings["d"] == {"y": "4", "z": "2"}
    assert settings["e"] == {"<<": "5"}


def test_a_long_name_is_compared_at_once():
    with bounded(SECONDS):
        assert nearest("epochs" * 50_000, ["epochs", "x" * 50_000] * 500) == ""
    assert nearest("train.epoch", ["train.epochs"]) == " (did you mean train.epochs?)"
    assert nearest("\x1b[1mepoch", ["\x1b[1mepochs"]) == r" (did you mean \x1b[1mepochs?)"


def test_a_name_that_is_not_utf8_is_taken():
    name = os.fsdecode(b"d\xe9")
    assert recipe.parse("train", [*TRAIN[1:], f"--out={name}"]).train.out == name
