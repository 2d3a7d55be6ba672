"""The pages of the documentation, their fenced blocks, and the test that runs each command on them."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "zoo").rglob("*.md")),
]
FENCE = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: .{10,} -->")
CODE = re.compile(r"`([^`\n]+)`")
FOLDERS = (
    "dmd/",
    "evaluation/",
    "stages/",
    "flows/",
    "experiments/",
    "records/",
    "deploy/",
    "zoo/",
    "scripts/",
    "tests/",
)
OLD = {"docs/moved.md"}  # pages with paths of earlier versions

# Pattern of a command -> the test that runs it, possibly with other arguments.
RUN_BY = {
    r"git clone <this repository> onestep && cd onestep": (
        "test_a_registered_version_is_reproduced_to_the_byte_in_a_fresh_clone"
    ),
    r"make setup": "test_install_stamp_change_and_repair",
    r"make demo": "test_the_flow_ends_with_a_table_and_a_version",
    r"make (up|down)": "test_up_twice_and_down",
    r"PREFECT_PORT=4201 MLFLOW_PORT=5001 make up": "test_up_twice_and_down",
    r"dvc repro": "test_another_clone_gives_the_same_bytes",
    r"DMD_RESUME=\w+ dvc repro": "test_a_checkpoint_of_other_code_is_an_error",
    r"dvc exp run -S .*": "test_an_experiment_runs_only_what_depends_on_its_change",
    r"dvc (metrics|params) diff( --targets .*)?": "test_an_experiment_runs_only_what_depends_on_its_change",
    r"dvc exp apply NAME": "test_an_applied_experiment_keeps_presets_from_running_until_it_is_committed",
    r"git commit -am .*": "test_an_applied_experiment_keeps_presets_from_running_until_it_is_committed",
    r"git checkout -- params.yaml dvc.lock reports": (
        "test_an_applied_experiment_keeps_presets_from_running_until_it_is_committed"
    ),
    r"dvc plots show": "test_plots_are_drawn_without_network",
    r"dvc plots diff HEAD": "test_a_diff_holds_both_students_and_draws_no_empty_cell",
    r"python -m flows.distill": "test_the_flow_ends_with_a_table_and_a_version",
    r"python -m flows.distill --preset (quick|cifar10|imagenet64)( --set \S+)? --dry-run( --on h100x8)?": (
        "test_the_memory_of_each_preset_is_that_of_the_hardware_table"
    ),
    r"python -m flows.distill (--preset quick )?--set \S+( --seeds \d \d)?": (
        "test_two_simultaneous_runs_with_changes_are_two_experiments"
    ),
    r"python -m flows.distill --preset fashion_mnist .*--target \w+": "test_a_flow_runs_the_stages_that_a_target_needs",
    r"python -m flows.ablate experiments/ablations/\w+.yaml": (
        "test_members_are_tasks_and_experiments_and_runs_and_are_not_repeated"
    ),
    r"python -m flows.ablate experiments/ablations/\w+.yaml --dry-run": (
        "test_a_dry_run_lists_the_members_and_their_cost"
    ),
    r"python -m flows.search experiments/searches/\w+.yaml": "test_the_same_command_finishes_a_killed_search",
    r"python -m flows.search experiments/searches/\w+.yaml --dry-run": "test_a_dry_run_says_what_the_trials_cost",
    r"python -m evaluation.compare .*": "test_a_revision_is_fetched_from_dvc",
    r"python -m dmd.sample .*": "test_sample_writes_an_image",
    r"python -m dmd.edm.checkpoints .*": "test_the_command_prints_the_network_and_writes_safetensors",
    r"python -m flows.register": "test_registering_twice_makes_one_version",
    r"python -m flows.register --rollback": "test_a_rollback_restores_the_predecessor_and_lasts",
    r"python -m flows.register --promote 3": "test_a_promotion_by_hand_lasts_until_auto",
    r"python -m flows.reproduce models:/.*": "test_a_registered_version_is_reproduced_to_the_byte_in_a_fresh_clone",
    r"python -m flows.push models:/.* --dry-run": "test_a_dry_run_needs_no_token_and_uploads_nothing",
    r"python -m flows.push models:/.* --private": "test_a_version_is_uploaded_and_loads_without_this_project",
    r"python -m flows.playground .*": "test_it_draws_the_students_picture_beside_the_teachers",
    r"python -m flows.watch": "test_the_watch_reproduces_the_recorded_figures",
    r"export MLFLOW_TRACKING_URI=.*": "test_labels_seed_and_count_give_pngs",
    r"mlflow models serve .*": "test_labels_seed_and_count_give_pngs",
    r"curl localhost:8000/invocations .*": "test_labels_seed_and_count_give_pngs",
    r"pre-commit install": "test_every_hook_runs_a_tool_of_the_environment",
    r"python scripts/docs_tables.py --hardware": "test_the_memory_of_each_preset_is_that_of_the_hardware_table",
    r"python -m tests\.planted( --protections.*)?": "test_a_bug_can_still_be_planted",
}
# Commands that .ci/run runs, and cheap commands that test_docs.py runs itself.
RUN_BY_CI = (r"make test( ARGS=.*)?", r"make lint", r"make docs", r"\.ci/run")
RUN_HERE = (
    r"source \.venv/bin/activate",
    r"dvc exp show.*",
    r"python scripts/docs_tables\.py( --check)?",
    r"python scripts/notebook\.py --check",
)


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: str
    language: str
    body: str
    not_run: bool

    @property
    def commands(self) -> list[str]:
        """Shell commands, without comments and with continued lines joined."""
        text = self.body.replace("\\\n", " ")
        lines = (re.sub(r"\s+#\s.*$", "", line).strip() for line in text.splitlines())
        return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]


@functools.cache
def blocks() -> list[Block]:
    """Every fenced code block of every page."""
    result = []
    for page in PAGES:
        text = page.read_text()
        assert text.count("\n```") % 2 == 0, page
        for match in FENCE.finditer(text):
            name = str(page.relative_to(ROOT))
            result.append(Block(name, match["language"], match["body"], bool(NOT_RUN.search(match["before"]))))
    return result


def commands() -> list[tuple[str, str]]:
    """Page and command of every shell block that is not marked as not run."""
    shell = [block for block in blocks() if block.language in ("sh", "bash", "console")]
    return [(block.page, command) for block in shell if not block.not_run for command in block.commands]


@functools.cache
def names_of_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def matches(pattern: str, command: str) -> bool:
    return re.fullmatch(pattern, command) is not None
