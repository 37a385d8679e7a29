"""Load an exported model folder and sample from it (float32 by default): the reference for other implementations."""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from stdit3 import STDiT3
from t5 import T5Encoder, Tokenizer
from vae import SpatialVAE, TemporalVAE, VideoVAE


def read_json(path):
    return json.loads(Path(path).read_text())


def load(module, path):
    module.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return module.eval().requires_grad_(False)


def to_bytes(x):
    """Pixels in [-1,1] [...,3,t,h,w] -> u8 [...,t,h,w,3]."""
    y = (x.clamp(-1, 1) + 1) / 2
    return (y * 255 + 0.5).clamp(0, 255).to(torch.uint8).movedim(-4, -1)


def latent_frames(frames):
    return 5 * (frames // 17) + -(-(frames % 17) // 4)


class Pipeline:
    def __init__(self, folder):
        folder = Path(folder)
        self.defaults = read_json(folder / "model_index.json")["defaults"]
        self.scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        self.dit = load(STDiT3(**read_json(folder / "transformer" / "config.json")), folder / "transformer" / "model.safetensors")
        self.t5 = load(T5Encoder(**read_json(folder / "text_encoder" / "config.json")), folder / "text_encoder" / "model.safetensors")
        vae = VideoVAE(SpatialVAE(**read_json(folder / "vae" / "vae_2d" / "config.json")),
                       TemporalVAE(**read_json(folder / "vae" / "config.json")["vae_temporal"]))
        self.vae = load(vae, folder / "vae" / "model.safetensors")
        self.tokenizer = Tokenizer(folder / "tokenizer" / "spiece.model", self.dit.config["model_max_length"])

    def timesteps(self, steps, height, width, frames, transform):
        t = [1000 * (1 - i / steps) for i in range(steps)]
        if transform:
            ratio = (height * width / 512 ** 2) ** 0.5 * (1 if frames == 1 else frames // 17 * 5) ** 0.5
            t = [1000 * ratio * (v / 1000) / (1 + (ratio - 1) * (v / 1000)) for v in t]
        return t + [0.0]

    @torch.no_grad()
    def sample(self, prompts, steps=None, guidance=None, frames=None, noise=None, seed=0, transform=None, bf16=False):
        """Final latents [n,4,t,h,w]. `bf16`: autocast, faster and slightly different."""
        d, n = self.defaults, len(prompts)
        steps, guidance, frames = steps or d["num_steps"], d["guidance_scale"] if guidance is None else guidance, frames or d["num_frames"]
        transform = self.scheduler["use_timestep_transform"] if transform is None else transform
        height, width = d["height"], d["width"]
        if noise is None:
            noise = torch.randn(n, 4, latent_frames(frames), height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
        ids, mask = self.tokenizer(prompts)
        fps = torch.full((2 * n,), float(d["fps"]) if frames > 1 else 120.0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            y = self.t5(ids, mask)
            null = self.dit.y_embedder.y_embedding[None, : ids.shape[1]].expand_as(y)
            y, mask, z = torch.cat([y, null.to(y.dtype)]), torch.cat([mask, mask]), noise
            ts = self.timesteps(steps, height, width, frames, transform)
            for t, after in zip(ts[:-1], ts[1:]):
                v = self.dit(torch.cat([z, z]), torch.full((2 * n,), t), y, mask, fps, height, width)[:, :4]
                cond, uncond = v.chunk(2)
                z = z + (uncond + guidance * (cond - uncond)) * ((t - after) / 1000)
        return z

    @torch.no_grad()
    def decode(self, z, frames=None, bf16=False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return to_bytes(self.vae.decode(z, frames or self.defaults["num_frames"]).float())


def contact_sheet(videos, path, every=2, zoom=2):
    """u8 videos [n,t,h,w,3] -> one PNG, a row per video."""
    from PIL import Image
    rows = [torch.cat(list(v[::every]), 1) for v in videos]
    picture = torch.cat(rows, 0).numpy()
    Image.fromarray(picture).resize((picture.shape[1] * zoom, picture.shape[0] * zoom), 0).save(path)


if __name__ == "__main__":
    import argparse
    ap = argparse.ArgumentParser()
    ap.add_argument("folder")
    ap.add_argument("prompts", nargs="+")
    ap.add_argument("--out", default="samples.png")
    ap.add_argument("--guidance", type=float)
    ap.add_argument("--steps", type=int)
    ap.add_argument("--frames", type=int)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    pipe = Pipeline(args.folder)
    z = pipe.sample(args.prompts, args.steps, args.guidance, args.frames, seed=args.seed)
    contact_sheet(pipe.decode(z, args.frames), args.out)
