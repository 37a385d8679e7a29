"""Latents of the training clips.

`encode.py spatial`: renders the clips, folds the normalisation of the spatial latents into the image
autoencoder (so that latents times 0.18215 have zero mean and unit variance) and stores them.
`encode.py shared`: adds clips on backgrounds named like object colours, with the same folded autoencoder.
`encode.py temporal`: encodes those with the temporal autoencoder, for clips and for single frames.
"""
import argparse

import torch

import toybox
from common import STATE_DIR
from vae import SPATIAL_SCALE, SpatialVAE, TemporalVAE

SEEDS = {"train": 1, "test": 2, "shared": 4}
BATCH = 4                                                           # clips


@torch.no_grad()
def fold(net, mean, std, noise):
    """Rewrite quant_conv and post_quant_conv so that latents are (old - mean) / std / SPATIAL_SCALE, with constant variance."""
    gain = 1 / (std * SPATIAL_SCALE)
    conv, post = net.quant_conv, net.post_quant_conv
    conv.weight[:4] *= gain[:, None, None, None]
    conv.bias[:4] = (conv.bias[:4] - mean) * gain
    conv.weight[4:] = 0
    conv.bias[4:] = 2 * torch.log(noise * gain)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= gain[None, :, None, None]


def clips(scenes):
    for i in range(0, len(scenes), BATCH):
        yield toybox.render(scenes[i:i + BATCH]).float() / 127.5 - 1


@torch.no_grad()
def spatial_latents(net, scenes):
    out = []
    for video in clips(scenes):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out.append(net.encode(video.flatten(0, 1))[0].float().unflatten(0, video.shape[:2]))
    return torch.cat(out)                                           # [n,17,4,8,8]


@torch.no_grad()
def temporal_latents(net, z):
    out = []
    for c in z.split(16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out.append(net.encode(c.float())[0].half())
    return torch.cat(out)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("stage", choices=["spatial", "shared", "temporal"])
    ap.add_argument("--clips", type=int, default=6000)
    ap.add_argument("--test-clips", type=int, default=100)
    ap.add_argument("--shared-clips", type=int, default=1400)
    ap.add_argument("--noise", type=float, default=0.1, help="standard deviation of the latent noise in training")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    counts = {"train": args.clips, "test": args.test_clips}
    if args.stage == "spatial":
        net = SpatialVAE().eval()
        net.load_state_dict(torch.load(STATE_DIR / "vae2d.pt", weights_only=False)["ema"])
        z = spatial_latents(net, toybox.dataset(400, 0)[0])
        mean, std = z.mean((0, 1, 3, 4)), z.std((0, 1, 3, 4))
        fold(net, mean, std, args.noise)
        torch.save(net.state_dict(), STATE_DIR / "vae2d_folded.pt")
        for split, n in counts.items():
            scenes, _ = toybox.dataset(n, SEEDS[split], split)
            z = spatial_latents(net, scenes) * SPATIAL_SCALE
            torch.save(z.transpose(1, 2).half().contiguous(), STATE_DIR / f"spatial_{split}.pt")
            print(split, tuple(z.shape), "mean", z.mean((0, 1, 3, 4)).tolist(), "std", z.std((0, 1, 3, 4)).tolist(), flush=True)
    elif args.stage == "shared":
        net = SpatialVAE().eval()
        net.load_state_dict(torch.load(STATE_DIR / "vae2d_folded.pt", weights_only=False))
        scenes, _ = toybox.dataset(args.shared_clips, SEEDS["shared"], backgrounds=toybox.SHARED_BACKGROUNDS)
        z = spatial_latents(net, scenes) * SPATIAL_SCALE
        torch.save(z.transpose(1, 2).half().contiguous(), STATE_DIR / "spatial_shared.pt")
        print("shared", tuple(z.shape), flush=True)
    else:
        net = TemporalVAE().eval()
        net.load_state_dict(torch.load(STATE_DIR / "tvae.pt", weights_only=False)["ema"])
        stats = None
        for split in (s for s in SEEDS if (STATE_DIR / f"spatial_{s}.pt").exists()):
            z = torch.load(STATE_DIR / f"spatial_{split}.pt")
            frame = torch.randint(z.shape[2], (len(z),), generator=torch.Generator().manual_seed(3))
            video = temporal_latents(net, z)
            image = temporal_latents(net, z[torch.arange(len(z)), :, frame][:, :, None])
            stats = stats or dict(shift=video.float().mean((0, 2, 3, 4)), scale=video.float().std((0, 2, 3, 4)))
            print(split, tuple(video.shape), {k: v.tolist() for k, v in stats.items()}, flush=True)
            norm = lambda t: ((t.float() - stats["shift"].view(4, 1, 1, 1)) / stats["scale"].view(4, 1, 1, 1)).half()
            torch.save(dict(video=norm(video), image=norm(image), **stats), STATE_DIR / f"latents_{split}.pt")


if __name__ == "__main__":
    main()
