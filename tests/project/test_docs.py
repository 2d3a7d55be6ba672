"""README and docs: figures come from files, links have targets, and shell commands are run by tests or marked."""

import ast
import functools
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher
from flows.ablation.plan import load_plan
from flows.tuning.plan import load_plan as load_search
from tests.helpers.docs import (
    CODE,
    FENCE,
    FOLDERS,
    OLD,
    PAGES,
    ROOT,
    RUN_BY,
    RUN_BY_CI,
    RUN_HERE,
    Block,
    blocks,
    commands,
    matches,
    names_of_tests,
)
from tests.helpers.projects import environment

SETTINGS = [
    p.relative_to(ROOT)
    for pattern in ("dvc.yaml", "params.yaml", "Makefile", "pyproject.toml", "experiments/*/*.yaml", "deploy/*.yaml")
    for p in sorted(ROOT.glob(pattern))
]
FOUND_IN_TEXT = [folder for folder in FOLDERS if folder != "zoo/"]  # a user may write further folders to zoo/
PATH = re.compile(rf"(?<![\w/.$}}-])(?:{'|'.join(FOUND_IN_TEXT)})[\w/.<>*{{}}-]+")
SLOW_IMPORTS = {"torch", "diffusers", "transformers", "prefect", "mlflow", "dvc", "optuna", "pandas", "sklearn"}
PLACEHOLDER = re.compile(r"[<>*{}]|NAME|NEW")


@pytest.mark.parametrize("page", sorted({page for page, _ in commands()}))
def test_every_command_is_run_by_a_test_or_marked(page: str) -> None:
    for command in [command for where, command in commands() if where == page]:
        tests = {test for pattern, test in RUN_BY.items() if matches(pattern, command)}
        elsewhere = any(matches(pattern, command) for pattern in (*RUN_BY_CI, *RUN_HERE))
        assert len(tests) == 1 or elsewhere, f"{command!r}: name its test in RUN_BY, or mark the block as not run"
        assert tests <= names_of_tests(), f"{command!r}: there is no test {tests}"


def test_every_entry_of_run_by_matches_a_command() -> None:
    all_commands = [command for _, command in commands()]
    patterns = (*RUN_BY, *RUN_BY_CI, *RUN_HERE)
    assert [p for p in patterns if not any(matches(p, command) for command in all_commands)] == []


def test_make_runs_what_the_pages_say() -> None:
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^demo: setup.*\n\t@\.venv/bin/python -m flows\.distill", makefile, re.MULTILINE)
    for target in ("test", "lint", "docs"):
        assert f"\nmake {target}\n" in ci


@pytest.mark.parametrize("command", sorted({c for _, c in commands() if any(matches(p, c) for p in RUN_HERE)}))
def test_cheap_commands_run(command: str) -> None:
    env = {**environment(), "DVC_NO_ANALYTICS": "1"}
    if command == "python scripts/docs_tables.py":
        command += " --check"  # writes nothing
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def modules() -> dict[str, set[str]]:
    """Modules that a page runs by `python -m`, with their options."""
    options: dict[str, set[str]] = {}
    for block in blocks():
        for command in block.commands if block.language == "sh" else ():
            words = shlex.split(command.replace("<", "").replace(">", ""))
            words = words[: words.index("--")] if "--" in words else words  # what follows are another command's
            if words[:2] == ["python", "-m"]:
                options.setdefault(words[2], set()).update(w.partition("=")[0] for w in words if w.startswith("--"))
    return options


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_has_the_options_that_the_pages_use(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert modules()[module] <= set(re.findall(r"--[\w-]+", done.stdout))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & SLOW_IMPORTS == set(), "import these after the arguments are read"


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 170 and len(text.split()) < 1600


@pytest.mark.parametrize("page", [str(p.relative_to(ROOT)) for p in PAGES])
def test_links_paths_modules_and_keys_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if (
            not target.startswith(("http://", "https://")) and target != "parameters.md"
        ):  # made by scripts/site_hooks.py
            assert ((ROOT / page).parent / target).exists(), f"link {target}"
    for module in re.findall(r"python -m ([\w.]+)", text):
        if module.split(".")[0] in ("dmd", "evaluation", "flows", "stages", "benchmarks") and page not in OLD:
            assert find_spec(module), f"module {module}"
    for module, name in re.findall(r"from ((?:dmd|evaluation|flows|stages)[.\w]*) import (\w+)", text):
        assert hasattr(__import__(module, fromlist=[name]), name), f"{name} of {module}"
    for code in CODE.findall(text):
        if code.startswith(FOLDERS) and page not in OLD and not re.search(r"[<>*{ ]|NAME", code):
            assert (ROOT / code.partition("#")[0]).exists(), f"path {code}"
        if re.fullmatch(r"[A-Z]+S", code):  # a registry, such as METHODS
            assert any(re.search(rf"^{code}\b", f.read_text(), re.MULTILINE) for f in modules_of_the_project()), code
        if code.startswith("test_"):
            assert code in names_of_tests(), f"test {code}"
        if match := re.fullmatch(r"(\w+(?:\.\w+)+)(?:[=:].*)?", code):
            assert is_key(params, match[1].split(".")), f"key {code}"


@pytest.mark.parametrize("file", [*map(str, SETTINGS), *(str(p.relative_to(ROOT)) for p in PAGES)])
def test_every_path_exists_that_a_comment_a_command_or_a_sentence_names(file: str) -> None:
    """Paths without backquotes, such as those in comments of dvc.yaml and in the arguments of a command."""
    if file not in OLD:
        paths = {path.rstrip("/.") for path in PATH.findall((ROOT / file).read_text())}
        assert sorted(path for path in paths if not PLACEHOLDER.search(path) and not (ROOT / path).exists()) == []


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "yaml"], ids=lambda b: b.page)
def test_yaml_blocks_are_valid(block: Block, tmp_path: Path) -> None:
    content, params = YAML(typ="safe").load(block.body), YAML(typ="safe").load(ROOT / "params.yaml")
    if "seeds" in content:
        (file := tmp_path / "example.yaml").write_text(block.body)
        assert load_plan(ROOT, file).members
    elif "space" in content:
        (file := tmp_path / "example.yaml").write_text(block.body)
        assert load_search(ROOT, file).search.trials
    else:
        assert all(set(content[group]) <= set(params[group]) for group in content)


def is_key(params: dict[str, Any], words: list[str]) -> bool:
    """Whether dotted words are a key of params.yaml; true also for words that do not begin with one of its groups."""
    here: Any = params
    for word in words:
        if not isinstance(here, dict) or word not in here:
            return here is params
        here = here[word]
    return True


@functools.cache
def modules_of_the_project() -> list[Path]:
    return [file for folder in ("dmd", "evaluation", "stages", "flows") for file in (ROOT / folder).rglob("*.py")]


def strings(file: Path) -> list[str]:
    """Strings of a Python file, with a line break in place of each f-string value; the whole text of other files."""
    if file.suffix != ".py":
        return [file.read_text()]
    texts = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(v.value if isinstance(v, ast.Constant) else "\n" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    texts = [text for file in (*modules_of_the_project(), ROOT / "scripts/setup.sh") for text in strings(file)]
    page = FENCE.sub("", (ROOT / "docs/troubleshooting.md").read_text())
    messages = [
        code
        for code in CODE.findall(page)
        if len(code.split()) > 3 and not re.match(r"python|dvc|make|git|method|train", code)
    ]
    assert len(messages) >= 7
    for message in messages:
        for part in re.split(
            r"[A-Z_]{2,}(?:=\w+)?|\d+(?:\.\w+)?|\.\.\.|\bN\b", message.removeprefix("error: ").removeprefix("setup: ")
        ):
            words = part.strip(" :;(),=")
            assert len(words.split()) < 3 or any(words in text for text in texts), f"{message!r}: {words!r}"


def test_the_new_path_of_everything_that_moved_exists() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", (ROOT / "docs/moved.md").read_text(), re.MULTILINE)
    for was, now in rows:
        for path in CODE.findall(now):
            if path.startswith(FOLDERS) and "NAME" not in path:
                assert (ROOT / path).exists(), path
        for path in CODE.findall(was):
            if path.endswith((".py", ".yaml")) and path.startswith(FOLDERS):
                assert not (ROOT / path).exists() or path in now, path


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=lambda b: b.page)
def test_python_blocks_parse_and_import_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.body)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            module = __import__(node.module, fromlist=[alias.name for alias in node.names])
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_code_of_the_readme_gives_the_generators_images(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code runs in a folder without this project, with the noise of the seed."""
    generator = Generator(teacher.denoiser, (999,), teacher.shape, tuple("abcdefghij"), teacher.codec)
    export_generator(generator, teacher, tmp_path / "artifacts" / "generator")
    (lines,) = (b.body for b in blocks() if b.page == "README.md" and b.language == "python")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(lines, names)
    torch.manual_seed(0)
    z = torch.randn(10, 1, 8, 8)
    with torch.inference_mode():
        expected = generator.denoiser(z, torch.full((10,), 999), torch.arange(10))
    torch.testing.assert_close(names["x"], expected, atol=1e-5, rtol=1e-5)


def test_every_hook_runs_a_tool_of_the_environment() -> None:
    hooks = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")
    entries = [hook for repo in hooks["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    for hook in entries:
        assert hook["language"] == "system" and (ROOT / hook["entry"].split()[0]).exists(), hook["id"]
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"], cwd=ROOT, check=False
    )
    assert done.returncode == 0


def test_the_workflow_calls_the_whole_check() -> None:
    workflow = YAML(typ="safe").load(ROOT / ".github/workflows/ci.yml")
    assert workflow["jobs"]["check"]["steps"][-1] == {"run": ".ci/run"}


def test_the_citation_has_the_projects_version_and_licence() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{citation["version"]}"' in project and f'license = "{citation["license"]}"' in project
    assert f"## [{citation['version']}] - {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_has_each_heading_once_per_version() -> None:
    for version in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        headings = re.findall(r"^### (\w+)", version, re.MULTILINE)
        assert len(headings) == len(set(headings)), version.splitlines()[0]
