"""Reference samples of an exported folder for other implementations: `export_reference.py FOLDER OUT`.

Everything in float32 from the exported weights. `reference.json` lists the runs, `reference.safetensors`
holds `<name>/noise`, `<name>/latents` (the sampler's result) and `<name>/frames` (u8, [t,h,w,3]).
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline import Pipeline

PROMPTS = {
    "red_circle_right": "a red circle moving right on a blue background",
    "yellow_star_up": "a large yellow star rising slowly over a navy background",
    "white_ring_still": "a white ring standing still in front of a brown background",
    "green_square_grow": "a small green square growing on a pink background",
}


def main():
    torch.set_num_threads(1)
    pipe, out = Pipeline(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    d, runs, tensors = pipe.defaults, [], {}
    transform = pipe.scheduler["use_timestep_transform"]
    for seed, (name, prompt) in enumerate(PROMPTS.items()):
        torch.manual_seed(seed)
        noise = torch.randn(1, 4, 5, d["height"] // 8, d["width"] // 8)
        z = pipe.sample([prompt], noise=noise)
        tensors |= {f"{name}/noise": noise, f"{name}/latents": z.contiguous(), f"{name}/frames": pipe.decode(z)[0].contiguous()}
        runs.append(dict(name=name, prompt=prompt, steps=d["num_steps"], guidance=d["guidance_scale"], height=d["height"], width=d["width"],
                         num_frames=d["num_frames"], fps=d["fps"], use_timestep_transform=transform, token_ids=pipe.tokenizer.ids(prompt)))
    save_file(tensors, out / "reference.safetensors")
    (out / "reference.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
