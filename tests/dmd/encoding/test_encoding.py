"""Stage `encode` stores the outputs of the VAE and of the text encoders, and teachers read them from disk."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dmd.config import EncodeConfig
from dmd.data.sequences import Sequences
from dmd.data.splits import Split, load_split
from dmd.encoding import encode as writer
from dmd.encoding.encode import encode
from dmd.encoding.encoded import Encoded, load_encoded
from dmd.errors import ConfigError, DataError
from dmd.families import tables as lookups
from dmd.families.family import embed_all
from dmd.families.pipelines import find_family, load_pipeline
from dmd.families.tables import Embedded, TableOnDisk, new_table
from dmd.networks.half import HALVED
from dmd.teachers.teacher import load_teacher
from tests.helpers.faults.damage import flip
from tests.helpers.networks import CPU

EXACT = EncodeConfig(precision="fp32", prompts="none")


@pytest.fixture
def split(data_folder: Path) -> Split:
    return load_split(data_folder, "train")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 100_000)


def encode_and_load(folder: Path, split: Split, tmp_path: Path, cfg: EncodeConfig = EXACT) -> Encoded:
    """Encode a split with the teacher in `folder`, and load the result."""
    (tmp_path / "work").mkdir(parents=True, exist_ok=True)
    encode(cfg, split, folder, tmp_path / "work", CPU, tmp_path / "encoded")
    return load_encoded(tmp_path / "encoded", split.class_captions)


@pytest.mark.usefixtures("small_shards")
def test_latents_are_the_vaes_output_for_every_image_in_order(
    folders: dict[str, Path], split: Split, tmp_path: Path
) -> None:
    latents = encode_and_load(folders["dit"], split, tmp_path).latents
    assert latents is not None and len(latents) == len(split.images) and len(latents.shards) > 2
    vae = load_pipeline(folders["dit"]).vae
    some = torch.tensor([0, 700, 3, len(latents) - 1])
    with torch.no_grad():
        want = vae.encode(split.images.unit()[some]).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(latents[some], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "pixart"])
def test_embeddings_from_disk_equal_those_in_memory(
    folders: dict[str, Path], split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tables = encode_and_load(folders[kind], split, tmp_path).texts
    pipe = load_pipeline(folders[kind])
    want = embed_all(find_family(pipe, folders[kind]), pipe, split.class_captions)
    assert tables is not None and set(tables) == set(want)
    for name, table in want.items():
        stored = tables[name][:]
        if isinstance(table, Sequences):
            assert isinstance(stored, Sequences) and torch.equal(stored.lengths, table.lengths)
            stored, table = stored.values, table.values
        torch.testing.assert_close(stored, table, rtol=1e-5, atol=1e-6)
    held, x, t = (
        load_teacher(folders[kind], CPU, captions=split.class_captions),
        torch.randn(3, 4, 4, 4),
        torch.arange(3),
    )
    monkeypatch.setattr(lookups, "MAX_BYTES_IN_MEMORY", 0)
    on_disk = load_teacher(folders[kind], CPU, 2.0, split.class_captions, tables)
    assert any(isinstance(part, TableOnDisk) for part in on_disk.denoiser.net.modules())
    labels = torch.tensor([4, 4, 10])  # the last one is the null caption
    torch.testing.assert_close(on_disk.denoiser(x, t, labels), held.denoiser(x, t, labels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        on_disk.denoiser(x, t, labels - 1), held.denoiser(x, t, labels - 1), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(on_disk.guided(x, t, labels[:1].expand(3)), on_disk.denoiser(x, t, labels[:1].expand(3)))


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "pixart"])
def test_embeddings_that_exceed_the_memory_are_computed_when_they_are_read(
    folders: dict[str, Path], split: Split, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A generator that is loaded without stage `encode` reads the captions of a batch only, each of them once."""
    held = load_teacher(folders[kind], CPU, captions=split.class_captions)
    batches: list[int] = []
    family = type(find_family(load_pipeline(folders[kind]), folders[kind]))
    embed = family.embed
    monkeypatch.setattr(
        family, "embed", lambda self, pipe, texts: batches.append(len(texts)) or embed(self, pipe, texts)
    )
    monkeypatch.setattr(lookups, "MAX_BYTES_IN_MEMORY", 0)
    computed = load_teacher(folders[kind], CPU, captions=split.class_captions)
    assert batches == [1]  # the empty caption
    x, labels = torch.randn(4, 4, 4, 4), torch.tensor([4, 4, 10, 2])  # the third is the null caption
    want, got = (t.denoiser(x, torch.arange(4), labels) for t in (held, computed))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert batches == [1, 2]


def test_copies_of_a_network_share_the_embeddings_read_last(
    folders: dict[str, Path], split: Split, tmp_path: Path
) -> None:
    tables = encode_and_load(folders["sd"], split, tmp_path).texts
    assert tables is not None
    reads: list[Tensor] = []

    class Counting(type(tables["embeddings"])):
        def __getitem__(self, index: slice | Tensor) -> Tensor:
            reads.append(torch.as_tensor(0))
            return super().__getitem__(index)

    one = TableOnDisk(Counting(tables["embeddings"].shards))
    other = copy.deepcopy(one)
    index = torch.tensor([2, 5])
    assert torch.equal(one(index), other(index)) and len(reads) == 1
    assert not torch.equal(one(index), other(index + 1)) and len(reads) == 2
    guided = torch.cat([index, torch.tensor([10, 10])])
    for each in (index, guided, index, guided):  # generator, teacher, critic, and the next network
        one(each)
    assert len(reads) == 3


@pytest.mark.parametrize("rows", [torch.rand(5, 3), Sequences(torch.rand(6, 2), torch.tensor([1, 2, 3]), 3)])
def test_copies_of_a_network_share_a_table_in_memory(rows: Embedded) -> None:
    """To cast or to move a copy leaves the others as they are."""
    one = new_table(rows)
    other = copy.deepcopy(torch.nn.Sequential(one))
    ours, theirs = list(one.buffers()), list(other.buffers())
    assert ours and [a.data_ptr() for a in ours] == [b.data_ptr() for b in theirs]
    other.double()
    assert next(one.buffers()).dtype == torch.float32 and next(other.buffers()).dtype == torch.float64
    assert not one.state_dict() and not other.state_dict()


@pytest.mark.usefixtures("small_shards")
def test_a_killed_run_resumes_after_its_last_complete_shard(
    folders: dict[str, Path], split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_and_load(folders["sd"], split, tmp_path)
    saved: list[str] = []

    def interrupt(tensors: dict[str, Tensor], file: Path) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(file.name)
        save_file(tensors, file)

    monkeypatch.setattr(writer, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encode_and_load(folders["sd"], split, tmp_path / "again")
    assert not (tmp_path / "again" / "encoded").exists()
    kept = sorted((tmp_path / "again").rglob("*.safetensors"))
    assert len(kept) == 2
    flip(kept)
    saved.remove(f".{kept[0].name}.partial")
    monkeypatch.setattr(writer, "save_file", lambda tensors, file: (saved.append(file.name), save_file(tensors, file)))
    again = encode_and_load(folders["sd"], split, tmp_path / "again")
    assert len(saved) == len(set(saved)) > 2  # no intact shard was written twice
    assert whole.latents is not None and again.latents is not None
    assert torch.equal(whole.latents[:], again.latents[:])
    files = sorted(p.name for p in (tmp_path / "encoded").iterdir())
    assert all((tmp_path / "encoded" / f).read_bytes() == (tmp_path / "again/encoded" / f).read_bytes() for f in files)


def test_a_changed_byte_is_an_error(folders: dict[str, Path], split: Split, tmp_path: Path) -> None:
    encode_and_load(folders["sd"], split, tmp_path)
    file = tmp_path / "encoded" / "latents.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"latents.safetensors has changed since it was encoded"):
        load_encoded(tmp_path / "encoded")
    file.unlink()
    with pytest.raises(DataError, match="run the encode stage again"):
        load_encoded(tmp_path / "encoded")


def test_half_precision_takes_half_the_disk(folders: dict[str, Path], split: Split, tmp_path: Path) -> None:
    exact = encode_and_load(folders["sd"], split, tmp_path / "a")
    half = encode_and_load(folders["sd"], split, tmp_path / "b", EncodeConfig(precision="fp16", prompts="none"))
    assert exact.latents is not None and half.latents is not None
    assert half.latents.nbytes * 2 == exact.latents.nbytes
    torch.testing.assert_close(half.latents[:].float(), exact.latents[:], rtol=1e-3, atol=1e-3)
    net = load_teacher(folders["sd"], CPU, 1.0, split.class_captions, half.texts).denoiser.net
    assert net.embeddings(torch.tensor([1])).dtype == torch.float32


@pytest.mark.parametrize("kind", ["sd3", "sana", "flux2"])
def test_encoders_run_in_bf16_if_that_is_stored_and_the_teachers_network_is_not_read(
    folders: dict[str, Path], split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The statistics of latents stay in float32. fp16 is the stored type alone, since text encoders may exceed it."""
    pipes = []
    load = writer.load_pipeline
    monkeypatch.setattr(writer, "load_pipeline", lambda *args, **how: pipes.append(load(*args, **how)) or pipes[-1])
    found = {}
    for precision in ("fp32", "bf16", "fp16"):
        cfg = EncodeConfig(precision=precision, prompts="none")
        found[precision] = encode_and_load(folders[kind], split, tmp_path / precision, cfg)
        pipe = pipes[-1]
        encoders = [p for name, p in pipe.components.items() if name.startswith("text_encoder")]
        types = {p.dtype for net in encoders for p in net.parameters()}
        assert types == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {p.dtype for m in pipe.vae.modules() if isinstance(m, HALVED) for p in m.parameters()} == types
        assert all(p.is_meta for p in pipe.transformer.parameters())
    exact, close = found["fp32"], found["bf16"]
    assert exact.texts and close.texts and exact.latents is not None and close.latents is not None
    assert_near(exact.texts["embeddings"][:], close.texts["embeddings"][:])
    assert_near(exact.latents[:], close.latents[:])


def assert_near(exact: Tensor | Sequences, close: Tensor | Sequences) -> None:
    """The values differ by rounding alone."""
    a, b = (v.values.float() if isinstance(v, Sequences) else v.float() for v in (exact, close))
    assert b.isfinite().all() and 0 < (a - b).std() < 0.05 * a.std()


def test_pixels_and_labels_need_no_encoding(folders: dict[str, Path], split: Split, tmp_path: Path) -> None:
    encoded = encode_and_load(folders["ddpm"], split, tmp_path)
    assert encoded == Encoded(None, None, split.class_captions)
    assert {p.name for p in (tmp_path / "encoded").iterdir()} == {"manifest.json"}


def test_prompts_of_the_generator_follow_the_captions_and_keep_the_null_row_last(
    folders: dict[str, Path], split: Split, tmp_path: Path
) -> None:
    """The tables are those of a data set with both; the generator draws the prompts alone."""
    (tmp_path / "prompts.txt").write_text("a red seven\n\n two   eights\n", encoding="utf-8")
    cfg = EncodeConfig(precision="fp32", prompts=str(tmp_path / "prompts.txt"))
    encoded = encode_and_load(folders["sana"], split, tmp_path, cfg)
    captions = (*split.class_captions, "a red seven", "two eights")
    assert encoded.captions == captions and encoded.draw_from(split.labels).tolist() == [10, 11]
    assert encoded.own_prompts == ("a red seven", "two eights")
    given = load_teacher(folders["sana"], CPU, 2.0, captions, encoded.texts)
    computed = load_teacher(folders["sana"], CPU, 2.0, captions)
    x, t, labels = torch.randn(3, *given.shape), torch.tensor([3, 500, 999]), torch.tensor([2, 10, 11])
    with torch.no_grad():
        torch.testing.assert_close(given.guided(x, t, labels), computed.guided(x, t, labels), rtol=1e-4, atol=1e-5)
    assert given.guided.null == len(captions)
    without = encode_and_load(folders["sana"], split, tmp_path / "without")
    assert without.captions == split.class_captions and without.own_prompts == ()
    assert torch.equal(without.draw_from(split.labels), split.labels)


def test_prompts_need_a_teacher_on_captions_and_a_file_with_prompts(
    folders: dict[str, Path], split: Split, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("one\n")
    (tmp_path / "empty.txt").write_text(" \n")
    for kind, name, error, words in (
        ("dit", "prompts.txt", ConfigError, "encode.prompts: .* takes no captions; set it to none"),
        ("sd", "empty.txt", DataError, "empty.txt has no prompt; write one in each line"),
    ):
        with pytest.raises(error, match=words):
            encode_and_load(
                folders[kind], split, tmp_path, EncodeConfig(precision="fp32", prompts=str(tmp_path / name))
            )
