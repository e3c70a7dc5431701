"""The numbers on which 3DGS rasterizers differ, as named sets; a set is an argument of every frame."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Constants:
    """One rasterizer's numbers (gsplat `cuda/include/Common.h`, `Utils.cuh`; main: `cuda/_constants.py`)."""

    name: str
    alpha_cap: float
    alpha_threshold: float = 1 / 255  # a fainter contribution is skipped
    transmittance_stop: float = 1e-4  # a pixel ends before the splat that would bring it to this or below
    blur_px2: float = 0.3  # added to the diagonal of the 2D covariance (eps2d)
    frustum_margin: float = 0.3  # the Jacobian's x/z, y/z are clamped to the frustum widened by this x tan(fov / 2)
    compensation_floor: float = 0.0  # smallest opacity factor of antialiased mode


CONSTANTS = MappingProxyType(
    {
        "gsplat-1.5.3": Constants("gsplat-1.5.3", alpha_cap=0.999),
        "main": Constants("main", alpha_cap=0.99, compensation_floor=0.005),
    }
)
DEFAULT = CONSTANTS["gsplat-1.5.3"]

# Real spherical harmonics as 3DGS files use them (coefficients of the basis polynomials, bands 0 to 3).
SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
SH_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)
