"""Names of trunks are checked before any work is done, with one line for each mistake."""

from pathlib import Path

import pytest
import torch

from dmd.config import Params, validate
from dmd.distillation.gan.trunks import find_mistakes
from dmd.distillation.methods import Setting, check_method
from dmd.distillation.setup import files_in_params, load_trunks
from dmd.errors import ConfigError
from tests.helpers.networks import CPU
from tests.helpers.params import with_values

NOWHERE = Path("/nowhere")  # in place of the folder of stage `trunk`


def with_gan(params: Params, name: str = "dmd2", **gan: object) -> Params:
    return with_values(params, method={"name": name, "gan": params.method.gan.model_copy(update=gan)})


@pytest.mark.parametrize(
    ("name", "gan", "words"),
    [
        ("dmd2", {"trunks": ["vgg"]}, "method.gan.trunks: 'vgg' is not a frozen network"),
        ("dmd2", {"trunks": ["dinov2"]}, "method.gan.trunks: 'dinov2' has no weights; write dinov2:PATH"),
        ("dmd2", {"trunks": ["critic", "image"]}, "method.gan.trunks: critic, image exclude each other; list one"),
        ("dmd2", {"trunks": ["teacher", "teacher"]}, "method.gan.trunks: a trunk is listed twice"),
        ("dmd2", {"trunks": ["critic"], "loss": "relativistic"}, "method.gan.loss: relativistic compares pairs"),
        ("gdd", {"trunks": ["critic"]}, "method.gan.trunks: gdd has no critic, so critic cannot train"),
        (
            "f_distill",
            {"trunks": ["teacher"]},
            "method.gan.trunks: f_distill weights by the critic's heads",
        ),
        ("f_distill", {"loss": "hinge"}, "method.gan.loss: f_distill weights by the ratio that a logistic loss gives"),
        ("f_distill", {"t_min": 0.1}, "method.gan.t_min: 0.1 is not allowed; f_distill weights samples at every t"),
    ],
)
def test_a_mistake_is_one_line(params: Params, name: str, gan: dict, words: str) -> None:
    with pytest.raises(ConfigError) as e:
        check_method(with_gan(params, name, **gan))
    assert len(str(e.value).splitlines()) == 1 and str(e.value).startswith(words), str(e.value)


def test_valid_trunks_have_no_mistakes() -> None:
    trunks = ["critic:encoder", "teacher", "teacher:encoder", "efficientnet_lite1", "timm:timm/resnet18.a1_in1k@main"]
    assert find_mistakes(trunks) == []


def test_networks_of_images_need_a_teacher_on_pixels(params: Params) -> None:
    run = with_gan(params, trunks=["teacher", "efficientnet_lite1"], augment=True)
    check_method(run, Setting(on_pixels=True, has_images=True, pairs=0))
    with pytest.raises(ConfigError) as e:
        check_method(run, Setting(on_pixels=False, has_images=True, pairs=0))
    lines = str(e.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["method.gan.trunks", "method.gan.augment"]
    assert "efficientnet_lite1 needs images" in lines[0]


def test_a_network_that_cannot_be_loaded_is_one_line_with_its_key(params: Params) -> None:
    with pytest.raises(ConfigError, match=r"^method.gan.trunks: /none.pth does not exist$"):
        load_trunks(with_gan(params, trunks=["torchvision.vgg16:/none.pth"]).method, NOWHERE, CPU)
    assert load_trunks(with_gan(params, "dmd", trunks=["torchvision.vgg16:/none.pth"]).method, NOWHERE, CPU) == {}
    with pytest.raises(ConfigError, match=r"^method.gan.trunks: /nowhere holds no network; set trunk.source to train$"):
        load_trunks(with_gan(params, trunks=["own"]).method, NOWHERE, CPU)


@pytest.mark.parametrize("shard", ["full", 2])
def test_an_exact_penalty_needs_a_whole_teacher(params: Params, shard: str | int) -> None:
    raw = params.model_dump(by_alias=True)
    raw["train"] |= {"shard": shard, "processes": 2, "launcher": "accelerate"}
    exact = {"penalty": "exact", "trunk_r2_weight": 0.1, "trunks": ["teacher"]}
    for changes in ({"penalty": "finite_difference"}, {"trunk_r2_weight": 0.0}, {"trunks": ["efficientnet_lite1"]}):
        raw["method"]["gan"] |= exact | changes
        validate(raw, "params.yaml")
    raw["method"]["gan"] |= exact
    with pytest.raises(ConfigError, match=r"method.gan.penalty: exact passes .* use finite_difference, set train"):
        validate(raw, "params.yaml")


def test_trunks_are_resized_to_the_side_in_the_parameters(params: Params) -> None:
    run = with_gan(params, trunks=["efficientnet_lite1"], trunk_side=64)
    (net,) = load_trunks(run.method, NOWHERE, CPU).values()
    assert [f.shape[-1] for f in net(torch.zeros(1, 1, 28, 28))] == [32, 16, 8, 4, 2]


def test_the_weights_of_a_trunk_belong_to_the_fingerprint_of_a_run(params: Params) -> None:
    files = files_in_params(with_gan(params, trunks=["critic", "efficientnet_lite1"]))
    assert files["efficientnet_lite1"].is_file() and "critic" not in files
