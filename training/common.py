"""Shared training utilities: optimiser, weight averaging, schedule, checkpoints, logging."""
import copy
import json
import math
import os
import time
from pathlib import Path

import torch

STATE_DIR = Path(os.environ.get("TOYBOX_STATE", "state"))       # data, logs and training state


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by a Newton-Schulz iteration for weight matrices, AdamW for the rest.

    Convolution kernels are treated as [out, in*k...] matrices. The update of a matrix is scaled to
    the root mean square of a typical AdamW update, so both parts share one learning rate.
    """

    def __init__(self, params, lr=1e-3, momentum=0.95, betas=(0.9, 0.98), weight_decay=0.0, tables=()):
        """`tables`: parameters that are look-up tables or first and last layers, for AdamW whatever their shape."""
        params, tables = [p for p in params if p.requires_grad], {id(p) for p in tables}
        matrix = [p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 8 and id(p) not in tables for p in params]
        groups = [dict(params=[p for p, m in zip(params, matrix) if m == kind], matrix=kind) for kind in (True, False)]
        super().__init__([g for g in groups if g["params"]], dict(lr=lr, momentum=momentum, betas=betas, weight_decay=weight_decay))

    @staticmethod
    def orthogonalise(g, steps=5):
        """Approximate U V^T of a batch of matrices [n, r, c]."""
        tall = g.shape[1] > g.shape[2]
        x = (g.transpose(1, 2) if tall else g).bfloat16()
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(steps):
            a = x @ x.transpose(1, 2)
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return (x.transpose(1, 2) if tall else x).float()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, wd = group["lr"], group["weight_decay"]
            if group["matrix"]:
                shapes = {}
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    shapes.setdefault((p.shape[0], p[0].numel()), []).append((p, torch.lerp(p.grad, m, group["momentum"]).flatten(1)))
                for (r, c), items in shapes.items():
                    update = self.orthogonalise(torch.stack([u for _, u in items])) * (0.2 * math.sqrt(max(r, c)))
                    for (p, _), u in zip(items, update):
                        p.mul_(1 - lr * wd).add_(u.view_as(p), alpha=-lr)
            else:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    s = self.state[p]
                    if not s:
                        s.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                    s["step"] += 1
                    b1, b2 = group["betas"]
                    s["m"].lerp_(p.grad, 1 - b1)
                    s["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                    m, v = s["m"] / (1 - b1 ** s["step"]), s["v"] / (1 - b2 ** s["step"])
                    p.addcdiv_(m, v.sqrt().add_(1e-8), value=-lr)

    def set_lr(self, lr):
        for g in self.param_groups:
            g["lr"] = lr


class Ema:
    """Exponential moving average of a module's parameters, with a short warm-up."""

    def __init__(self, module, decay=0.999):
        self.module, self.decay, self.count = copy.deepcopy(module).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def update(self, module):
        self.count += 1
        d = min(self.decay, (1 + self.count) / (15 + self.count))
        torch._foreach_lerp_(list(self.module.parameters()), [p.detach() for p in module.parameters()], 1 - d)


class Session:
    """One time-budgeted training session: learning-rate schedule, log, checkpoint and exact resume.

    The budget counts processor time per thread, so pausing the process costs nothing. The schedule
    follows the fraction of the budget spent over all sessions, so an interrupted run continues where
    it stopped; a larger `--budget` than before lengthens the constant phase.
    """

    def __init__(self, name, budget, lr, warmup=100, decay=0.25, threads=1):
        STATE_DIR.mkdir(parents=True, exist_ok=True)
        self.path, self.log_path = STATE_DIR / f"{name}.pt", STATE_DIR / f"{name}.log.jsonl"
        self.budget, self.lr, self.warmup, self.decay = budget, lr, warmup, decay
        self.spent, self.step, self.started, self.saved = 0.0, 0, time.process_time(), time.time()
        self.threads = threads
        torch.set_num_threads(threads)

    def elapsed(self):
        return self.spent + (time.process_time() - self.started) / self.threads

    def running(self):
        return self.elapsed() < self.budget

    def current_lr(self):
        f = self.elapsed() / self.budget
        return self.lr * min(1, (self.step + 1) / self.warmup) * (1 if f < 1 - self.decay else max(0.02, (1 - f) / self.decay))

    def log(self, **values):
        row = dict(step=self.step, seconds=round(self.elapsed()), **{k: round(float(v), 5) for k, v in values.items()})
        print(json.dumps(row), flush=True)
        with open(self.log_path, "a") as f:
            f.write(json.dumps(row) + "\n")

    def save(self, **state):
        tmp = self.path.with_suffix(".tmp")
        torch.save(dict(spent=self.elapsed(), step=self.step, rng=torch.get_rng_state(), **state), tmp)
        os.replace(tmp, self.path)
        self.saved = time.time()

    def save_due(self, seconds=120):
        return time.time() - self.saved > seconds

    def resume(self):
        """The saved state, or None."""
        if not self.path.exists():
            return None
        state = torch.load(self.path, weights_only=False)
        self.spent, self.step, self.started = state["spent"], state["step"], time.process_time()
        torch.set_rng_state(state["rng"])
        print(f"resumed at step {self.step}, {self.spent:.0f} s spent", flush=True)
        return state


def psnr(a, b):
    """Peak signal-to-noise ratio of pictures in [-1,1], in dB."""
    return (10 * torch.log10(4 / (a.clamp(-1, 1) - b).pow(2).mean())).item()
