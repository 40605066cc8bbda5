"""A scene from above, without its ceilings, and the cameras of its pairs: one map a storey."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from generation.covisibility import surface_points
from generation.geometry import Camera, Float32, Float64, UInt8
from generation.raycast import RayCaster
from generation.renderers.texturing import SurfaceColors
from generation.scenes.scene import Scene
from generation.view import View
from pipelines.figures.charts import BLUE, ORANGE

STOREY_GAP_M = 1.0
"""Cameras stand 1.2 to 1.8 m above their floor: heights this far apart are two storeys'."""
CUT_M = 0.2
"""What is this far above a storey's highest camera is cut off: ceilings, and lamps below them."""
REACH_M = 5.0
"""How far a plan goes beyond the outermost cameras, where the scene does."""
MARGIN_M = 0.25
PIXELS = 640
"""Longer side of a plan."""
EYE_M = 1000.0
"""Height above the cut from which a plan is seen, so that what stands upright hardly leans."""
SHADOW_M = 0.12
"""Width of the shade around what stands higher."""
PAPER = 244.0
"""Grey level that a plan's colours are mixed with, so that the cameras stand out."""

Extent = tuple[float, float, float, float]
"""Least x, greatest x, least z, greatest z, metres."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StoreyPlan:
    """A storey seen from above: x to the right, z down."""

    image: UInt8
    """(H, W, 4) RGBA; transparent where nothing is."""
    extent: Extent
    """Of the image's edges."""


def split_storeys(heights_m: Float64) -> list[NDArray[np.int64]]:
    """Group (N,) camera heights into storeys, from the lowest; return each one's indices."""
    order = np.argsort(heights_m, kind="stable")
    gaps = np.flatnonzero(np.diff(heights_m[order]) > STOREY_GAP_M)
    return [np.sort(part) for part in np.split(order, gaps + 1)]


class PlanDrawer:
    """Draws plans of one scene's mesh."""

    def __init__(self, scene: Scene, caster: RayCaster) -> None:
        self._scene = scene
        self._caster = caster
        self._surface = SurfaceColors.of_scene(scene)

    def draw(self, centres: Float64) -> StoreyPlan:
        """Draw what lies below a storey's (N, 3) camera centres, and around them."""
        extent = _extent(self._scene.bounds.astype(float), centres)
        cut_height_m = float(centres[:, 1].max()) + CUT_M
        camera = _camera_above(extent, cut_height_m, 2)
        directions = camera.world_rays()
        hits = self._caster.cast(camera.centre + EYE_M * directions, directions)
        depth_m = hits.distances.reshape(camera.image_size).copy()
        hits.distances[hits.hit] += np.float32(EYE_M)
        color = self._surface.shade(camera, directions, hits)
        there = hits.hit.reshape(camera.image_size)
        image = Image.fromarray(_drawn(color, depth_m, there, camera)).reduce(2)
        return StoreyPlan(image=np.asarray(image), extent=extent)


def plan_of_views(views: Iterable[View], centres: Float64) -> StoreyPlan | None:
    """Draw a storey from the surface points of views with depth, for want of the scene's mesh.

    None where they show nothing below the cameras.
    """
    cut_height_m = float(centres[:, 1].max()) + CUT_M
    points, colors = [np.empty((0, 3))], [np.empty((0, 3), np.uint8)]
    for view in views:
        points.append(surface_points(view.camera, view.depth_m))
        colors.append(view.color.reshape(-1, 3)[view.depth_m.ravel() > 0])
    all_points, all_colors = np.concatenate(points), np.concatenate(colors)
    below = np.flatnonzero(all_points[:, 1] < cut_height_m)
    below = below[np.argsort(all_points[below, 1], kind="stable")]  # the highest is drawn last
    if not len(below):
        return None
    bounds = np.stack([all_points[below].min(axis=0), all_points[below].max(axis=0)])
    extent = _extent(bounds, centres)
    camera = _camera_above(extent, cut_height_m, 0.5)
    pixels, depth_m = camera.project(all_points[below])
    height, width = camera.image_size
    column, row = pixels[:, 0].astype(int), pixels[:, 1].astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = row[inside], column[inside]
    color = np.zeros((height, width, 3), np.uint8)
    depths = np.zeros((height, width), np.float32)
    there = np.zeros((height, width), np.bool_)
    color[row, column] = all_colors[below[inside]]
    depths[row, column] = depth_m[inside] - EYE_M
    there[row, column] = True
    return StoreyPlan(image=_drawn(color, depths, there, camera), extent=extent)


def map_figure(
    plan: StoreyPlan | None, centres: Float64, forwards: Float64, hfov_deg: float
) -> Figure:
    """Draw pairs of cameras on a plan: view 1 blue, view 2 orange, a line between both.

    centres, forwards: (N, 2, 3) metres, unit vectors; hfov_deg: angle of the drawn fields of view.
    """
    flat = centres.reshape(-1, 3)
    around = np.stack([flat.min(axis=0) - 1, flat.max(axis=0) + 1])
    x0, x1, z0, z1 = plan.extent if plan else _extent(around, flat)
    longer = max(x1 - x0, z1 - z0)
    figure = Figure(figsize=(5 * (x1 - x0) / longer, 5 * (z1 - z0) / longer))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if plan:
        axes.imshow(plan.image, extent=(x0, x1, z1, z0), interpolation="lanczos")
    axes.set(xlim=(x0, x1), ylim=(z1, z0), aspect="equal")
    places = centres[:, :, [0, 2]]
    axes.add_collection(LineCollection(list(places), colors="#1d2430", linewidths=0.6, alpha=0.5))
    for view, color in enumerate((BLUE, ORANGE)):
        angles = np.degrees(np.arctan2(forwards[:, view, 2], forwards[:, view, 0]))
        wedges = [
            Wedge((x, z), 0.075 * longer, angle - hfov_deg / 2, angle + hfov_deg / 2)
            for (x, z), angle in zip(places[:, view], angles)
        ]
        axes.add_collection(
            PatchCollection(wedges, facecolor=color, alpha=0.5, edgecolor="white", linewidth=0.6)
        )
        x, z = places[:, view].T
        axes.scatter(x, z, s=16, color=color, edgecolor="white", linewidth=0.7)
    _draw_scale(axes, x0 + 0.03 * longer, z1 - 0.04 * longer, longer)
    return figure


def _draw_scale(axes: Axes, x: float, z: float, longer: float) -> None:
    length_m = 5 if longer > 25 else 1
    halo = [withStroke(linewidth=3, foreground="white")]
    axes.plot([x, x + length_m], [z, z], color="#1d2430", linewidth=2, path_effects=halo)
    axes.text(
        x, z - 0.015 * longer, f"{length_m} m", color="#1d2430", fontsize=9, path_effects=halo
    )


def _extent(bounds: NDArray[np.floating], centres: Float64) -> Extent:
    """Return a plan's: (2, 3) bounds as far as the cameras could be near, and all cameras."""
    least, greatest = centres.min(axis=0), centres.max(axis=0)
    low = np.minimum(np.maximum(bounds[0], least - REACH_M), least) - MARGIN_M
    high = np.maximum(np.minimum(bounds[1], greatest + REACH_M), greatest) + MARGIN_M
    return float(low[0]), float(high[0]), float(low[2]), float(high[2])


def _camera_above(extent: Extent, cut_height_m: float, factor: float) -> Camera:
    """Return a camera far above, with `factor` times as many pixels a side as a plan has."""
    x0, x1, z0, z1 = extent
    pixel_m = max(x1 - x0, z1 - z0) / (PIXELS * factor)
    # Even, so that it can be halved.
    height, width = (2 * math.ceil(side / pixel_m / 2) for side in (z1 - z0, x1 - x0))
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # looks down, z runs down
    world_from_camera[:3, 3] = (x0 + x1) / 2, cut_height_m + EYE_M, (z0 + z1) / 2
    focal = EYE_M / pixel_m
    return Camera(
        intrinsics=np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]),
        world_from_camera=world_from_camera,
        image_size=(height, width),
    )


def _drawn(color: UInt8, depth_m: Float32, there: NDArray[np.bool_], camera: Camera) -> UInt8:
    """Return an (H, W, 4) plan: paler colours, and a shade beside what stands higher.

    depth_m: below the cut; there: where a surface is.
    """
    heights = np.where(there, -depth_m, -depth_m[there].mean() if there.any() else 0.0)
    pixels = SHADOW_M * camera.intrinsics[0, 0] / EYE_M
    above = np.clip(gaussian_filter(heights, pixels) - heights, 0, 1)
    shade = 1 - 0.55 * np.sqrt(above)
    pale = (0.6 * color + 0.4 * PAPER) * shade[..., None]
    return np.dstack([pale.astype(np.uint8), np.where(there, 255, 0).astype(np.uint8)])
