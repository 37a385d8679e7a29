"""Evaluate an exported folder: reconstruction PSNR and obedience to held-out prompts."""
import argparse
import json
import random
import time
from pathlib import Path

import torch

import toybox
from common import psnr
from measure import score, shape_classifier
from pipeline import Pipeline, contact_sheet

BARS = {"vae_psnr_db": 30, "background": 0.95, "color": 0.90, "direction": 0.85, "still": 0.90, "shape": 0.70}


def reconstruct(pipe, scenes):
    truth = toybox.render(scenes)
    out = []
    with torch.no_grad():
        for clip in truth.split(4):
            x = clip.float().transpose(1, 2) / 127.5 - 1
            out.append(pipe.decode(pipe.vae.encode(x)))
    return truth.movedim(2, -1), torch.cat(out)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder", type=Path)
    ap.add_argument("--prompts", type=int, default=100)
    ap.add_argument("--shared-prompts", type=int, default=60, help="on backgrounds named like object colours")
    ap.add_argument("--clips", type=int, default=48, help="held-out clips for the reconstruction PSNR")
    ap.add_argument("--guidance", type=float)
    ap.add_argument("--steps", type=int)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--sheet", help="write the first clips as a picture")
    ap.add_argument("--out", type=Path, help="write the numbers as JSON")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    pipe, classifier = Pipeline(args.folder), shape_classifier()
    result = {}
    if args.clips:
        scenes, _ = toybox.dataset(args.clips, 77, "test")
        truth, recon = reconstruct(pipe, scenes)
        result["vae_psnr_db"] = round(psnr(recon / 127.5 - 1, truth / 127.5 - 1), 2)
        for name, videos in (("measured_on_renders", truth), ("measured_on_reconstructions", recon)):
            result[name] = {k: round(v, 3) for k, (v, _) in score(scenes, videos, classifier).items()}
        print(json.dumps(result), flush=True)

    def obey(count, backgrounds):
        rng = random.Random(1000 + args.seed)
        scenes = [toybox.sample_scene(rng, "test", backgrounds) for _ in range(count)]
        prompts, videos = [toybox.caption(s, rng) for s in scenes], []
        for i in range(0, count, 20):
            z = pipe.sample(prompts[i:i + 20], args.steps, args.guidance, seed=args.seed * 1000 + i, bf16=True)
            videos.append(pipe.decode(z, bf16=True))
        videos = torch.cat(videos)
        return prompts, videos, score(scenes, videos, classifier)

    if args.shared_prompts:
        scores = obey(args.shared_prompts, toybox.SHARED_BACKGROUNDS)[2]
        result["shared_backgrounds"] = {k: dict(rate=round(v, 3), clips=n) for k, (v, n) in scores.items()}
    start = time.time()
    prompts, videos, scores = obey(args.prompts, toybox.BACKGROUNDS)
    result.update(prompts=args.prompts, steps=args.steps or pipe.defaults["num_steps"],
                  guidance=pipe.defaults["guidance_scale"] if args.guidance is None else args.guidance,
                  seconds_per_clip=round((time.time() - start) / max(1, args.prompts), 2),
                  obedience={k: dict(rate=round(v, 3), clips=n) for k, (v, n) in scores.items()}, bars=BARS)
    print(json.dumps(result, indent=1))
    for name in ("background", "color", "direction", "still", "shape"):
        rate = scores[name][0]
        print(f"{name:12s} {rate:6.1%}  bar {BARS[name]:.0%}  {'met' if rate >= BARS[name] else f'short by {BARS[name] - rate:.1%}'}")
    if args.sheet:
        contact_sheet(videos[:12], args.sheet)
        print("\n".join(prompts[:12]))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
