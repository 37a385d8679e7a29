"""Measurements on generated clips: background, object colour, motion and shape, without looking at the caption."""
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

import toybox
from common import STATE_DIR, Muon

CROP = 24


def nearest(color, table):
    names, values = list(table), torch.tensor(list(table.values()))
    return names[int((values - color).pow(2).sum(-1).argmin())]


def foreground(frames):
    """u8 [t,h,w,3] -> background colour [3] and soft object map [t,h,w] in [0,1]."""
    x = frames.float() / 255
    border = torch.cat([x[:, :3].flatten(0, 2), x[:, -3:].flatten(0, 2), x[:, :, :3].flatten(0, 2), x[:, :, -3:].flatten(0, 2)])
    back = border.median(0).values
    return back, ((x - back).norm(dim=-1) / 0.3).clamp(0, 1)


def motion_of(mask):
    """Motion class from the centroid track and the area, with a threshold in pixels."""
    t, h, w = mask.shape
    area = mask.sum((1, 2))
    if (area < 8).any():
        return "none"
    gy, gx = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    cx, cy = (mask * gx).sum((1, 2)) / area, (mask * gy).sum((1, 2)) / area
    dx, dy = (cx[-3:].mean() - cx[:3].mean()).item(), (cy[-3:].mean() - cy[:3].mean()).item()
    growth = (area[-3:].mean() / area[:3].mean()).item()
    if max(abs(dx), abs(dy)) > 4:
        return ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
    return "grow" if growth > 1.6 else "shrink" if growth < 1 / 1.6 else "still"


def crop(mask):
    """Object map of one frame, cut to its bounding box and resized to CROP x CROP."""
    rows, cols = ((mask > 0.5).any(d).nonzero().flatten() for d in (1, 0))
    if len(rows) < 3 or len(cols) < 3:
        return torch.zeros(1, CROP, CROP)
    cut = mask[rows[0]:rows[-1] + 1, cols[0]:cols[-1] + 1]
    side = max(cut.shape)
    padded = torch.zeros(side, side)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    padded[top:top + cut.shape[0], left:left + cut.shape[1]] = cut
    return F.interpolate(padded[None, None], (CROP, CROP), mode="bilinear")[0]


def shape_classifier(steps=500):
    """A small convolutional network trained on rendered frames with blur and noise; cached in the state folder."""
    net = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                        nn.Linear(32 * (CROP // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, len(toybox.SHAPES)))
    path = STATE_DIR / "shape_classifier.pt"
    if path.exists():
        net.load_state_dict(torch.load(path))
        return net.eval()
    torch.manual_seed(5)
    rng, opt = random.Random(5), Muon(net.parameters(), lr=1e-3)
    for _ in range(steps):
        names = [rng.choice(toybox.SHAPES) for _ in range(32)]
        paths = torch.tensor([[[rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0.16, 0.5)]] for _ in names])
        _, cover = toybox.draw(names, paths, torch.ones(32, 3), torch.zeros(32, 3))
        soft = F.avg_pool2d(cover[:, 0], 3, 1, 1) if rng.random() < 0.5 else cover[:, 0]
        soft = (soft * rng.uniform(0.8, 1.6)).clamp(0, 1)
        x = torch.stack([crop(m) for m in (soft + 0.08 * torch.randn_like(soft)).clamp(0, 1)[:, 0]])
        loss = F.cross_entropy(net(x), torch.tensor([toybox.SHAPES.index(s) for s in names]))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
    torch.save(net.state_dict(), path)
    return net.eval()


@torch.no_grad()
def measure(frames, classifier):
    """u8 [t,h,w,3] -> dict of measured slots."""
    back, mask = foreground(frames)
    solid = mask > 0.9
    color = frames[solid].float().median(0).values / 255 if solid.sum() > 20 else back
    picks = [len(mask) // 4, len(mask) // 2, 3 * len(mask) // 4] if len(mask) > 3 else [0]
    votes = classifier(torch.stack([crop(mask[i]) for i in picks])).softmax(-1).sum(0)
    palette = toybox.BACKGROUNDS | toybox.SHARED_BACKGROUNDS
    return dict(background=nearest(back, palette), color=nearest(color, toybox.COLORS), motion=motion_of(mask),
                shape=toybox.SHAPES[int(votes.argmax())])


def score(scenes, videos, classifier):
    """Fraction of clips whose measured slots match the scene; direction counts moving clips, still the resting ones."""
    hits = {k: [] for k in ("background", "color", "shape", "direction", "still", "grow_shrink")}
    for scene, video in zip(scenes, videos):
        got = measure(video, classifier)
        for k in ("background", "color", "shape"):
            hits[k].append(got[k] == scene[k])
        kind = "direction" if scene["motion"] in toybox.DIRECTIONS else "still" if scene["motion"] == "still" else "grow_shrink"
        hits[kind].append(got["motion"] == scene["motion"])
    return {k: (sum(v) / max(1, len(v)), len(v)) for k, v in hits.items()}
