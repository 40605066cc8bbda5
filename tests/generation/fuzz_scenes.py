"""Feed damaged scene files to the loaders, in processes that may run out of memory, hang or die.

Case i is a function of i alone: one of the scenes that build_seeds() writes, with a few mutations
of one of its files. A process does a batch of cases and prints a line before and after each; where
it dies or falls silent, the driver says which case it was and goes on with the next one.

    python tests/generation/fuzz_scenes.py 2000        # prints what became of them
    python tests/generation/fuzz_scenes.py keep 1234   # writes case 1234 to ./fuzz-1234
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from generation.errors import CrossviewError
from generation.geometry import Camera, look_at
from generation.raycast import RayCaster
from generation.renderers.embree import EmbreeRenderer
from generation.scenes.digest import scene_digest
from generation.scenes.mesh_files import MESH_ENDINGS
from generation.scenes.sources import SceneSource
from generation.viewpoints import ViewpointConfig, find_floors

SILENT_SECONDS = 20.0
"""A case takes a few milliseconds; with a busy machine, a tenth of a second."""
ALLOWANCE_BYTES = 1 << 30
"""What a case may allocate beyond what the process starts with; its files are of kilobytes."""
BEGUN = "."

# The scenes that are damaged


def build_seeds(root: Path) -> dict[str, Path]:
    """Write the undamaged scenes, a folder each; return the path of each one's file to load."""
    seeds = {
        "glb": _write_glb,
        "gltf": _write_gltf,
        "ply-text": _write_text_ply,
        "ply-binary": _write_binary_ply,
        "ply-faces": _write_face_colour_ply,
        "obj": _write_obj,
        "stage": _write_stage,
        "composed": _write_composed,
    }
    paths = {}
    for name, write in seeds.items():
        folder = root / name / "scene"
        folder.mkdir(parents=True)
        paths[name] = write(folder)
    for outside in ("secret.png", "secret.bin", "secret.mtl"):  # beside every scene's folder
        for name in seeds:
            _write_image(root / name / "secret.png", "png")
            (root / name / outside).exists() or (root / name / outside).write_bytes(bytes(4096))
    return paths


def _room() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vertices, quads and texture coordinates of a 4 x 2.6 x 4 m room seen from inside."""
    corners = np.array([[x, y, z] for x in (0, 4) for y in (0, 2.6) for z in (0, 4)], "<f4")
    quads = np.array(
        [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]
    )
    uvs = np.tile(np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "<f4"), (6, 1))
    return corners[quads].reshape(-1, 3), np.arange(24).reshape(6, 4), uvs


def _write_image(path: Path, kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, kind)
    return path.read_bytes()


def _gltf_document(folder: Path) -> tuple[dict, bytes]:
    vertices, quads, uvs = _room()
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype("<u2")
    colors = np.full((24, 4), 200, np.uint8)
    png = _write_image(folder / "image.png", "png")
    (folder / "image.png").unlink()
    blocks = [vertices.tobytes(), uvs.tobytes(), faces.tobytes(), colors.tobytes(), png]
    starts = np.cumsum([0] + [len(block) for block in blocks]).tolist()
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(block)}
        for start, block in zip(starts, blocks)
    ]
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 24, "type": "VEC3"},
        {"bufferView": 1, "componentType": 5126, "count": 24, "type": "VEC2"},
        {"bufferView": 2, "componentType": 5123, "count": 36, "type": "SCALAR"},
        {"bufferView": 3, "componentType": 5121, "count": 24, "type": "VEC4", "normalized": True},
    ]
    attributes = {"POSITION": 0, "TEXCOORD_0": 1}
    primitives = [
        {"attributes": attributes, "indices": 2, "material": 0},
        {"attributes": attributes | {"COLOR_0": 3}, "indices": 2, "material": 1},
    ]
    texture = {"baseColorTexture": {"index": 0}, "baseColorFactor": [1, 0.5, 0.5, 1]}
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 3]}],
        "nodes": [
            {"children": [1, 2], "translation": [0, 0, 0]},
            {"mesh": 0, "rotation": [0, 0, 0, 1]},
            {"mesh": 0, "scale": [1, 1, 1], "name": "again"},
            {"matrix": np.eye(4).ravel().tolist()},
        ],
        "meshes": [{"name": "room", "primitives": primitives}],
        "materials": [{"pbrMetallicRoughness": texture}, {"name": "plain"}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33071, "wrapT": 10497}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }, b"".join(blocks)


def pack_glb(text: bytes, binary: bytes) -> bytes:
    """Return a GLB file of its JSON and its buffer."""
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary))
    chunks = (struct.pack("<I4s", len(part), kind) + part
              for part, kind in ((text, b"JSON"), (binary, b"BIN\0")))  # fmt: skip
    return header + b"".join(chunks)


def _write_glb(folder: Path, name: str = "room.glb") -> Path:
    document, binary = _gltf_document(folder)
    (folder / name).write_bytes(pack_glb(json.dumps(document).encode(), binary))
    return folder / name


def _write_gltf(folder: Path) -> Path:
    document, binary = _gltf_document(folder)
    (folder / "room.bin").write_bytes(binary)
    _write_image(folder / "wood.png", "png")
    document["buffers"][0]["uri"] = "room.bin"
    document["images"] = [{"uri": "wood.png"}]
    (folder / "room.gltf").write_text(json.dumps(document))
    return folder / "room.gltf"


def _ply_header(kind: str, vertex: str, face: str) -> str:
    return (
        f"ply\nformat {kind} 1.0\ncomment TextureFile wood.jpg\nelement vertex 24\n"
        + "".join(f"property {line}\n" for line in vertex.split("; "))
        + "element face 6\n"
        + "".join(f"property {line}\n" for line in face.split("; "))
        + "end_header\n"
    )


def _write_text_ply(folder: Path) -> Path:
    vertices, quads, uvs = _room()
    _write_image(folder / "wood.jpg", "jpeg")
    rows = [f"{x:g} {y:g} {z:g} {u:g} {v:g}" for (x, y, z), (u, v) in zip(vertices, uvs)]
    rows += [f"4 {a} {b} {c} {d}" for a, b, c, d in quads]
    vertex = "float x; float y; float z; float s; float t"
    header = _ply_header("ascii", vertex, "list uchar int vertex_indices")
    (folder / "room.ply").write_text(header + "\n".join(rows) + "\n")
    return folder / "room.ply"


def _write_binary_ply(folder: Path) -> Path:
    vertices, quads, _ = _room()
    vertex = "float x; float y; float z; uchar red; uchar green; uchar blue"
    header = _ply_header("binary_little_endian", vertex, "list uchar int vertex_indices")
    body = b"".join(v.tobytes() + bytes([9, 90, 200]) for v in vertices)
    body += b"".join(struct.pack("<B4i", 4, *quad) for quad in quads)
    header = header.replace("comment TextureFile wood.jpg\n", "")
    (folder / "room.ply").write_bytes(header.encode() + body)
    return folder / "room.ply"


def _write_face_colour_ply(folder: Path) -> Path:
    vertices, quads, _ = _room()
    face = "list uchar uint vertex_index; uchar red; uchar green; uchar blue"
    header = _ply_header("binary_big_endian", "double x; double y; double z", face)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    body = vertices.astype(">f8").tobytes()
    body += b"".join(struct.pack(">B3I3B", 3, *corners, 9, 90, 200) for corners in triangles)
    header = header.replace("comment TextureFile wood.jpg\n", "").replace("face 6", "face 12")
    (folder / "room.ply").write_bytes(header.encode() + body)
    return folder / "room.ply"


def _write_obj(folder: Path) -> Path:
    vertices, quads, uvs = _room()
    _write_image(folder / "wood.png", "png")
    (folder / "room.mtl").write_text("newmtl wood\nKd 1 0.5 0.2\nmap_Kd wood.png\nnewmtl wall\n")
    rows = ["mtllib room.mtl", *(f"v {x:g} {y:g} {z:g}" for x, y, z in vertices)]
    rows += [f"vt {u:g} {v:g}" for u, v in uvs]
    for row, quad in enumerate(quads + 1):
        rows += [f"usemtl {'wall' if row > 3 else 'wood'}"] if row in (0, 4) else []
        rows.append("f " + " ".join(f"{i}/{i}" for i in quad))
    (folder / "room.obj").write_text("\n".join(rows) + "\n")
    return folder / "room.obj"


def _write_stage(folder: Path) -> Path:
    _write_glb(folder)
    values = {"render_asset": "room.glb", "up": [0, 1, 0], "front": [0, 0, -1],
              "units_to_meters": 1.0, "scale": [1, 1, 1]}  # fmt: skip
    (folder / "room.stage_config.json").write_text(json.dumps(values))
    return folder / "room.stage_config.json"


def _write_composed(folder: Path) -> Path:
    for name in ("stages", "objects", "scenes"):
        (folder / name).mkdir()
    _write_stage(folder / "stages")
    _write_glb(folder / "objects", "box.glb")
    box = {"render_asset": "box.glb", "up": [0, 1, 0], "front": [0, 0, -1], "scale": [0.1] * 3,
           "COM": [1, 1, 1]}  # fmt: skip
    (folder / "objects" / "box.object_config.json").write_text(json.dumps(box))
    places = [
        {"template_name": "objects/box", "translation": [1, 0.2, 1], "rotation": [1, 0, 0, 0],
         "uniform_scale": 1.5, "non_uniform_scale": [1, 2, 1], "translation_origin": "COM"},
        {"template_name": "box", "translation": [3, 0.2, 3], "translation_origin": "asset_local"},
    ]  # fmt: skip
    instance = {"stage_instance": {"template_name": "stages/room"}, "object_instances": places,
                "articulated_object_instances": []}  # fmt: skip
    (folder / "scenes" / "room.scene_instance.json").write_text(json.dumps(instance))
    folders = {"stages": "stages", "objects": "objects", "scene_instances": "scenes"}
    config = {kind: {"paths": {".json": [name]}} for kind, name in folders.items()}
    (folder / "set.scene_dataset_config.json").write_text(json.dumps(config))
    return folder / "scenes" / "room.scene_instance.json"


# How they are damaged

NUMBERS = (0, -1, 1, 2, 3, 7, 255, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, -(2**31), 10**30)
FRACTIONS = (1e-30, 0.5, 1e9, 1e38, -3e38, 1e300, float("inf"), float("-inf"), float("nan"))
NAMES = ("", ".", "..", "../secret.png", "../secret.bin", "../secret.mtl", "/etc/passwd",
         "/dev/zero", "wood.png", "room.bin", "\0", "x" * 5000, "data:,", "data:x;base64,AAAA",
         "~/x", "VEC3",
         "https://localhost/x.png", "%2e%2e/secret.png", "file:///etc/passwd")  # fmt: skip


def mutated(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file's bytes with one mutation that fits its kind."""
    kinds: list[Callable[[bytes, np.random.Generator], bytes]] = [_mutate_bytes]
    if name.endswith((".json", ".gltf")):
        kinds += [_mutate_json] * 4
    elif name.endswith(".glb"):
        kinds += [_mutate_glb] * 4
    elif name.endswith(".ply"):
        kinds += [_mutate_header] * 3
    elif name.endswith((".obj", ".mtl")):
        kinds += [_mutate_text] * 3
    return kinds[rng.integers(len(kinds))](data, rng)


def _mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    start, stop = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    match rng.integers(6):
        case 0:
            for bit in rng.integers(0, 8 * len(data), 1 + rng.integers(16)):
                changed[bit // 8] ^= 1 << bit % 8
        case 1:
            return data[:start]
        case 2:
            del changed[start : min(stop, start + 64)]
        case 3:
            changed[start:start] = changed[start : min(stop, start + 256)]
        case 4:
            start -= start % 4
            changed[start : start + 4] = struct.pack("<f", np.float32(FRACTIONS[rng.integers(9)]))
        case _:
            start -= start % 4
            changed[start : start + 4] = struct.pack("<I", NUMBERS[rng.integers(15)] % 2**32)
    return bytes(changed)


def _mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _mutate_bytes(data, rng)
    holders = [*_holders(document)]
    if not holders:
        return _mutate_bytes(data, rng)
    holder, key = holders[rng.integers(len(holders))]
    other, other_key = holders[rng.integers(len(holders))]
    match rng.integers(8):
        case 0:
            del holder[key]
        case 1:
            holder[key] = json.loads(json.dumps(other[other_key]))
        case 2:
            deep: object = 0
            for _ in range(int(rng.choice([3, 300, 900]))):
                deep = [deep] if rng.random() < 0.5 else {"children": deep}
            holder[key] = deep
        case 3 if isinstance(holder, list):
            holder.extend([holder[key]] * int(rng.choice([1, 10, 1000])))
        case 3:
            holder["".join(rng.choice(list("abyteOffsetcount"), 6))] = 1
        case _:
            holder[key] = _other_value(holder[key], rng)
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        return data


def _holders(document: object) -> Iterator[tuple]:
    """Yield (container, key) of everything inside a JSON document."""
    stack = [document]
    while stack:
        holder = stack.pop()
        if isinstance(holder, (dict, list)):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            for key in keys:
                yield holder, key
                stack.append(holder[key])


def _other_value(value: object, rng: np.random.Generator) -> object:
    if isinstance(value, str) and rng.random() < 0.7:
        return NAMES[rng.integers(len(NAMES))]
    if isinstance(value, int) and rng.random() < 0.5:
        return int(value) + int(rng.integers(-3, 4))
    choices = (*NUMBERS, *FRACTIONS, *NAMES, None, True, False, [], {}, [1, 2, 3], [None], {"a": 1})
    return choices[rng.integers(len(choices))]


def _mutate_glb(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the JSON or the buffer inside, with lengths that agree, or one of the lengths."""
    if len(data) < 28 or rng.random() < 0.1:
        return _mutate_bytes(data, rng)
    (length,) = struct.unpack_from("<I", data, 12)
    text, binary = data[20 : 20 + length], data[28 + length :]
    if rng.random() < 0.1:
        place = int(rng.choice([4, 8, 12, 16, 20 + length]))
        number = struct.pack("<I", NUMBERS[rng.integers(15)] % 2**32)
        return data[:place] + number + data[place + 4 :]
    if rng.random() < 0.3:
        return pack_glb(text, _mutate_bytes(binary, rng))
    return pack_glb(_mutate_json(text, rng), binary)


def _mutate_header(data: bytes, rng: np.random.Generator) -> bytes:
    head, end, body = data.partition(b"end_header\n")
    if body and rng.random() < 0.3:
        mutate = _mutate_text if b"ascii" in head else _mutate_bytes
        return head + end + mutate(body, rng)
    return _mutate_text(head, rng) + end + body


def _mutate_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a word or a line."""
    words = re.split(rb"(\s+)", data)
    place = int(rng.integers(0, max(1, len(words)), dtype=int))
    lines = data.split(b"\n")
    line = int(rng.integers(len(lines)))
    match rng.integers(6):
        case 0:
            words[place] = str(_other_value(0, rng)).encode()
        case 1:
            numbers = [i for i, word in enumerate(words) if re.fullmatch(rb"[\d./+-]+", word)]
            if numbers:
                number = (*NUMBERS, *FRACTIONS)[rng.integers(24)]
                words[numbers[rng.integers(len(numbers))]] = str(number).encode()
        case 2:
            words[place] = words[rng.integers(len(words))]
        case 3:
            return b"\n".join([*lines[:line], *lines[line + 1 :]])
        case 4:
            lines[line:line] = [lines[rng.integers(len(lines))]] * int(rng.choice([1, 3, 500]))
            return b"\n".join(lines)
        case _:
            words[place] = b"\xff\xfe" + words[place]
    return b"".join(words)


def write_case(case: int, seeds: dict[str, Path], folder: Path) -> tuple[str, Path]:
    """Write a case's files to folder/scene; return its seed's name and the file to load."""
    rng = np.random.default_rng([1_000_003, case])
    name = list(seeds)[case % len(seeds)]
    root = next(parent for parent in seeds[name].parents if parent.name == "scene").parent
    shutil.copytree(root, folder, dirs_exist_ok=True)
    files = sorted(path for path in (folder / "scene").rglob("*") if path.is_file())
    # Configurations first, where there are any: they say what is done with the rest.
    leading = [path for path in files if path.suffix in (".json", *MESH_ENDINGS)]
    victim = (leading if rng.random() < 0.85 else files)[rng.integers(len(leading))]
    data = victim.read_bytes()
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        data = mutated(victim.name, data, rng)
    victim.write_bytes(data)
    return name, folder / seeds[name].relative_to(root)


# What is done with them


def load_and_use(path: Path) -> None:
    """Do with a scene's file what rendering a view of it does."""
    source = SceneSource(scene_id="fuzz", path=str(path))
    scene_digest(source)
    scene = source.load()
    caster = RayCaster(scene)
    renderer = EmbreeRenderer(scene, caster=caster)
    middle = scene.bounds.astype(float).mean(axis=0)
    for direction in ([1.0, 0.1, 0.2], [-0.3, -0.9, 1.0]):
        pose = look_at(middle, middle + direction)
        renderer.render(Camera.from_hfov(90.0, (24, 24), pose))
    find_floors(scene, caster, ViewpointConfig())


def misbehave(path: Path) -> None:
    """Do what must not happen, for a test of the driver: the case's number says what."""
    case = int(path.parts[-3 if path.parent.name == "scene" else -4])
    match case:
        case 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 3:
            signal.pause()
        case 5:
            bytearray(2 * ALLOWANCE_BYTES)
        case 7:
            raise KeyError("unexpected")
        case 9:
            (path.parent.parent / "secret.bin").read_bytes()
        case 11:
            (path.parent / "written").write_bytes(b"")
    raise CrossviewError("a clear error")


CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
"""What Python tells an audit hook of changes that are no writing into files."""
USES = {"load_and_use": load_and_use, "misbehave": misbehave}


def run_batch(first: int, last: int, use: str, root: Path) -> None:
    """Do cases first to last - 1; print a line of JSON when each starts and when it is done."""
    sys.dont_write_bytecode = True  # modules that errors alone need are imported late
    seeds = build_seeds(root / "seeds")
    opened: list[str] = []
    folder = root
    watching = False

    def watch(event: str, arguments: tuple) -> None:
        if watching and event in CHANGES:
            opened.append(f"{event} {arguments[0]}")
        if watching and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            inside = f"{path}/".startswith(f"{folder}/scene/")
            system = path.startswith((sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/usr/"))
            if writes or not (inside or system or path.endswith((".py", ".pyc", ".so"))):
                opened.append(f"{'wrote' if writes else 'read'} {path}")

    sys.addaudithook(watch)
    warnings.simplefilter("ignore")
    for name in seeds.values():  # everything is imported and compiled, before memory is counted
        load_and_use(name)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ALLOWANCE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for case in range(first, last):
        folder = root / str(case)
        name, path = write_case(case, seeds, folder)
        print(json.dumps([case, name, BEGUN]), flush=True)
        opened.clear()
        watching = True
        try:
            USES[use](path)
            outcome = "scene"
        except CrossviewError as error:
            outcome = "error" if str(error) else "an error that says nothing"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:300]
        watching = False
        if opened:
            outcome = "; ".join(opened)
        print(json.dumps([case, name, outcome]), flush=True)
        shutil.rmtree(folder)


@dataclass
class Report:
    """What became of all cases."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(seed, 'scene' or 'error') -> cases."""
    failures: dict[int, str] = field(default_factory=dict)
    """Case -> what it did that it must not."""


def fuzz(num_cases: int, *, use: str = "load_and_use", silent_s: float = SILENT_SECONDS) -> Report:
    """Do cases 0 to num_cases - 1, each batch in a process, a new one after each that dies."""
    report = Report()
    first = 0
    while first < num_cases:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            first = _watch_batch(first, num_cases, use, Path(folder).resolve(), silent_s, report)
    return report


def _watch_batch(
    first: int, last: int, use: str, folder: Path, silent_s: float, report: Report
) -> int:
    """Watch a process do cases; return the number of the next case to do."""
    command = [sys.executable, __file__, "batch", str(first), str(last), use, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    unread = bytearray()
    running: int | None = None
    patience = 120.0  # importing, and compiling in the first case
    with process:
        while True:
            line = _next_line(process.stdout.fileno(), unread, patience)
            if line is None:
                process.kill()
                assert running is not None, "no case was started"
                report.failures[running] = f"hung for {patience:g} s"
                return running + 1
            if not line:
                break
            case, seed, outcome = json.loads(line)
            running = case if outcome == BEGUN else None
            if running is None:
                patience = silent_s
            if outcome in ("scene", "error"):
                report.outcomes[seed, outcome] += 1
            elif outcome != BEGUN:
                report.failures[case] = f"{seed}: {outcome}"
        error = process.communicate()[1].decode()
    if running is None:
        assert process.returncode == 0, error
        return last
    report.failures[running] = f"died with status {process.returncode}: {error[-300:]}"
    return running + 1


def _next_line(pipe: int, unread: bytearray, patience: float) -> bytes | None:
    """Return the next line, b"" at the end; None where for so many seconds nothing comes.

    unread: what has been read beyond it, for the next call.
    """
    while b"\n" not in unread:
        if not select.select([pipe], [], [], patience)[0]:
            return None
        data = os.read(pipe, 1 << 16)
        if not data:
            return b""
        unread += data
    line, _, unread[:] = unread.partition(b"\n")
    return bytes(line)


def main(arguments: list[str]) -> None:
    """Run a batch, write one case, or do many and print what became of them."""
    if arguments[0] == "batch":
        run_batch(int(arguments[1]), int(arguments[2]), arguments[3], Path(arguments[4]))
    elif arguments[0] == "keep":
        with tempfile.TemporaryDirectory() as folder:
            case = int(arguments[1])
            print(write_case(case, build_seeds(Path(folder)), Path(f"fuzz-{case}"))[1])
    else:
        report = fuzz(int(arguments[0]))
        for (seed, outcome), count in sorted(report.outcomes.items()):
            print(f"{seed:12} {outcome:6} {count}")
        for case, what in report.failures.items():
            print(f"case {case}: {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
