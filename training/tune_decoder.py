"""Fine-tune the temporal decoder alone, encoder and latents kept, so that clips added after its training decode in their own colours.

Reads and replaces `tvae.pt`; the transformer's latents stay what they were, so it need not be trained again.
"""
import argparse
import time

import torch
import torch.nn.functional as F

import toybox
from common import STATE_DIR, psnr
from encode import SEEDS
from vae import SPATIAL_SCALE, SpatialVAE, TemporalVAE

ap = argparse.ArgumentParser()
ap.add_argument("--seconds", type=float, default=300)
ap.add_argument("--lr", type=float, default=1e-3)
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--noise", type=float, default=0.05)
ap.add_argument("--pixel-frames", type=int, default=8)
ap.add_argument("--threads", type=int, default=1)
args = ap.parse_args()

torch.manual_seed(5)
torch.set_num_threads(args.threads)
spatial = SpatialVAE().eval().requires_grad_(False)
spatial.load_state_dict(torch.load(STATE_DIR / "vae2d_folded.pt"))
parts = [torch.load(STATE_DIR / f"spatial_{split}.pt") for split in ("train", "shared")]
scenes = toybox.dataset(len(parts[0]), SEEDS["train"])[0]
scenes += toybox.dataset(len(parts[1]), SEEDS["shared"], backgrounds=toybox.SHARED_BACKGROUNDS)[0]
counts, data = [len(p) for p in parts], torch.cat(parts)
state = torch.load(STATE_DIR / "tvae.pt", weights_only=False)
net = TemporalVAE()
net.load_state_dict(state["ema"])
net.encoder.requires_grad_(False), net.quant_conv.requires_grad_(False)
tuned = [p for p in net.parameters() if p.requires_grad]
mean_of = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
opt = torch.optim.AdamW(tuned, lr=args.lr, weight_decay=0.0, betas=(0.9, 0.98))


def to_pixels(z):
    return spatial.decode(z / SPATIAL_SCALE)


start, step = time.time(), 0
while (done := (time.time() - start) / args.seconds) < 1:
    opt.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 30) * max(0.02, min(1, 2 * (1 - done)))
    shared = torch.rand(args.batch) < 0.35
    pick = torch.where(shared, counts[0] + torch.randint(counts[1], (args.batch,)), torch.randint(counts[0], (args.batch,)))
    x = data[pick].float()
    if torch.rand(()) < 0.06:                                   # single images
        frame = int(torch.randint(x.shape[2], ()))
        x = x[:, :, frame:frame + 1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            mean, _ = net.encode(x)
        y = net.decode(mean + args.noise * torch.randn_like(mean), x.shape[2]).float()
        clip, frame = torch.randint(args.batch, (args.pixel_frames,)), torch.randint(x.shape[2], (args.pixel_frames,))
        got = to_pixels(y[clip, :, frame]).float()
    loss = F.l1_loss(y, x) + F.mse_loss(y, x)
    if x.shape[2] > 1:
        want = toybox.render([scenes[pick[c]] for c in clip])[torch.arange(args.pixel_frames), frame].float() / 127.5 - 1
        loss = loss + 4 * (got - want).abs().mean() + 8 * (got - want).pow(2).mean()
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(tuned, 1.0)
    opt.step()
    step += 1
    decay = min(0.99, step / (step + 10))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name in mean_of:
                mean_of[name].lerp_(p, 1 - decay)
    if step % 50 == 0:
        print(f"step {step}, {time.time() - start:.0f} s, loss {loss.item():.4f}", flush=True)

state["ema"].update(mean_of)
torch.save(state, STATE_DIR / "tvae.pt")
net.load_state_dict(state["ema"])
for split, table in (("test", toybox.BACKGROUNDS), ("shared", toybox.SHARED_BACKGROUNDS)):
    clips = toybox.render(toybox.dataset(12, 99, "test", table)[0]).float() / 127.5 - 1
    with torch.no_grad():
        z = torch.stack([spatial.encode(c)[0] for c in clips]).transpose(1, 2) * SPATIAL_SCALE
        out = net.decode(net.encode(z)[0], 17)
        pixels = torch.stack([to_pixels(o.transpose(0, 1)) for o in out])
    print(f"{split}: PSNR {psnr(pixels.clamp(-1, 1), clips):.2f} dB", flush=True)
