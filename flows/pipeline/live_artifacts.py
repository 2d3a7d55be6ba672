"""Artifacts of a running flow in the Prefect UI: the link to its MLflow run, its curves and its last picture."""

import time
from pathlib import Path
from uuid import UUID

from prefect.artifacts import create_image_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from evaluation.report.html import embed_png
from flows.live.spool import Spool
from flows.pipeline.artifacts import link_run

SECONDS = 15.0  # between two updates, at first
SHARE = 0.02  # of the time so far: Prefect keeps each picture in its events, and a training can take days


class LiveArtifacts:
    """The artifacts of one run; a failure ends their updates, and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.began, self.updated = time.monotonic(), float("-inf")
        self.rows, self.picture = 0, ""  # number of rows and name of the picture that are shown
        self.artifacts: dict[str, UUID] = {}
        self.failed = False

    def begin(self, run_id: str) -> None:
        """Link to the MLflow run."""
        try:
            link_run(self.root, run_id)
        except Exception:  # the end of the flow links to it again
            self.failed = True

    def update(self, spool: Spool, is_last: bool) -> None:
        """Show the present curves and the last picture, if the last update was long enough ago or `is_last`."""
        now = time.monotonic()
        is_due = is_last or now - self.updated >= max(SECONDS, SHARE * (now - self.began))
        if self.failed or not is_due:
            return
        try:
            self._update(spool)
        except Exception:  # no failure of the server may end a stage that trains for days
            self.failed = True
        self.updated = now

    def _update(self, spool: Spool) -> None:
        feeds = list(spool.feeds.values())
        rows, picture = sum(feed.count for feed in feeds), spool.last_picture()
        if rows > self.rows:
            from flows.live.curves import draw_curves  # imports matplotlib, which takes a second

            if png := draw_curves(feeds):
                self._show("loss-curve", png, "losses and validation scores so far")
            self.rows = rows
        if picture and (name := spool.name(picture)) != self.picture:
            self._show("last-picture", picture.read_bytes(), f"images of the generator, {picture.stem}")
            self.picture = name

    def _show(self, key: str, png: bytes, words: str) -> None:
        """Create an artifact, or replace its picture."""
        data = str(embed_png(png))
        if key not in self.artifacts:
            self.artifacts[key] = create_image_artifact(data, key=key, description=words)  # type: ignore[assignment]
            return
        update = ArtifactUpdate(data=data, description=words)
        # Within a flow run, get_client returns the client of that run, which stays open.
        get_client(sync_client=True).update_artifact(self.artifacts[key], update)
