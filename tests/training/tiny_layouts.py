"""A few small images in every public layout; task by task, functions that write its folders."""

import numpy as np
from PIL import Image
from public_layouts import (
    add_ade20k,
    add_flying_chairs,
    add_imagenet,
    add_kitti_flow,
    add_kitti_stereo,
    add_nyuv2,
    add_scene_flow,
    add_sintel,
    add_sintel_stereo,
    add_stereo_scene,
    add_taskonomy,
    write_nyuv2_labeled,
    write_nyuv2_splits,
)
from tiny_images import colours, made

from generation.geometry import look_at
from training.downstream.datasets.taskonomy import TARGETS

SIZE = (40, 48)
NAN = np.float32("nan")
FLOW_PX, DISPARITY_PX = (3.0, -2.0), 5.0


# What is true in these datasets follows from the images, or is the same everywhere.


def shades(number, size=SIZE):
    """(H, W, 3) grey bytes: smooth, another for each number."""
    row, column = np.mgrid[: size[0], : size[1]] / max(size)
    wave = np.sin(6 * row + number) * np.cos(5 * column - 2 * number)
    return np.repeat((127 + 100 * wave).astype(np.uint8)[..., None], 3, -1)


def pair(number):
    return colours(2 * number, SIZE), colours(2 * number + 1, SIZE)


def hidden():
    """(H, W) bytes: 255 in the first four columns, which one image shows."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :4] = 255
    return mask


def flow():
    """(H, W, 2), the same everywhere, unknown in the first row; and what both images show."""
    known = np.full((*SIZE, 2), FLOW_PX, np.float32)
    known[0] = NAN
    return known, np.where(hidden()[..., None] > 0, NAN, known)


def disparity():
    known = np.full(SIZE, DISPARITY_PX, np.float32)
    known[0] = NAN
    return known, np.where(hidden() > 0, NAN, known)


def nyuv2(root):
    """Depth is 1 to 5 m, by brightness."""
    for number, split in enumerate(("train", "train", "train", "test", "test")):
        image = shades(number)
        depth_mm = 1000 + 4000 / 255 * image[..., 0]
        depth_mm[0] = 0
        names = f"{split}/a/rgb_{number}.png", f"{split}/a/sync_depth_{number}.png"
        add_nyuv2(root, *names, image, depth_mm)


def nyuv2_labeled(root):
    """As nyuv2, in the .mat of its owners."""
    images = np.stack([shades(number) for number in range(5)])
    depths_m = 1 + np.float32(4 / 255) * images[..., 0]
    write_nyuv2_labeled(root, images, depths_m, [f"room_{number:04d}" for number in range(5)])
    write_nyuv2_splits(root, train=[1, 2, 3], test=[4, 5])


def ade20k(root):
    """Images of several sizes; the left is red and of class 1, the right blue and of class 2."""
    sizes = ((40, 48), (24, 30), (50, 40), (36, 70), (20, 28))
    for number, (height, width) in enumerate(sizes):
        image, annotation = colours(number, (height, width)) // 4, np.ones((height, width), int)
        middle = width // 3 + number
        image[:, :middle, 0] += 150
        image[:, middle:, 2] += 150
        annotation[:, middle:] = 2
        annotation[0] = 0
        split, name = ("training", "train") if number < 3 else ("validation", "val")
        add_ade20k(root, split, f"ADE_{name}_{number:08d}", image, annotation)


def imagenet(root):
    """Three classes: red, green and blue images, of several sizes."""
    for number, split in enumerate(("train", "train", "val")):
        for label in range(3):
            image = colours(number, (40 + 3 * number, 60 - 6 * label)) // 3
            image[..., label] += 150
            add_imagenet(root, f"{split}/n0{label}/{split}_{number}.JPEG", image)


def taskonomy_views(root):
    """All targets are functions of brightness."""
    for number, building in enumerate(("a", "b", "b", "c")):
        image = shades(number)
        grey = image[..., 0]
        mask = np.full(SIZE, 255, np.uint8)
        mask[0] = 0
        stored = {"rgb": image, "mask_valid": mask}
        for target, encoding in TARGETS.items():
            values = np.repeat(grey[..., None], 3, -1)
            if encoding.bits == 16:
                values = values[..., 0].astype(np.uint16) * (8 if "depth" in target else 257)
            stored[target] = values
        add_taskonomy(root, building, f"point_{number}_view_0", stored)
    (root / "train_val_test_tiny.csv").write_text("id,train,val,test\na,1,0,0\nb,1,0,0\nc,0,0,1\n")


def sintel(root):
    for number, scene in enumerate(("alley_1", "temple_2")):
        for frame in (1, 2, 3):
            images = dict.fromkeys(("clean", "final"), colours(10 * number + frame, SIZE))
            known = np.nan_to_num(flow()[0], nan=0.0)
            invalid = np.isnan(flow()[0][..., 0]) * 255
            truth = known if frame < 3 else None
            add_sintel(root, f"{scene}/frame_{frame:04d}", images, truth, hidden(), invalid)


def sintel_stereo(root):
    for number, scene in enumerate(("alley_1", "alley_2", "temple_2")):
        whole, frame = np.full(SIZE, DISPARITY_PX, np.float32), f"{scene}/frame_0001"
        images = dict.fromkeys(("clean", "final"), pair(number))
        add_sintel_stereo(root, frame, images, whole, hidden(), 0 * hidden())


def kitti_flow(root):
    for number in range(4):
        add_kitti_flow(root, f"{number:06d}", pair(number), *flow())


def kitti_stereo(root):
    for number in range(4):
        add_kitti_stereo(root, f"{number:06d}", pair(number), *disparity())


def flying_chairs(root):
    for number in (1, 2, 3):
        add_flying_chairs(root, number, pair(number), flow()[0])
    (root / "FlyingChairs_train_val.txt").write_text("1\n1\n2\n")


def middlebury(root):
    for number, scene in enumerate(("Adirondack", "ArtL", "Teddy")):
        folder = root / "trainingH" / scene
        add_stereo_scene(folder, folder, pair(number), disparity()[0], 255 - hidden())


def eth3d(root):
    for number, scene in enumerate(("delivery_area_1l", "terrains_1l", "facade_1s")):
        folder = root / "two_view_training" / scene
        add_stereo_scene(folder, folder, pair(number), disparity()[0], 255 - hidden())


def scene_flow(root):
    for number, name in enumerate(("TRAIN/A/0000/0006", "TRAIN/A/0000/0007", "TEST/A/0000/0006")):
        images = dict.fromkeys(("clean", "final"), pair(number))
        add_scene_flow(root, name, images, disparity()[0])


def arc(number):
    """Cameras along an arc that look at one point."""
    angle = 0.1 * number
    return look_at(np.array([np.sin(angle), 0.1 * number, -np.cos(angle)]), np.array([0, 0, 1.0]))


def depth_mm(size):
    values = np.linspace(800, 2500, size[0] * size[1]).reshape(size).astype(np.uint16)
    values[0] = 0
    return values


def seven_scenes(root):
    """Two sequences to train on and one to test, 24 x 30 pixels."""
    numbers = iter(range(100))
    for sequence, frames in ((1, (0, 2, 4)), (2, (1, 3, 5)), (3, (2.5, 4.5))):
        for frame, place in enumerate(frames):
            start = root / f"chess/seq-{sequence:02}/frame-{frame:06}"
            image = Image.fromarray(colours(next(numbers), (24, 30)))
            image.save(made(start.with_name(f"{start.name}.color.png")))
            depth = Image.fromarray(depth_mm((24, 30)))
            depth.save(start.with_name(f"{start.name}.depth.png"))
            np.savetxt(start.with_name(f"{start.name}.pose.txt"), arc(place))
    (root / "chess/TrainSplit.txt").write_text("sequence1\nsequence2\n")
    (root / "chess/TestSplit.txt").write_text("sequence3\n")


def scannet1500(root):
    """Two pairs of a scene, 40 x 50 pixels."""
    folder = root / "scannet_test_1500/scene0707_00"
    intrinsics = np.diag([45.0, 45, 1, 1])
    intrinsics[:2, 2] = 24.5, 19.5
    for frame in (0, 15, 30):
        image = Image.fromarray(colours(frame, (40, 50)))
        image.save(made(folder / f"color/{frame}.jpg"))
        Image.fromarray(depth_mm((40, 50))).save(made(folder / f"depth/{frame}.png"))
        np.savetxt(made(folder / f"pose/{frame}.txt"), arc(frame / 10))
    np.savetxt(made(folder / "intrinsic/intrinsic_depth.txt"), intrinsics)
    np.savez(root / "test.npz", name=np.array([[707, 0, 0, 15], [707, 0, 15, 30]]))


LAYOUTS = {
    "depth": {"nyuv2": nyuv2},
    "flow": {
        "flying_chairs": flying_chairs,
        "sintel_clean": sintel,
        "sintel_final": sintel,
        "kitti": kitti_flow,
    },
    "stereo": {
        "kitti": kitti_stereo,
        "eth3d": eth3d,
        "middlebury": middlebury,
        "scene_flow_clean": scene_flow,
        "scene_flow_final": scene_flow,
        "sintel_stereo_clean": sintel_stereo,
        "sintel_stereo_final": sintel_stereo,
    },
    "pose": {"seven_scenes": seven_scenes, "scannet1500": scannet1500},
    "pointmaps": {},
    "correspondence": {"sintel_clean": sintel},
    "segmentation": {"ade20k": ade20k},
    "classification": {"imagenet": imagenet},
    **{f"taskonomy_{target}": {"taskonomy": taskonomy_views} for target in TARGETS},
}
