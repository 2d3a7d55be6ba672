"""The families of transformers that read text. To add one, write its file and list it here."""

from dmd.families.transformers.aura_flow import AuraFlow
from dmd.families.transformers.base import TextTransformerFamily
from dmd.families.transformers.flux import Flux
from dmd.families.transformers.flux2 import Flux2Klein
from dmd.families.transformers.lumina2 import Lumina2
from dmd.families.transformers.pixart import PixArtSigma
from dmd.families.transformers.qwen_image import QwenImage
from dmd.families.transformers.sana import Sana
from dmd.families.transformers.sd3 import StableDiffusion3
from dmd.families.transformers.z_image import ZImage

TEXT_TRANSFORMERS: tuple[TextTransformerFamily, ...] = (
    *(StableDiffusion3(), Flux(), Flux2Klein(), PixArtSigma(), Sana()),
    *(Lumina2(), QwenImage(), ZImage(), AuraFlow()),
)
