"""Train STDiT3 and the T5 encoder jointly with rectified flow on stored latents."""
import argparse
import random

import torch
import torch.nn.functional as F

import toybox
from common import STATE_DIR, Ema, Muon, Session
from encode import SEEDS
from stdit3 import STDiT3
from t5 import T5Encoder, Tokenizer, train_tokenizer

VARIANTS = 4                                                      # captions per clip
VIDEO_FPS, IMAGE_FPS = 24.0, 120.0


def captions(scenes, seed, image):
    rng = random.Random(seed)
    return [toybox.caption(s, rng, still_image=image, terse=0.05) for s in scenes]


class TextToVideo(torch.nn.Module):
    def __init__(self, vocab_size, depth):
        super().__init__()
        self.t5 = T5Encoder(vocab_size=vocab_size).initialise()
        self.dit = STDiT3(depth=depth, caption_channels=self.t5.config["d_model"], input_sq_size=toybox.SIZE).initialise()

    def forward(self, x, t, ids, mask, drop, fps):
        y = self.t5(ids, mask)
        null = self.dit.y_embedder.y_embedding[None, : ids.shape[1]].to(y.dtype)   # cut with the prompt's own mask
        y = torch.where(drop[:, None, None], null, y)
        out = self.dit(x, t, y, mask, torch.full((len(x),), fps), toybox.SIZE, toybox.SIZE)
        return out[:, : x.shape[1]]


def flow_pair(x, u):
    """Noised latents and the velocity target at noise levels u in [0,1]."""
    noise = torch.randn_like(x)
    u = u.view(-1, 1, 1, 1, 1)
    return (1 - u) * x + u * noise, x - noise


def noise_levels(n, mean, std):
    """Logistic normal, with one sample in ten uniform."""
    u = torch.sigmoid(mean + std * torch.randn(n))
    return torch.where(torch.rand(n) < 0.1, torch.rand(n), u)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--budget", type=float, default=3740, help="seconds, summed over all sessions")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--depth", type=int, default=4)
    ap.add_argument("--images", type=float, default=0.08, help="share of single-image steps")
    ap.add_argument("--level-mean", type=float, default=0.4)
    ap.add_argument("--level-std", type=float, default=1.1)
    ap.add_argument("--ema", type=float, default=0.998)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--compile", action="store_true", help="compile the blocks (needs a C++ compiler)")
    ap.add_argument("--name", default="dit")
    args = ap.parse_args()

    torch.manual_seed(2)
    run = Session(args.name, args.budget, args.lr, warmup=150, decay=0.3, threads=args.threads)
    data, test = torch.load(STATE_DIR / "latents_train.pt"), torch.load(STATE_DIR / "latents_test.pt")
    scenes, test_scenes = toybox.dataset(len(data["video"]), SEEDS["train"])[0], toybox.dataset(len(test["video"]), SEEDS["test"], "test")[0]
    if (STATE_DIR / "latents_shared.pt").exists():
        more = torch.load(STATE_DIR / "latents_shared.pt")
        scenes += toybox.dataset(len(more["video"]), SEEDS["shared"], backgrounds=toybox.SHARED_BACKGROUNDS)[0]
        data = data | {kind: torch.cat([data[kind], more[kind]]) for kind in ("video", "image")}
    n = len(scenes)
    texts = {kind: [captions(scenes, 10 + k, kind == "image") for k in range(VARIANTS)] for kind in ("video", "image")}
    model_path = STATE_DIR / "tokenizer" / "spiece.model"
    if not model_path.exists():
        train_tokenizer([c for rows in texts.values() for row in rows for c in row][:20000], model_path.parent)
    tokenizer = Tokenizer(model_path)
    ids = {kind: [[tokenizer.ids(c) for c in row] for row in rows] for kind, rows in texts.items()}

    net = TextToVideo(tokenizer.model.vocab_size(), args.depth)
    dit = net.dit
    ema = Ema(net, args.ema)
    tables = [net.t5.shared.weight, dit.y_embedder.y_embedding, dit.final_layer.linear.weight, dit.x_embedder.proj.weight,
              net.t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight]
    opt = Muon(net.parameters(), lr=args.lr, weight_decay=0.01, tables=tables)
    if state := run.resume():
        net.load_state_dict(state["net"]), ema.module.load_state_dict(state["ema"]), opt.load_state_dict(state["opt"])
        ema.count = run.step
    null_start = state["null_start"] if state else dit.y_embedder.y_embedding.detach().clone()
    save = lambda: run.save(net=net.state_dict(), ema=ema.module.state_dict(), opt=opt.state_dict(), depth=args.depth,
                            shift=data["shift"], scale=data["scale"], null_start=null_start)

    @torch.no_grad()
    def validate():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = test["video"].float()
            i, m = tokenizer(captions(test_scenes, 0, False))
            u = (torch.arange(len(x)) + 0.5) / len(x)
            xt, target = flow_pair(x, u)
            return F.mse_loss(ema.module(xt, u * 1000, i, m, torch.zeros(len(x), dtype=torch.bool), VIDEO_FPS), target)

    if args.compile:                                              # after the copy for averaging was made
        for block in [*dit.spatial_blocks, *dit.temporal_blocks]:
            block.compile(dynamic=False)
    width = max(len(r) for rows in ids.values() for row in rows for r in row)
    mean_loss, count = 0.0, 0
    while run.running():
        kind = "image" if torch.rand(()) < args.images else "video"
        size = args.batch * (2 if kind == "image" else 1)
        pick = torch.randint(n, (size,))
        rows = [ids[kind][v][p] for v, p in zip(torch.randint(VARIANTS, (size,)).tolist(), pick.tolist())]
        tok = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        u = noise_levels(size, args.level_mean, args.level_std)
        xt, target = flow_pair(data[kind][pick].float(), u)
        opt.set_lr(run.current_lr())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = net(xt, u * 1000, tok, (tok != 0).long(), torch.rand(size) < 0.1, VIDEO_FPS if kind == "video" else IMAGE_FPS)
        loss = F.mse_loss(out, target)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        ema.update(net)
        run.step += 1
        if kind == "video":
            mean_loss, count = mean_loss + loss.item(), count + 1
        if run.step % 100 == 0:
            extra = dict(test=validate()) if run.step % 500 == 0 else {}
            run.log(loss=mean_loss / count, lr=run.current_lr(), **extra)
            mean_loss, count = 0.0, 0
        if run.save_due():
            save()
    save()


if __name__ == "__main__":
    main()
