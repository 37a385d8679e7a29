"""Toybox: a procedural world of short captioned clips.

One flat-coloured shape on a plain background, 64x64 pixels, 17 frames. Everything that a caption
mentions (size, colour, shape, motion, speed, background) is a slot; the position is free.
Rendering is batched and anti-aliased analytically from signed distances.
"""
import math
import random

import torch

SIZE, FRAMES = 64, 17
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]
COLORS = {
    "red": (0.90, 0.10, 0.12), "orange": (1.00, 0.55, 0.05), "yellow": (0.98, 0.90, 0.12),
    "green": (0.12, 0.75, 0.22), "blue": (0.12, 0.35, 0.98), "purple": (0.60, 0.18, 0.82),
    "white": (0.97, 0.97, 0.97),
}
BACKGROUNDS = {
    "black": (0.04, 0.04, 0.05), "gray": (0.45, 0.45, 0.47), "navy": (0.03, 0.06, 0.30),
    "brown": (0.36, 0.21, 0.10), "cyan": (0.50, 0.85, 0.92), "pink": (0.98, 0.70, 0.80),
}
# Backgrounds that share their name with an object colour: only the denoiser learns them, from clips of their own.
SHARED_BACKGROUNDS = {"blue": (0.10, 0.22, 0.72), "green": (0.10, 0.50, 0.18)}
MOTIONS = {
    "still": ["standing still", "at rest"],
    "left": ["moving left", "sliding to the left"], "right": ["moving right", "sliding to the right"],
    "up": ["moving up", "rising"], "down": ["moving down", "falling"],
    "grow": ["growing", "getting bigger"], "shrink": ["shrinking", "getting smaller"],
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}   # y points down
SIZES = {"small": 0.20, "": 0.29, "large": 0.40}      # radius; the picture spans [-1, 1]
SPEEDS = {"slowly": 0.45, "": 0.85, "quickly": 1.30}  # distance covered in one clip
HELD_OUT = 7                                           # one of this many combinations is never trained on


def held_out(scene):
    """Shape x colour x motion combinations kept out of every training set."""
    s, c, m = (list(v).index(scene[k]) for k, v in (("shape", SHAPES), ("color", COLORS), ("motion", MOTIONS)))
    return (s + 2 * c + 3 * m) % HELD_OUT == 0


def sample_scene(rng, split="train", backgrounds=BACKGROUNDS):
    """A random scene; split is "train", "test" (held-out combinations only) or "any"."""
    while True:
        scene = dict(shape=rng.choice(SHAPES), color=rng.choice(list(COLORS)), size=rng.choice(list(SIZES)),
                     motion=rng.choice(list(MOTIONS)), speed=rng.choice(list(SPEEDS)),
                     background=rng.choice(list(backgrounds)), x=rng.uniform(-0.45, 0.45),
                     y=rng.uniform(-0.45, 0.45), start=rng.uniform(-0.15, 0.15))
        if scene["motion"] not in DIRECTIONS:
            scene["speed"] = ""
        if scene["color"] == scene["background"]:
            continue
        if split == "any" or held_out(scene) == (split == "test"):
            return scene


def caption(scene, rng, still_image=False, terse=0.0):
    """An English caption; a single image has no motion phrase. `terse`: how often the background goes unmentioned."""
    noun = " ".join(w for w in (scene["size"], scene["color"], scene["shape"]) if w)
    words = [("an " if noun[0] in "aeiou" else "a ") + noun]
    if not still_image:
        words.append(" ".join(w for w in (rng.choice(MOTIONS[scene["motion"]]), scene["speed"]) if w))
    if rng.random() >= terse:
        words.append(f"{rng.choice(['on', 'over', 'in front of'])} a {scene['background']} background")
    return " ".join(words)


def trajectory(scene, frames=FRAMES):
    """Centre and radius of the object in every frame, [frames, 3]."""
    u = torch.linspace(-0.5, 0.5, frames)
    path = torch.tensor([scene["x"], scene["y"], SIZES[scene["size"]]]).repeat(frames, 1)
    motion = scene["motion"]
    if motion in DIRECTIONS:
        axis = 0 if DIRECTIONS[motion][0] else 1
        path[:, axis] = scene["start"] + DIRECTIONS[motion][axis] * SPEEDS[scene["speed"]] * u
    elif motion in ("grow", "shrink"):
        path[:, 2] *= 1 + (0.9 if motion == "grow" else -0.9) * u
    return path


def distance(shape, x, y):
    """Signed distance to the outline in units of the radius (negative inside)."""
    if shape == "circle":
        return torch.hypot(x, y) - 1
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.82
    if shape == "triangle":
        return torch.maximum(x.abs() * 0.894 - y * 0.447 - 0.40, y - 0.75)
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74).abs() - 0.26
    if shape == "cross":
        ax, ay = x.abs(), y.abs()
        return torch.minimum(torch.maximum(ax - 0.95, ay - 0.30), torch.maximum(ax - 0.30, ay - 0.95))
    if shape == "star":
        sector = math.pi / 5
        r, t = torch.hypot(x, y), torch.atan2(x, -y)
        t = (torch.remainder(t + sector, 2 * sector) - sector).abs()        # 0 at a tip, `sector` at a notch
        nx, ny = 0.42 * math.cos(sector) - 1.05, 0.42 * math.sin(sector)    # edge from tip to notch
        return ((r * torch.cos(t) - 1.05) * ny - r * torch.sin(t) * nx) / math.hypot(nx, ny)
    raise KeyError(shape)


def draw(shapes, paths, colors, backgrounds, size=SIZE):
    """shapes [n] names, paths [n,t,3], colors and backgrounds [n,3] -> float [n,t,3,size,size] in [0,1] and coverage."""
    grid = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y, r = (paths[..., k, None, None] for k in range(3))
    gx, gy = (grid[None, None, None, :] - x) / r, (grid[None, None, :, None] - y) / r
    gx, gy = gx.expand(-1, -1, size, -1), gy.expand(-1, -1, -1, size)
    dist = torch.empty(gx.shape)
    for name in set(shapes):
        pick = torch.tensor([i for i, s in enumerate(shapes) if s == name])
        dist[pick] = distance(name, gx[pick], gy[pick])
    cover = (0.5 - dist * r * size / 2).clamp(0, 1)[:, :, None]
    fore, back = colors[:, None, :, None, None], backgrounds[:, None, :, None, None]
    return back + (fore - back) * cover, cover


def render(scenes, frames=FRAMES, size=SIZE):
    """Clips of the scenes, u8 [n, frames, 3, size, size]."""
    video, _ = draw([s["shape"] for s in scenes], torch.stack([trajectory(s, frames) for s in scenes]),
                    torch.tensor([COLORS[s["color"]] for s in scenes]),
                    torch.tensor([(BACKGROUNDS | SHARED_BACKGROUNDS)[s["background"]] for s in scenes]), size)
    return (video * 255 + 0.5).to(torch.uint8)


def random_frames(n, rng, free_colors=0.1):
    """Single frames for the image autoencoder: float [n,3,size,size] in [-1,1] and an edge map [n,1,size,size]."""
    pick = lambda table: ([rng.random() for _ in range(3)] if rng.random() < free_colors else rng.choice(list(table.values())))
    paths = torch.tensor([[[rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9), rng.uniform(0.11, 0.6)]] for _ in range(n)])
    colors = torch.tensor([pick(COLORS) for _ in range(n)])
    backs = torch.tensor([pick(BACKGROUNDS) for _ in range(n)])
    video, cover = draw([rng.choice(SHAPES) for _ in range(n)], paths, colors, backs)
    inside = torch.nn.functional.max_pool2d(cover[:, 0], 5, 1, 2)
    outside = torch.nn.functional.max_pool2d(1 - cover[:, 0], 5, 1, 2)
    return video[:, 0] * 2 - 1, inside * outside


def dataset(n, seed, split="train", backgrounds=BACKGROUNDS):
    """Deterministic list of (scene, caption)."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, split, backgrounds) for _ in range(n)]
    return scenes, [caption(s, rng) for s in scenes]
