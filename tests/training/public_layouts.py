"""Public datasets as their owners ship them, written image by image."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image
from tiny_images import made, save_image
from written_formats import (
    write_flo,
    write_kitti_disparity,
    write_kitti_flow,
    write_pfm,
    write_sintel_disparity,
)

from training.downstream.datasets.nyuv2 import LABELED


def add_nyuv2(root, image_name, depth_name, image, depth_mm):
    """An image and its 16-bit depth in millimetres, under names such as train/A/rgb_00045.png."""
    save_image(root / image_name, image)
    Image.fromarray(depth_mm.astype(np.uint16)).save(made(root / depth_name))


def write_nyuv2_labeled(root, images, depths_m, scenes, raw_depths_m=None):
    """As MATLAB 7.3 does: axes in reverse, text as arrays of codes behind references.

    images: (N, H, W, 3) bytes. depths_m, raw_depths_m: (N, H, W), without holes and with.
    """
    raw_depths_m = depths_m if raw_depths_m is None else raw_depths_m
    with h5py.File(root / LABELED, "w", userblock_size=512) as file:
        file["images"] = images.transpose(0, 3, 2, 1)  # MATLAB: H x W x 3 x N
        file["depths"] = depths_m.transpose(0, 2, 1)
        file["rawDepths"] = raw_depths_m.transpose(0, 2, 1)
        references = []
        for number, scene in enumerate(scenes):
            text = file.create_dataset(f"#refs#/{number}", data=np.array([list(map(ord, scene))]).T)
            references.append(text.ref)
        file.create_dataset("scenes", (1, len(scenes)), h5py.ref_dtype)[0] = references


def write_nyuv2_splits(root, train, test):
    """The numbers of images, counted from 1."""
    columns = {"trainNdxs": np.array([train]).T, "testNdxs": np.array([test]).T}
    scipy.io.savemat(root / "splits.mat", columns)


def add_ade20k(root, split, name, image, annotation):
    """An image and its classes, counted from 1."""
    save_image(root / f"images/{split}/{name}.jpg", image)
    save_image(root / f"annotations/{split}/{name}.png", annotation)


def add_imagenet(root, name, image):
    """An image of a name such as train/n01440764/n01440764_10026.JPEG."""
    Image.fromarray(image).save(made(root / name), "jpeg", quality=95)


def add_taskonomy(
    root, building, view, stored, *, pattern="{building}/{domain}", mask_ending="mask_valid"
):
    """The image rgb, mask_valid and targets of a view, as their files store them."""
    for domain, pixels in stored.items():
        ending = mask_ending if domain == "mask_valid" else domain
        folder = Path(pattern.format(building=building, domain=domain))
        path = made(root / folder / f"{view}_domain_{ending}.png")
        Image.fromarray(pixels).save(path)


def add_sintel(root, frame, images, flow=None, occluded=None, invalid=None):
    """A frame such as alley_1/frame_0001, images by pass; flow of all but the last of a scene."""
    for render_pass, image in images.items():
        save_image(root / f"training/{render_pass}/{frame}.png", image)
    save_image(root / f"training/invalid/{frame}.png", invalid)
    if flow is not None:
        write_flo(made(root / f"training/flow/{frame}.flo"), flow)
        save_image(root / f"training/occlusions/{frame}.png", occluded)


def add_sintel_stereo(root, frame, images, disparity, occluded, outside):
    """A frame such as alley_1/frame_0001, left and right image by pass (clean, final).

    Masks are bytes, 255 where true.
    """
    for render_pass, pair in images.items():
        for side, image in zip(("left", "right"), pair):
            save_image(root / f"training/{render_pass}_{side}/{frame}.png", image)
    save_image(root / f"training/occlusions/{frame}.png", occluded)
    save_image(root / f"training/outofframe/{frame}.png", outside)
    write_sintel_disparity(made(root / f"training/disparities/{frame}.png"), disparity)


def add_kitti_flow(root, name, images, flow, flow_seen):
    """A scene such as 000007, with the flow of all pixels and of those that both images show."""
    save_image(root / f"training/image_2/{name}_10.png", images[0])
    save_image(root / f"training/image_2/{name}_11.png", images[1])
    write_kitti_flow(made(root / f"training/flow_occ/{name}_10.png"), flow)
    write_kitti_flow(made(root / f"training/flow_noc/{name}_10.png"), flow_seen)


def add_kitti_stereo(root, name, images, disparity, disparity_seen):
    """A scene such as 000007, left and right image, and as add_kitti_flow."""
    save_image(root / f"training/image_2/{name}_10.png", images[0])
    save_image(root / f"training/image_3/{name}_10.png", images[1])
    write_kitti_disparity(made(root / f"training/disp_occ_0/{name}_10.png"), disparity)
    write_kitti_disparity(made(root / f"training/disp_noc_0/{name}_10.png"), disparity_seen)


def add_flying_chairs(root, number, images, flow):
    """A pair; FlyingChairs_train_val.txt is the caller's."""
    for view, image in enumerate(images, 1):
        save_image(root / f"data/{number:05d}_img{view}.ppm", image)
    write_flo(made(root / f"data/{number:05d}_flow.flo"), flow)


def add_stereo_scene(images_folder, truths_folder, images, disparity, mask):
    """A scene of Middlebury v3 or ETH3D; the mask is 255 where both images show a pixel."""
    for side, image in enumerate(images):
        save_image(images_folder / f"im{side}.png", image)
    write_pfm(made(truths_folder / "disp0GT.pfm"), disparity)
    save_image(truths_folder / "mask0nocc.png", mask)


def add_scene_flow(root, name, images, disparity):
    """A frame such as TRAIN/A/0000/0006, left and right image by pass (clean, final)."""
    sequence, _, frame = name.rpartition("/")
    for render_pass, pair in images.items():
        for side, image in zip(("left", "right"), pair):
            save_image(root / f"frames_{render_pass}pass/{sequence}/{side}/{frame}.png", image)
    write_pfm(made(root / f"disparity/{sequence}/left/{frame}.pfm"), disparity)
