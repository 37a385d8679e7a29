#!/usr/bin/env python3
"""The roles of `residua bench kernels`, and the guided step of `residua bench model`, in PyTorch.

Prints the same lines of JSON. On CUDA in bf16 (or f16) with fused attention, elsewhere on the CPU in f32.

    python benches/torch_baseline.py --size small --threads 2 > torch.jsonl
    python benches/torch_baseline.py --dtype f16 --filter attention

Each case is written the way a PyTorch model of this kind does it: linear layers, activation, gate and residual are
calls of their own, convolutions see channels first, attention is `scaled_dot_product_attention`.
"""
import argparse
import ctypes
import json
import math
import os
import platform
import sys
import time

import torch
import torch.nn.functional as F

FRAMES, PATCHES, WIDTH, HEADS, HEAD, LATENT, CAPTION = 15, 1590, 1152, 16, 72, (60, 106), 300
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Maker:
    """Inputs on the device; counts their bytes."""

    def __init__(self, device, dtype):
        self.device, self.dtype, self.bytes = device, dtype, 0

    def __call__(self, *shape, dtype=None):
        x = torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)
        self.bytes += x.numel() * x.element_size()
        return x


# --- cases: name -> (shape as `residua bench kernels` has it, flops, function from Maker to a launch) ---


def linear(m, n, k, bias=False, gelu=False, onto=False, gate=False, times=False):
    def make(new):
        x, w, b = new(m, k), new(n, k) / math.sqrt(k), new(n) if bias else None
        rest, vector = new(m, n) if onto or times else None, new(n) if gate else None

        def launch():
            y = F.linear(x, w, b)
            if gelu:
                y = F.gelu(y, approximate="tanh")
            if gate:
                y = vector * y
            return rest + y if onto else rest * y if times else y
        return launch
    return [m, n, k], 2.0 * m * n * k, make


def attention(problems, heads, queries, keys, d, relative=False):
    def make(new):
        q, k, v = new(problems, heads, queries, d), new(problems, heads, keys, d), new(problems, heads, keys, d)
        bias = new(1, heads, queries, keys) if relative else None
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return [problems, heads, queries, keys, d], 4.0 * problems * heads * queries * keys * d, make


def rms(x, weight):
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def angles(length, d, device):
    """cos and sin, [length, d/2]."""
    turn = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, d, 2).float() / d)).to(device)
    return turn.cos(), turn.sin()


def rotate(x, cos, sin):
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)


def split(rows, length, inner, rotary):
    """Queries, keys and values out of a joint projection; the former two normed and, along time, turned."""
    def make(new):
        x, weight = new(rows, 3 * WIDTH), new(HEAD)
        turn = angles(length, HEAD, new.device)

        def heads(part, norm):
            part = rms(part.unflatten(1, (HEADS, HEAD)), weight) if norm else part.unflatten(1, (HEADS, HEAD))
            part = part.unflatten(0, (-1, length, inner)).permute(0, 2, 3, 1, 4).flatten(0, 1)
            return (rotate(part, *turn) if norm and rotary else part).contiguous()

        def launch():
            q, k, v = x.chunk(3, 1)
            return heads(q, True), heads(k, True), heads(v, False)
        return launch
    return [rows, HEADS, HEAD, length], 0.0, make


def conv(t, h, w, c, n, taps, upsample=1):
    def make(new):
        def last(x):  # the layout CUDA's convolutions prefer
            return x.to(memory_format=torch.channels_last) if new.device == "cuda" and x.ndim == 4 else x
        bias = new(n)
        if taps == 27:
            x, weight = new(1, c, t, h, w), new(n, c, 3, 3, 3)
            return lambda: F.conv3d(F.pad(x, (0, 0, 0, 0, 2, 0)), weight, bias, padding=(0, 1, 1))
        x, weight = last(new(t, c, h // upsample, w // upsample)), last(new(n, c, 3, 3))
        if upsample > 1:
            return lambda: F.conv2d(F.interpolate(x, scale_factor=upsample), weight, bias, padding=1)
        return lambda: F.conv2d(x, weight, bias, padding=1)
    return [t, h, w, c, n, taps], 2.0 * t * h * w * c * n * taps, make


def layer_norm(rows, c):
    def make(new):
        x, shift, scale = new(rows, c), new(c), new(c)
        return lambda: F.layer_norm(x, (c,), eps=1e-6) * (1 + scale) + shift
    return [rows, c], 0.0, make


def rms_norm(rows, c):
    def make(new):
        x, weight = new(rows, c), new(c)
        return lambda: rms(x, weight)
    return [rows, c], 0.0, make


def group_norm(positions, c):
    def make(new):
        x, weight, bias = new(1, c, positions), new(c), new(c)
        return lambda: F.silu(F.group_norm(x, 32, weight, bias, 1e-6))
    return [positions, c], 0.0, make


def add(rows):
    def make(new):
        x, y = new(rows, WIDTH), new(rows, WIDTH)
        return lambda: x + y
    return [rows, WIDTH], 0.0, make


def metric(rows):
    def make(new):
        x, y = new(rows, WIDTH), new(rows, WIDTH)
        return lambda: ((x - y).abs().sum(), x.abs().sum(), y.abs().sum())
    return [rows, WIDTH], 0.0, make


def euler():
    def make(new):
        z, dt = new(1, 4, FRAMES, *LATENT, dtype=torch.float32), new(FRAMES, 1, 1, dtype=torch.float32)
        velocity = new(2, 8, FRAMES, *LATENT)

        def launch():
            told, untold = velocity[:, :4].chunk(2)
            return z + dt * (untold + 7.0 * (told - untold))
        return launch
    return [4, FRAMES, *LATENT], 0.0, make


def cases(full):
    pick = (lambda large, small: large) if full else (lambda large, small: small)
    tokens = FRAMES * PATCHES
    rows, words, few, (h, w) = pick(tokens, 256), pick(CAPTION, 64), pick(HEADS, 4), LATENT
    image = lambda times, small: (1, times * h, times * w) if full else (1, small, small)
    video = lambda frames, small: (frames, h, w) if full else small
    frames, pixels = pick(FRAMES, 1), pick(h * w, 256)
    all_cases = {
        "stdit3.480p.spatial.qkv": linear(rows, 3 * WIDTH, WIDTH, bias=True),
        "stdit3.480p.spatial.proj": linear(rows, WIDTH, WIDTH, bias=True, onto=True, gate=True),
        "stdit3.480p.mlp.fc1": linear(rows, 4 * WIDTH, WIDTH, bias=True, gelu=True),
        "stdit3.480p.mlp.fc2": linear(rows, WIDTH, 4 * WIDTH, bias=True, onto=True, gate=True),
        "stdit3.480p.cross.q": linear(rows, WIDTH, WIDTH, bias=True),
        "stdit3.480p.cross.proj": linear(rows, WIDTH, WIDTH, bias=True, onto=True),
        "t5xxl.attn.q": linear(words, 4096, 4096),
        "t5xxl.attn.o": linear(words, 4096, 4096, onto=True),
        "t5xxl.mlp.wi_0": linear(words, 10240, 4096, gelu=True),
        "t5xxl.mlp.wi_1": linear(words, 10240, 4096, times=True),
        "t5xxl.mlp.wo": linear(words, 4096, 10240, onto=True),
        "matmul.1024": linear(1024, 1024, 1024),
        "stdit3.480p.split.spatial": split(frames * PATCHES, PATCHES, 1, False),
        "stdit3.480p.split.temporal": split(pick(tokens, 150 * FRAMES), FRAMES, pick(PATCHES, 150), True),
        "stdit3.480p.attention.spatial": attention(frames, few, PATCHES, PATCHES, HEAD),
        "stdit3.480p.attention.temporal": attention(PATCHES, few, FRAMES, FRAMES, HEAD),
        "stdit3.480p.attention.cross": attention(1, few, pick(tokens, PATCHES), CAPTION, HEAD),
        "t5xxl.attention": attention(1, pick(64, 8), CAPTION, CAPTION, 64, relative=True),
        "vae.spatial.attention.512": attention(1, 1, pixels, pixels, 512),
        "vae.conv3x3.64x64.128": conv(1, 128, 128, 64, 64, 9),
        "vae.spatial.conv3x3.512": conv(*image(1, 16), 512, 512, 9),
        "vae.spatial.upsample.512": conv(*image(2, 16), 512, 512, 9, upsample=2),
        "vae.spatial.conv3x3.256": conv(*image(4, 32), 256, 256, 9),
        "vae.spatial.conv3x3.128": conv(*image(8, 64), 128, 128, 9),
        "vae.spatial.conv_out": conv(*image(8, 64), 128, 3, 9),
        "vae.temporal.conv3x3x3.512": conv(*video(5, (2, 8, 8)), 512, 512, 27),
        "vae.temporal.conv3x3x3.128": conv(*video(20, (4, 16, 16)), 128, 128, 27),
        "stdit3.480p.layer_norm.modulate": layer_norm(pick(tokens, PATCHES), WIDTH),
        "t5xxl.rms_norm": rms_norm(CAPTION, 4096),
        "vae.spatial.group_norm.silu.128": group_norm(pick(64 * h * w, 128 * 128), 128),
        "vae.temporal.group_norm.silu.512": group_norm(pick(5 * h * w, 512), 512),
        "stdit3.480p.add": add(pick(tokens, PATCHES)),
        "stdit3.480p.adacache.metric": metric(pick(tokens, PATCHES)),
        "sampler.480p.euler": euler(),
    }
    if full:
        all_cases["matmul.4096"] = linear(4096, 4096, 4096)
    return all_cases


# --- the guided step: STDiT3 of Open-Sora v1.2, both samples of the pair stacked ---


class Block(torch.nn.Module):
    """One transformer block over the patches of a frame or over time. x: [2, T, S, C]."""

    def __init__(self, width, heads, temporal):
        super().__init__()
        self.heads, self.temporal, layer = heads, temporal, torch.nn.Linear
        self.qkv, self.proj = layer(width, 3 * width), layer(width, width)
        self.q, self.kv, self.out = layer(width, width), layer(width, 2 * width), layer(width, width)
        self.fc1, self.fc2 = layer(width, 4 * width), layer(4 * width, width)
        self.table = torch.nn.Parameter(torch.randn(6, width) / width ** 0.5)
        self.norms = torch.nn.Parameter(torch.ones(2, width // heads))

    def forward(self, x, text, vectors, turn):
        b, t, s, c = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + vectors).unsqueeze(2).unsqueeze(2).unbind(1)
        h = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale1) + shift1
        h = h.transpose(1, 2).flatten(0, 1) if self.temporal else h.flatten(0, 1)
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rms(q, self.norms[0]), rms(k, self.norms[1])
        if self.temporal:
            q, k = rotate(q, *turn), rotate(k, *turn)
        h = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = h.unflatten(0, (b, s)).transpose(1, 2) if self.temporal else h.unflatten(0, (b, t))
        x = x + gate1 * h
        q = self.q(x.flatten(1, 2)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).view_as(x)
        h = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class Network(torch.nn.Module):
    """From patches and conditioning vectors to velocities; the small embedders around it do not count in time."""

    def __init__(self, width, heads, depth, caption):
        super().__init__()
        self.embed, self.out = torch.nn.Linear(16, width), torch.nn.Linear(width, 32)
        self.text1, self.text2 = torch.nn.Linear(caption, width), torch.nn.Linear(width, width)
        self.vectors = torch.nn.Linear(width, 6 * width)
        self.blocks = torch.nn.ModuleList(Block(width, heads, i % 2 == 1) for i in range(2 * depth))

    def forward(self, z, t, text, turn):
        x = self.embed(z)
        vectors = self.vectors(F.silu(t)).unflatten(1, (6, -1))
        text = self.text2(F.gelu(self.text1(text), approximate="tanh"))
        for block in self.blocks:
            x = block(x, text, vectors, turn)
        return self.out(F.layer_norm(x, x.shape[-1:], eps=1e-6))


def step(width, heads, depth, frames, patches, words, caption=4096):
    tokens = 2 * frames * patches
    linears = 2.0 * tokens * width * width * (4 + 2 + 8) + 2.0 * 2 * words * width * 2 * width
    spatial, temporal = (4.0 * tokens * n * width for n in (patches, frames))
    cross = 4.0 * tokens * words * width
    flops = depth * (2 * linears + spatial + temporal + 2 * cross)

    def make(new):
        with torch.device(new.device):
            net = Network(width, heads, depth, caption).to(new.dtype).eval()
        new.bytes += sum(p.numel() * p.element_size() for p in net.parameters())
        z, t, text = new(2, frames, patches, 16), new(2, width), new(2, words, caption)
        turn = angles(frames, width // heads, new.device)
        return lambda: net(z, t, text, turn)
    return [2, frames, patches, width, depth, words], flops, make


STEPS = {
    "model.open-sora-480p.step.computed": step(WIDTH, HEADS, 28, FRAMES, PATCHES, CAPTION),
    "model.open-sora-720p.step.computed": step(WIDTH, HEADS, 28, FRAMES, 3600, CAPTION),
    "model.open-sora-240p.step.computed": step(WIDTH, HEADS, 28, FRAMES, 405, CAPTION),
}


# --- timing ---


class Timer:
    def __init__(self, device, seconds):
        self.cuda, self.seconds = device == "cuda", seconds

    def stretch(self, launches):
        """Seconds that some launches take together."""
        if not self.cuda:
            start = time.perf_counter()
            for launch in launches:
                launch()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for launch in launches:
            launch()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def repeat(self, sets):
        """Seconds of a launch, sorted."""
        for launch in sets[:2] * 2:
            launch()
        one = max(self.stretch(sets[:1]), 1e-7)
        count = min(max(math.ceil(1e-3 / one), 1), 64)
        times, at, start = [], 0, time.perf_counter()
        while len(times) < 400 and (len(times) < 5 or time.perf_counter() - start < self.seconds):
            times.append(self.stretch([sets[(at + i) % len(sets)] for i in range(count)]) / count)
            at += count
        return sorted(times), count


def output_bytes(out):
    tensors = out if isinstance(out, tuple) else (out,)
    return sum(t.numel() * t.element_size() for t in tensors)


@torch.inference_mode()
def run(name, case, args, place):
    shape, flops, make = case
    line = {"event": "kernel", "case": name, "size": args.size, "shape": shape}
    if name.startswith("model."):
        samples, frames, patches, *_, words = shape
        line.update(event="part", tokens=samples * frames * patches, caption=words)
    try:
        first = Maker(args.device, DTYPES[args.dtype])
        sets = [make(first)]
        want = 1 if name.startswith("model.") else min(max(-(-args.beyond_caches // max(first.bytes, 1)), 2), 64)
        room = max(args.memory // max(first.bytes, 1), 1)
        sets += [make(Maker(args.device, DTYPES[args.dtype])) for _ in range(min(want, room) - 1)]
        moved = first.bytes + output_bytes(sets[0]())
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times, count = Timer(args.device, args.seconds).repeat(sets)
    except torch.cuda.OutOfMemoryError as problem:
        print(json.dumps({**line, "left_out": str(problem).splitlines()[0], **place}), flush=True)
        return
    at = lambda share: times[round((len(times) - 1) * share)]
    seconds = at(0.5)
    line.update(seconds=seconds, seconds_p10=at(0.1), seconds_p90=at(0.9), samples=len(times), launches=count,
                input_sets=len(sets), clock="device" if args.device == "cuda" else "host", bytes=float(moved), flops=flops,
                gb_s=moved / seconds / 1e9, gflop_s=flops / seconds / 1e9)
    if args.device == "cuda":
        line["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps({**line, **place}), flush=True)


def driver():
    return f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def processor():
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_memory():
    """glibc hands large blocks back to the system at once, and every launch would pay for new pages: keep them."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass  # another C library


def main():
    keep_memory()
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="bf16 on CUDA, f32 on the CPU if not given")
    parser.add_argument("--size", choices=["full", "small"], help="full on CUDA, small on the CPU if not given")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--filter", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, help="how long each case is repeated; 0.5, on the CPU 1")
    parser.add_argument("--no-step", action="store_true", help="leave the guided step of the network out")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    if gpu and not cuda:
        sys.exit("error: this PyTorch sees no CUDA device")
    args.dtype = args.dtype or ("bf16" if gpu else "f32")
    args.size = args.size or ("full" if gpu else "small")
    args.seconds = args.seconds or (0.5 if gpu else 1.0)
    args.beyond_caches, args.memory = (4 * 128 << 20, 2 << 30) if gpu else (4 * 32 << 20, 512 << 20)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    chosen = cases(args.size == "full")
    if not args.no_step:
        # without a GPU the full step takes minutes: the same network, narrower, shallower and shorter
        chosen.update(STEPS if args.size == "full" else {"model.tiny.step.computed": step(64, 2, 2, 6, 24, 20, caption=32)})
    names = [name for name in chosen if not args.filter or args.filter in name]
    if not names:
        sys.exit(f"error: no case has `{args.filter}` in its name; --list names them all")
    if args.list:
        return print("\n".join(names))
    place = {
        "adapter": torch.cuda.get_device_name() if gpu else processor(),
        "backend": "CUDA" if gpu else "CPU",
        "driver": f"PyTorch {torch.__version__}" + (f", {driver()}" if gpu else f", {torch.get_num_threads()} threads"),
        "kernels": "torch", "dtype": args.dtype, "threads": None if gpu else torch.get_num_threads(),
        "commit": os.environ.get("RESIDUA_COMMIT") or None,
    }
    for name in names:
        run(name, chosen[name], args, place)


if __name__ == "__main__":
    main()
