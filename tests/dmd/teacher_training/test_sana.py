"""A Sana that is trained here is a teacher of the family Sana, and its folder runs in the stock pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from pydantic import ValidationError

from dmd.config import Params, load_params
from dmd.data.splits import DIGIT_NAMES, Split, load_split
from dmd.diffusion.denoiser import as_denoiser
from dmd.errors import TeacherError
from dmd.families.transformers.sana import Sana
from dmd.preparation.prepare import prepare
from dmd.storage.checkpoint import Scratch
from dmd.teacher_training.architectures import new_network, new_scheduler
from dmd.teacher_training.run import train_to_folder
from dmd.teachers.teacher import load_teacher
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT
from tests.helpers.sources import CAPTIONS

CHANGES = {
    "teacher.network": "sana", "teacher.prediction_type": "flow", "teacher.steps": 3, "teacher.batch_size": 4,
    "teacher.vae.channels": [8, 8, 16], "teacher.vae.steps": 3, "teacher.dit.width": 16, "teacher.dit.layers": 2,
    "teacher.text.hidden_size": 16, "teacher.text.layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def sana() -> Params:
    return load_params(ROOT / "params.yaml", CHANGES)


def images(side: int) -> Split:
    """Random images with the labels and captions of digits."""
    pixels = torch.randint(256, (20, 1, side, side), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    labels = torch.arange(20) % 10
    return Split(pixels, labels, [CAPTIONS[i] for i in labels.tolist()], DIGIT_NAMES, CAPTIONS)


def test_captions_are_embedded_as_the_family_does(sana: Params) -> None:
    torch.manual_seed(0)
    net, pipe = new_network(sana.teacher, images(32))
    tables = [table["embeddings"] for table in (Sana().embed(pipe, CAPTIONS), Sana().embed_empty(pipe))]
    assert torch.equal(torch.cat([table.lengths for table in tables]), net.mask.sum(dim=1))
    tokens = torch.cat([table.values for table in tables])
    torch.testing.assert_close(net.embeddings[net.mask.bool()], tokens, rtol=0, atol=1e-6)
    assert (net.embeddings[0] - net.embeddings[1]).abs().max() > 0.1  # captions differ


def test_a_trained_sana_is_a_teacher_and_a_stock_pipeline(sana: Params, scratch: Scratch, tmp_path: Path) -> None:
    data = {"size": 32, "validation": 800, "test": 800}  # the train split has the other 197 images
    prepare(sana.data.model_copy(update=data), tmp_path / "data")
    split, folder = load_split(tmp_path / "data", "train"), tmp_path / "teacher"
    rows = train_to_folder(sana.teacher, split, scratch, folder, CPU)
    assert rows[-1]["step"] == 3
    teacher = load_teacher(folder, CPU, captions=split.class_captions)
    assert teacher.shape == (4, 8, 8) and teacher.codec.image_shape(teacher.shape) == (1, 32, 32)

    net, _ = new_network(sana.teacher, split)
    net.transformer.load_state_dict(SanaPipeline.from_pretrained(folder).transformer.state_dict())
    torch.manual_seed(0)  # the text encoder's weights come from teacher.seed
    again, _ = new_network(sana.teacher, split)
    net.embeddings, net.mask = again.embeddings, again.mask
    trained = as_denoiser(net, new_scheduler(sana.teacher))
    x, t, label = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 990]), torch.tensor([0, 7, 10])
    with torch.no_grad():
        torch.testing.assert_close(teacher.denoiser(x, t, label), trained(x, t, label), rtol=0, atol=1e-4)

    pipe = SanaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(CAPTIONS[0], height=32, width=32, num_inference_steps=2, use_resolution_binning=False).images[0]
    assert picture.size == (32, 32)


def test_what_the_pipeline_cannot_take_is_refused(sana: Params) -> None:
    with pytest.raises(TeacherError, match=r"data.size: .* multiples of 32, not 28x28; change data.size"):
        new_network(sana.teacher, images(28))
    deep = sana.teacher.model_copy(update={"vae": sana.teacher.vae.model_copy(update={"channels": [8] * 7})})
    with pytest.raises(TeacherError, match=r"teacher.vae.channels: images of 32x32 are not divisible by 64"):
        new_network(deep, images(32))
    with pytest.raises(ValidationError, match=r"prediction_type: 'epsilon' is not sana's; set it to flow"):
        type(sana.teacher).model_validate({**sana.teacher.model_dump(), "prediction_type": "epsilon"})
