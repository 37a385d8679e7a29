"""Compare the PyTorch definitions with reference tensors: `check_golden.py FOLDER` where FOLDER holds stdit3/, vae/ and t5/."""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from stdit3 import STDiT3
from t5 import T5Encoder
from vae import SpatialVAE, TemporalVAE, VideoVAE

worst = 0.0


def report(name, got, want, tolerance):
    global worst
    error = ((got - want).abs().max() / max(1.0, want.abs().max().item())).item()
    worst = max(worst, error / tolerance)
    print(f"{'ok  ' if error <= tolerance else 'FAIL'} {name}: {error:.1e}")


def load(module, tensors):
    module.load_state_dict({k: v.float() for k, v in tensors.items()})
    return module.eval()


def check_stdit3(root):
    for folder in sorted(p.parent for p in root.glob("*/forward.safetensors")):
        net = load(STDiT3(**json.loads((folder / "config.json").read_text())), load_file(folder / "model.safetensors"))
        data = load_file(folder / "forward.safetensors")
        for case in sorted({k.split("/")[0] for k in data}):
            a = {k.split("/in.")[1]: v for k, v in data.items() if k.startswith(f"{case}/in.")}
            n = len(a["x"])
            rep = lambda v: v.repeat(n // len(v), *[1] * (v.ndim - 1))
            out = net(a["x"], a["timestep"], a["y"][:, 0], rep(a["mask"]) if "mask" in a else None, rep(a["fps"]),
                      float(a["height"][0]), float(a["width"][0]), rep(a["x_mask"]).bool() if "x_mask" in a else None)
            report(f"stdit3/{folder.name}/{case}", out, data[f"{case}/output"], 1e-4)


def check_vae(root):
    for folder in sorted(root.glob("osv12_*")):
        cfg = json.loads((folder / "config.json").read_text())
        net = VideoVAE(SpatialVAE(**json.loads((folder / "vae_2d" / "config.json").read_text())), TemporalVAE(**cfg["vae_temporal"]))
        load(net, load_file(folder / "model.safetensors"))
        for path in sorted(folder.glob("decode_*")):
            data = load_file(path)
            report(f"vae/{folder.name}/{path.stem}", net.decode(data["z"], data["x"].shape[2]), data["x"], 1e-4)
        for path in sorted(folder.glob("encode_*")):
            data = load_file(path)
            report(f"vae/{folder.name}/{path.stem}", net.encode(data["x"]), data["z_mode"], 1e-4)


def check_t5(root):
    net = T5Encoder(**json.loads((root / "model_a" / "config.json").read_text()))
    load(net, {k: v for k, v in load_file(root / "model_a" / "model.safetensors").items() if k != "encoder.embed_tokens.weight"})
    for path in sorted(root.glob("encode_*.safetensors")):
        data = load_file(path)
        mask = data["attention_mask"].long()
        out = net(data["input_ids"].long(), mask)
        report(f"t5/{path.stem}", out * mask[..., None], data["last_hidden_state"] * mask[..., None], 2e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        root = Path(sys.argv[1])
        check_stdit3(root / "stdit3"), check_vae(root / "vae"), check_t5(root / "t5")
    sys.exit(worst > 1)
