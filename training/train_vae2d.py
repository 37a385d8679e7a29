"""Train the per-frame autoencoder on freshly rendered frames for a given number of seconds."""
import argparse
import random

import torch

import toybox
from common import Ema, Muon, Session, psnr
from vae import SpatialVAE

ap = argparse.ArgumentParser()
ap.add_argument("--budget", type=float, default=900, help="seconds, summed over all sessions")
ap.add_argument("--lr", type=float, default=2e-3)
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--noise", type=float, default=0.1, help="standard deviation of the latent noise once ramped up")
ap.add_argument("--threads", type=int, default=1)
ap.add_argument("--name", default="vae2d")
args = ap.parse_args()

torch.manual_seed(0)
run = Session(args.name, args.budget, args.lr, threads=args.threads)
net = SpatialVAE()
for m in net.modules():
    if hasattr(m, "conv2"):
        torch.nn.init.zeros_(m.conv2.weight)        # residual branches start closed
ema = Ema(net)
opt = Muon(net.parameters(), lr=args.lr)
if state := run.resume():
    net.load_state_dict(state["net"]), ema.module.load_state_dict(state["ema"]), opt.load_state_dict(state["opt"])
    ema.count = run.step
valid = toybox.random_frames(32, random.Random(10 ** 6), free_colors=0)[0]
mean_loss = 0.0
while run.running():
    x, edge = toybox.random_frames(args.batch, random.Random(run.step + 1))
    opt.set_lr(run.current_lr())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, _ = net.encode(x)
        noise = args.noise * min(1.0, max(0.0, run.elapsed() / args.budget - 0.15) / 0.2)
        y = net.decode(mean + noise * torch.randn_like(mean))
    diff, mean = y.float() - x, mean.float()
    loss = ((diff.abs() + 2 * diff.pow(2)) * (1 + 4 * edge)).mean() + 3e-4 * mean.pow(2).mean()
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    opt.step()
    ema.update(net)
    run.step += 1
    mean_loss += loss.item() / 200
    if run.step % 200 == 0:
        with torch.no_grad():
            z, _ = ema.module.encode(valid)
            run.log(loss=mean_loss, psnr=psnr(ema.module.decode(z), valid), std=z.std(), noise=noise)
        mean_loss = 0.0
    if run.save_due():
        run.save(net=net.state_dict(), ema=ema.module.state_dict(), opt=opt.state_dict())
run.save(net=net.state_dict(), ema=ema.module.state_dict(), opt=opt.state_dict())
