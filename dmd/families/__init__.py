"""The families of teachers. To add a family, write its file and list it here; no pipeline may match two."""

from dmd.families.dit import Dit
from dmd.families.family import Family
from dmd.families.sdxl import Sdxl
from dmd.families.stable_diffusion import StableDiffusion
from dmd.families.transformers import TEXT_TRANSFORMERS
from dmd.families.unet import PixelUnet

FAMILIES: tuple[Family, ...] = (PixelUnet(), Dit(), Sdxl(), StableDiffusion(), *TEXT_TRANSFORMERS)
