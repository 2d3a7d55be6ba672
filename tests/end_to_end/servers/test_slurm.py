"""A job on a local Slurm cluster runs a command, and continues it after the signal ahead of its time limit."""

import re
import subprocess
from pathlib import Path

import pytest

from flows import slurm
from tests.helpers.params import set_params
from tests.helpers.projects import commit, copy_of_the_project, run
from tests.helpers.servers import eventually
from tests.helpers.team.slurm import ask, local_cluster

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
pytestmark = pytest.mark.slow

PATIENCE = 500  # seconds, on a busy core


class Queued:
    """A job that `flows.slurm` has queued, by what the command printed."""

    def __init__(self, printed: str, env: dict[str, str]) -> None:
        match = re.match(r"job (\d+): [^\n]*\nlog (\S+);", printed)
        assert match, printed
        self.number, self.log, self.env = match[1], Path(match[2]), env

    def state(self) -> str:
        return ask(self.env, "show", "job", self.number)

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def interrupt(self) -> None:
        """Send the signal that Slurm sends ahead of a time limit."""
        subprocess.run(["scancel", "--signal=USR1", self.number], env=self.env, check=True)

    def wait_for(self, pattern: str) -> None:
        """Wait until Slurm describes the job by this pattern."""
        found = eventually(lambda: re.search(rf"{pattern}|JobState=FAILED", self.state()), PATIENCE)
        assert found and "FAILED" not in found[0], self.state() + self.text()


def test_a_job_is_queued_again_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is a small one of this test's own; the next test has a training."""
    command = "tests.helpers.team.patient"
    monkeypatch.setattr(slurm, "COMMANDS", (command,))
    monkeypatch.setattr(slurm, "FOLDER", tmp_path / "jobs")
    with local_cluster(tmp_path / "cluster") as env:
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, env[name])
        assert slurm.main(["--cpus", "1", "--", command, str(tmp_path / "mark")]) == 0
        job = Queued(capsys.readouterr().out, env)
        assert eventually(lambda: "waits" in job.text(), 60), job.state() + job.text()
        job.interrupt()
        job.wait_for("Restarts=1")
        job.wait_for("JobState=COMPLETED")
    assert (tmp_path / "mark").exists() and job.text().count("continues") == 1


@pytest.mark.long
def test_a_job_that_is_signalled_continues_from_its_checkpoint(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    set_params(project / "params.yaml", {"teacher.steps": 1500})
    commit(project, "a longer training")
    with local_cluster(tmp_path / "cluster") as env:
        words = ("--time", "60", "--cpus", "1", "--", "flows.distill", "--target", "teacher")
        job = Queued(run(project, "-m", "flows.slurm", *words, **env).stdout, env)
        assert eventually(lambda: "/1500 steps" in job.text(), PATIENCE), job.state() + job.text()
        job.interrupt()
        job.wait_for("Restarts=1")
        job.wait_for("JobState=COMPLETED")
    assert (project / "artifacts/teacher/model_index.json").is_file()
    assert job.text().count("Starting with ") == 2
    assert re.search(r"stopped by SIG(TERM|USR1); finished stages are kept", job.text())


def test_a_refused_job_is_one_line(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    with local_cluster(tmp_path / "cluster") as env:
        words = ("-m", "flows.slurm", "--partition", "none", "--", "flows.distill")
        done = run(project, *words, check=False, **env)
    own = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and own == ["error: Slurm refuses the job: Invalid partition name specified"], (
        done.stderr
    )
