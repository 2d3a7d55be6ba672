from dmd.config import Params as Params
from dmd.config import load_params as load_params
from dmd.data.splits import Split as Split
from dmd.data.splits import load_split as load_split
from dmd.device import choose_device as choose_device
from dmd.diffusion.denoiser import Denoiser as Denoiser
from dmd.generator.generator import Generator as Generator
from dmd.generator.generator import load_generator as load_generator
from dmd.library import Distillation as Distillation
from dmd.samplers.sampler import Sampler as Sampler
from dmd.teachers.teacher import Teacher as Teacher
from dmd.teachers.teacher import load_teacher as load_teacher

NAMES: dict[str, str]
