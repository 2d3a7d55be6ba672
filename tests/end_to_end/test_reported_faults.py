"""Faults that others reported, and their siblings, by the command that a user gives: the preset quick and `--set`.

Each name begins with the number of its kind: 1 what the last step needs is not checked first, 2 loads but was never
run, 3 input is dropped without a count, 4 the environment decides, 5 DVC and the worktree around a stage, 6 limits that
are not tied together, 7 all at once, 8 files that are larger than they look. A case that is refused must say so in one
line, and within SECONDS on an idle machine. A case that works runs up to the stage that failed before.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.faults.commands import Ended, command
from tests.helpers.faults.inputs import (
    Changes,
    Make,
    add,
    captions,
    digits,
    flatten,
    folder,
    foreign_database,
    hard_links,
    huge_png,
    long_caption,
    long_text,
    lost_links,
    many_row_groups,
    nothing,
    prompts,
    put,
    relative,
    shards,
    teacher,
    two_of_each,
    with_long_text,
)
from tests.helpers.projects import copy_of_the_project, versions
from tests.helpers.teachers.changes import DROP, SCHEDULER, UNET, config, network, pixel_unet, tiny_vae, weights
from tests.helpers.teachers.hub_folders import text_unet, transformer

pytestmark = [pytest.mark.slow, pytest.mark.long]

SECONDS = 20.0  # on an idle machine
BUSY = 2.0  # factor by which CPU time itself may grow on a busy machine, whose processes share its caches
GIB = 2**30
Environment = dict[str, str | Callable[[Path], str]]  # a value may be a function of the case's folder
DEAD = "http://127.0.0.1:9"
PROXIES: Environment = {name: DEAD for word in ("http_proxy", "https_proxy") for name in (word, word.upper())}
TOKENIZER = "tokenizer/tokenizer_config.json"


@dataclass(frozen=True)
class Case:
    """A fault: its set-up, the arguments of the command, and the text that the output must have."""

    name: str
    make: Make
    words: str
    target: str | None = None
    env: Environment = field(default_factory=dict)
    preset: str = "quick"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose first run has made the databases, data, a teacher and pairs."""
    root = copy_of_the_project(tmp_path_factory.mktemp("reported") / "project")
    ended = command(root, "-m", "flows.distill", "--preset", "quick", "--target", "pairs")
    assert ended.code == 0, ended.err
    ended = command(root, "-c", "from pathlib import Path; from flows.registry.store import check_store;"
                    "check_store(Path.cwd(), 'onestep', 'digits-one-step')")  # fmt: skip
    assert ended.code == 0, ended.err
    return root


def run(project: Path, case: Case) -> Ended:
    """Make the inputs of a case in the project, where git does not track them, and run its command."""
    place = project / "inputs" / "".join(c if c.isalnum() else "_" for c in case.name)
    place.mkdir(parents=True)
    changes = case.make(place)
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    target = ["--target", case.target] if case.target else []
    env = {name: value if isinstance(value, str) else value(place) for name, value in case.env.items()}
    ended = command(project, "-m", "flows.distill", "--preset", case.preset, *sets, *target, env=env)
    print(f"{case.name}: {ended.seconds:.1f} s, {ended.memory / GIB:.2f} GiB, {ended.errors}")  # shown by pytest -rP
    assert "Traceback" not in ended.out + ended.err, ended.err
    return ended


REFUSED = [
    Case("1 a name that no registry takes", nothing(register__name="a/b"), "register.name: 'a/b' is not allowed"),
    Case("1 a measure that the gate does not know", nothing(register__gate__measures="[fid]"), "register.gate"),
    Case("1 a server of MLflow that is not there", nothing(), "can't be reached", env={"MLFLOW_TRACKING_URI": DEAD}),
    Case("1 a server of Prefect that is not there", nothing(), "can't be reached", env={"PREFECT_API_URL": DEAD}),
    Case("1 a folder that cannot be written", nothing(), "set DMD_SCRATCH to a folder", env={"DMD_SCRATCH": "/proc/x"}),
    Case("1 more than the disk holds", nothing(pairs__count=10**11), "are free there; make room"),
    Case("1 a method without its trunk", nothing(method__name="gdd"), "method.gan.trunks: gdd has no critic"),
    Case("2 a UNet conditioned on times", teacher("ddpm", network("unet", pixel_unet(class_embed_type="timestep"))),
         "given no labels, as its config has no num_class_embeds, cannot run", "teacher"),
    Case("2 a UNet conditioned on a projection", teacher("sd", network("unet", lambda: text_unet(
        16, class_embed_type="projection", projection_class_embeddings_input_dim=8))), "given captions, cannot run",
        "teacher"),
    Case("2 a VAE that divides by zero", teacher("sd", config("vae/config.json", scaling_factor=0)),
         "its VAE decodes latents to values that are NaN or infinite; correct ", "teacher"),
    Case("2 a schedule that is no number", teacher("ddpm", config(SCHEDULER, beta_end=float("nan"))),
         f"{SCHEDULER} gives coefficients that are NaN or infinite; correct it", "teacher"),
    Case("2 a weight that is missing", teacher("ddpm", weights("unet", lambda t: t.pop("conv_out.bias"))),
         "has no weight conv_out.bias", "teacher"),
    Case("3 a value that DVC would replace", nothing(data__caption="a ${data.size} {name}"), "data.caption: "),
    Case("3 images beside class folders", folder(put("loose.png")), "both in class folders and beside them", "data"),
    Case("3 hard links to nothing", shards(lost_links), "is a link to gone.png, which the shard does not hold", "data"),
    Case("3 a table with an open quote", captions('a "', "b"), "data.captions: ", "data"),
    Case("4 a Prefect database of another version", nothing(), "move the file away and run again", "data", {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": foreign_database("sqlite+aiosqlite", "flow_run")}),
    Case("4 an MLflow database of another version", nothing(), "move the file away and run again", None, {
        "MLFLOW_TRACKING_URI": foreign_database("sqlite", "runs")}),
    Case("4 a setting of Prefect that is wrong", nothing(), "a setting of Prefect is wrong", "data",
         {"PREFECT_API_REQUEST_TIMEOUT": "soon"}),
    Case("4 an interpreter without docstrings", nothing(), "PYTHONOPTIMIZE=2 removes docstrings", "data",
         {"PYTHONOPTIMIZE": "2"}),
    Case("5 a link to nothing", folder(lambda place: (place / "cat/l.png").symlink_to("gone")),
         "cat/l.png: a link to gone, which does not exist; remove the link or restore its target", "data"),
    Case("5 a name in Latin-1", folder(put("cat/caf\xe9.png")), r"cat/caf\xe9.png: its name is not UTF-8; rename it"),
    Case("5 a pipe", folder(lambda place: os.mkfifo(place / "dog/p.png")), "a pipe, socket or device"),
    Case("5 a folder that is not there", nothing(data__source="folder", data__folder="inputs/none"), "data.folder: "),
    Case("5 the project itself", nothing(data__source="folder", data__folder="."), "holds the project itself; move"),
    Case("6 one test image", nothing(data__test=1), "data.test"),
    Case("6 one validation image", nothing(data__validation=1), "data.validation"),
    Case("6 as many neighbours as images", nothing(baseline__neighbours=300), "data.test: 300 images are too few"),
    Case("6 a test split without labels", shards(label=b"-1", data__test="all"), "name another split in data.test_spl",
         "data"),
    Case("6 too few images in a split of the set", folder(two_of_each, ("train/cat", "train/dog"), data__test="all"),
         "the split test has 2 images, but the measures need 4", "data"),
    Case("6 more steps than noise levels", nothing(teacher__timesteps=20), "steps do not fit on the teacher"),
    Case("8 a picture of 20,000 x 20,000", folder(put("cat/huge.png", content=huge_png(20_000))),
         "cat/huge.png: more than twice the pixels that data.max_pixels allows; raise it", "data"),
    Case("8 such a picture in a shard", shards(lambda tar: [
        add(tar, "x.png", huge_png(20_000)), add(tar, "x.cls", b"0")]), "pixels that data.max_pixels allows", "data"),
    Case("8 a caption of 900 MB in a shard", shards(long_caption, data__captions="txt"),
         ".txt has 900,000,000 bytes, more than the 40,000 that are read", "data"),
    Case("8 a text of 600 MB in a parquet file", prompts(long_text), "write it again with smaller row groups", "data"),
    Case("8 half a million row groups in a parquet file", prompts(many_row_groups),
         "its footer has 33,554,432 bytes, more than the 16,777,216 that are read; write it again", "data"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_it_is_refused_in_one_line_and_in_time(project: Path, case: Case) -> None:
    ended = run(project, case)
    assert ended.code in (1, 2) and len(ended.errors) == 1 and case.words in ended.errors[0], ended.err
    assert ended.seconds < BUSY * SECONDS and ended.memory < 1.5 * GIB, (ended.seconds, ended.waits, ended.memory)


def own_preset(place: Path) -> Changes:
    """Write the preset `own`, whose teacher is a path relative to the project; git does not track the teacher."""
    presets = place.parents[1] / "experiments" / "presets"
    keys = [f"  {key}: {value}\n" for key, value in teacher("ddpm")(place).items() if key != "pairs.count"]
    (presets / "own.yaml").write_text((presets / "quick.yaml").read_text() + "".join(keys))
    return {}


LONG = [f"number {i}: " + " ".join(["a very long description of a picture"] * 6) + f" {i}" for i in range(13)]
WORKS = [
    Case("2 a UNet without sample_size", teacher("ddpm", config(UNET, sample_size=DROP)), "8 pairs", "pairs"),
    Case("2 a tokenizer without model_max_length", teacher("sd", config(TOKENIZER, model_max_length=DROP)), "8 pairs",
         "pairs"),
    Case("2 a DiT with out_channels null", teacher("dit", network("transformer", transformer)), "8 pairs", "pairs"),
    Case("2 an AutoencoderTiny", teacher("dit", network("vae", tiny_vae)), "8 pairs", "pairs"),
    # Its weights are those of a case before, whose pairs DVC then restores.
    Case("2 a teacher in one folder", teacher("ddpm", flatten), "DDPMPipeline with UNet2DModel", "pairs"),
    Case("3 long captions", captions(*LONG, evaluator__steps=2, evaluator__classifier_steps=2),
         "evaluator: CLIP from train; classifier untrained: no classes (", "evaluator"),
    Case("3 captions that are cut", captions(*(f"{'x' * 600} {i}" for i in range(13)), evaluator__steps=2,
                                             evaluator__classifier_steps=2),
         "warning: CLIP reads 13 of 13 different captions as the same text as another", "evaluator"),
    Case("3 hard links in a shard", shards(hard_links), "webdataset, 60 train, 8 validation, 8 test", "data"),
    Case("3 half a class in another format", folder(put(*(f"cat/{i}.heic" for i in range(15)), "dog/none")),
         "16 passed by (15 .heic, 1 without an ending)", "data"),
    Case("3 other files beside class folders", folder(put("README.pdf", "features.h5")),
         "44 train, 8 validation, 8 test, 2 passed by (1 .h5, 1 .pdf)", "data"),
    Case("3 a PNG with a long text", folder(with_long_text), "folder, 44 train, 8 validation, 8 test (", "data"),
    Case("4 proxies that answer nothing", nothing(data__caption="by proxy {name}"), "data Ran", "data", PROXIES),
    Case("4 an MLflow run around it", nothing(data__caption="in a run {name}"), "data Ran", "data",
         {"MLFLOW_RUN_ID": "0" * 32, "GIT_DIR": "/nowhere", "GIT_INDEX_FILE": "/nowhere/index"}),
    Case("5 a relative folder", folder(), "folder, 44 train, 8 validation, 8 test", "data"),
    Case("5 a relative folder of a link", lambda place: folder()(place / "a") | {
        "data.folder": (place / "l").symlink_to("a") or f"{relative(place)}/l"}, "folder, 44 train", "data"),
    Case("5 an umlaut and a space in a name", folder(classes=("große Katze", "dog")), "44 train", "data"),
    Case("5 a relative folder in a preset", own_preset, "300 pairs", "pairs", preset="own"),
    Case("6 another split is the test", shards(label=b"0", data__test_split="validation", data__test="all"),
         "12 passed by (12 in split test)", "data"),
    Case("7 more pairs than a shard holds", nothing(pairs__count=132_000, pairs__steps=1, pairs__batch_size=4096),
         "132000 pairs", "pairs"),
    Case("7 a thousand long captions", captions(*(f"{i} {'x' * 450}" for i in range(1000)), count=1016,
         baseline__samples=1000, evaluator__steps=1, evaluator__classifier_steps=1, evaluator__batch_size=2,
         baseline__ddim_steps="[2]", teacher__network="text_unet", teacher__steps=2, teacher__vae__steps=2),
         "best by evaluator: ddim_2", "baseline"),
]  # fmt: skip


@pytest.mark.parametrize("case", WORKS, ids=lambda case: case.name)
def test_it_works_up_to_where_it_failed(project: Path, case: Case) -> None:
    ended = run(project, case)
    assert ended.code == 0 and case.words in ended.out + ended.err, ended.out + ended.err
    assert ended.memory < 2 * GIB, ended.memory
    if case.target in (None, "data"):
        assert ended.seconds < BUSY * SECONDS, (ended.seconds, ended.waits)


# Kinds 1, 3 and 5 at the end of a run: one whole run, whose stages the later ones find in DVC's cache.

CAPTION = "une écriture: \\ de {name}"
SMALLEST: Changes = {
    "teacher.steps": 10, "evaluator.steps": 5, "evaluator.classifier_steps": 5, "baseline.samples": 60,
    "baseline.ddim_steps": "[2]", "pairs.count": 32, "train.warm_start.turns": 4, "train.warm_start.critic_turns": 2,
    "train.generator_turns": 4, "train.validate_every": 2, "data.caption": f"'{CAPTION}'",
}  # fmt: skip


def words(changes: Changes) -> list[str]:
    """Options of the flow that make changes to params.yaml."""
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def odd(project: Path) -> Changes:
    """The changes of a whole run with class names that MLflow refuses, after that run."""
    changes = digits(project / "inputs" / "odd") | SMALLEST
    ended = command(project, "-m", "flows.distill", "--preset", "quick", *words(changes))
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    return changes


def experiment_file(project: Path, name: str, file: str) -> str:
    """A file of the DVC experiment whose name begins with `name`."""
    (reference,) = (project / ".git/refs/exps").rglob(f"{name}*")
    shown = ["git", "show", f"{reference.relative_to(project / '.git')}:{file}"]
    return subprocess.run(shown, cwd=project, capture_output=True, text=True, check=True).stdout


def test_class_names_that_mlflow_refuses_are_published(project: Path, odd: Changes) -> None:
    registered, _, running = versions(project)  # the runs of cases before have failed, or are of one stage
    assert (registered, running) == (1, 0)
    code = (
        "import mlflow; from pathlib import Path; from flows.registry.store import tracking_uri;"
        "c = mlflow.MlflowClient(tracking_uri(Path.cwd())); runs = c.search_runs([e.experiment_id for e in "
        "c.search_experiments()]); (names,) = filter(None, ([k for k in r.data.metrics if 'classes' in k and "
        "'accuracy' in k] for r in runs)); print(*names)"
    )
    names = command(project, "-c", code)
    assert names.code == 0 and len({k.rpartition(".")[0] for k in names.out.split()}) >= 3, names.out + names.err


def test_an_experiment_is_saved_without_a_git_user(project: Path, odd: Changes) -> None:
    changes = odd | {"register.name": "nobody"}
    ended = command(project, "-m", "flows.distill", "--preset", "quick", *words(changes), anonymous=True)
    assert ended.code == 0, ended.err
    assert "note: git has no user here, so experiments are committed as onestep <onestep@localhost>" in ended.err
    name = ended.out.split("dvc exp apply ")[1].split()[0]
    (reference,) = (project / ".git/refs/exps").rglob(name)
    show = ["git", "log", "-1", "--format=%an <%ae>", str(reference.relative_to(project / ".git"))]
    shown = subprocess.run(show, cwd=project, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "onestep <onestep@localhost>"


def test_a_row_of_an_ablation_runs_with_its_own_text(project: Path, odd: Changes) -> None:
    base = "".join(f"  {key}: {value}\n" for key, value in odd.items() if key != "data.caption")
    rows = f"rows:\n  - name: text\n    changes: {{data.caption: '{CAPTION}'}}\n"
    file = project / "experiments" / "ablations" / "own.yaml"
    file.write_text(f"description: a text\npreset: quick\nseeds: [0]\nbase:\n{base}{rows}")
    ended = command(project, "-m", "flows.ablate", str(file.relative_to(project)))
    assert ended.code == 0, ended.err
    assert f"caption: '{CAPTION}'" in experiment_file(project, "own-text", "params.yaml")


def test_a_generator_by_a_relative_path_is_a_start(project: Path, odd: Changes) -> None:
    found = next((project / "runs" / "mlflow").rglob("generator.json")).parent
    shutil.copytree(found, project / "inputs" / "start")
    changes = odd | {"method.init_from": "inputs/start"}
    ended = command(project, "-m", "flows.distill", "--preset", "quick", *words(changes), "--target", "train")
    assert ended.code == 0 and "train Ran" in ended.out, ended.err
