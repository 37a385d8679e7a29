"""Train the temporal autoencoder on stored spatial latents; the later part adds a pixel loss through the frozen image decoder."""
import argparse

import torch
import torch.nn.functional as F

import toybox
from common import STATE_DIR, Ema, Muon, Session, psnr
from encode import SEEDS
from vae import SPATIAL_SCALE, SpatialVAE, TemporalVAE

ap = argparse.ArgumentParser()
ap.add_argument("--budget", type=float, default=560, help="seconds, summed over all sessions")
ap.add_argument("--lr", type=float, default=2e-3)
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--noise", type=float, default=0.05)
ap.add_argument("--pixels-from", type=float, default=0.5, help="fraction of the budget after which the pixel loss starts")
ap.add_argument("--pixel-frames", type=int, default=8, help="frames per step that are decoded to pixels")
ap.add_argument("--threads", type=int, default=1)
args = ap.parse_args()

torch.manual_seed(1)
run = Session("tvae", args.budget, args.lr, warmup=50, threads=args.threads)
spatial = SpatialVAE().eval().requires_grad_(False)
spatial.load_state_dict(torch.load(STATE_DIR / "vae2d_folded.pt"))
data, test = torch.load(STATE_DIR / "spatial_train.pt"), torch.load(STATE_DIR / "spatial_test.pt")[:16].float()
scenes = toybox.dataset(len(data), SEEDS["train"])[0]
truth = toybox.render(toybox.dataset(16, SEEDS["test"], "test")[0]).float() / 127.5 - 1

net = TemporalVAE()
for m in net.modules():
    if hasattr(m, "conv3"):
        torch.nn.init.zeros_(m.conv2.conv.weight)
ema = Ema(net)
opt = Muon(net.parameters(), lr=args.lr)
if state := run.resume():
    net.load_state_dict(state["net"]), ema.module.load_state_dict(state["ema"]), opt.load_state_dict(state["opt"])
    ema.count = run.step


def to_pixels(z):
    """Scaled spatial latents [n,4,h,w] -> pictures."""
    return spatial.decode(z / SPATIAL_SCALE)


@torch.no_grad()
def evaluate():
    mean, _ = ema.module.encode(test)
    out = ema.module.decode(mean, test.shape[2])
    pixels = to_pixels(out[:8].transpose(1, 2).flatten(0, 1)).unflatten(0, (8, -1))
    return dict(mse=F.mse_loss(out, test), psnr=psnr(pixels, truth[:8]), std=mean.std())


mean_loss = 0.0
while run.running():
    pick = torch.randint(len(data), (args.batch,))
    x = data[pick].float()
    if torch.rand(()) < 0.08:                                   # single images
        frame = int(torch.randint(x.shape[2], ()))
        x = x[:, :, frame:frame + 1]
    opt.set_lr(run.current_lr())
    pixels = run.elapsed() > args.pixels_from * args.budget and x.shape[2] > 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, _ = net.encode(x)
        y = net.decode(mean + args.noise * torch.randn_like(mean), x.shape[2]).float()
        if pixels:
            clip, frame = torch.randint(args.batch, (args.pixel_frames,)), torch.randint(x.shape[2], (args.pixel_frames,))
            want = toybox.render([scenes[pick[c]] for c in clip])[torch.arange(args.pixel_frames), frame].float() / 127.5 - 1
            got = to_pixels(y[clip, :, frame]).float()
    loss = F.l1_loss(y, x) + F.mse_loss(y, x) + 1e-3 * mean.float().pow(2).mean()
    if pixels:
        loss = loss + 4 * (got - want).abs().mean() + 8 * (got - want).pow(2).mean()
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    opt.step()
    ema.update(net)
    run.step += 1
    mean_loss += loss.item() / 100
    if run.step % 100 == 0:
        run.log(loss=mean_loss, **evaluate())
        mean_loss = 0.0
    if run.save_due():
        run.save(net=net.state_dict(), ema=ema.module.state_dict(), opt=opt.state_dict())
run.save(net=net.state_dict(), ema=ema.module.state_dict(), opt=opt.state_dict())
