"""STDiT3 (Open-Sora v1.2) with the published tensor names."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        f = x.float()
        return self.weight * (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Rope(nn.Module):
    """Rotary embedding of interleaved pairs over the whole head."""

    def __init__(self, dim):
        super().__init__()
        self.freqs = nn.Parameter(10000.0 ** (-torch.arange(0, dim, 2).float() / dim), requires_grad=False)

    def forward(self, x):
        angle = torch.outer(torch.arange(x.shape[-2], dtype=torch.float32), self.freqs.float())
        cos, sin = angle.cos(), angle.sin()
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)


def attend(q, k, v, bias=None):
    """Plain attention; the sequences here are far too short for fused kernels to pay."""
    logits = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1).to(v.dtype) @ v


class SelfAttention(nn.Module):
    def __init__(self, dim, heads, qk_norm=True):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        make = RMSNorm if qk_norm else nn.Identity
        self.q_norm, self.k_norm = make(dim // heads), make(dim // heads)

    def forward(self, x, rope=None):                                  # [sequences, n, c]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        return self.proj(attend(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x, y, bias):                                    # y [b,l,c], bias [b,1,1,l]
        q = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv_linear(y).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v, bias).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, cin, hidden, cout):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(cin, hidden), nn.Linear(hidden, cout)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def per_frame(cond, cond0, x_mask, tokens):
    """Modulation vectors [b,1,...] or, with a frame mask, [b,tokens,...]: `cond` where true, `cond0` where false."""
    if x_mask is None:
        return cond[:, None]
    pick = x_mask.repeat_interleave(tokens // x_mask.shape[1], 1)[..., None]
    return torch.where(pick, cond[:, None], cond0[:, None])


class Block(nn.Module):
    def __init__(self, dim, heads, mlp_ratio, qk_norm, temporal):
        super().__init__()
        self.temporal = temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim ** 0.5)
        self.attn, self.cross_attn = SelfAttention(dim, heads, qk_norm), CrossAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim)

    def forward(self, x, y, bias, mod, frames, rope):
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table.flatten() + mod).chunk(6, -1)
        dim = x.shape[-1:]
        h = (F.layer_norm(x, dim, eps=1e-6) * (1 + scale1) + shift1).unflatten(1, (frames, -1))
        if self.temporal:
            h = self.attn(h.transpose(1, 2).flatten(0, 1), rope).unflatten(0, (len(x), -1)).transpose(1, 2)
        else:
            h = self.attn(h.flatten(0, 1)).unflatten(0, (len(x), -1))
        x = x + gate1 * h.flatten(1, 2)
        x = x + self.cross_attn(x, y, bias)
        return x + gate2 * self.mlp(F.layer_norm(x, dim, eps=1e-6) * (1 + scale2) + shift2)


class TimeEmbed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t):
        freq = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float32) / 128)
        angle = t.float()[:, None] * freq
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1))


class CaptionEmbed(nn.Module):
    def __init__(self, channels, dim, tokens):
        super().__init__()
        self.y_embedding = nn.Parameter(0.02 * torch.randn(tokens, channels))     # the null caption, trained here
        self.y_proj = Mlp(channels, dim, dim)


class PatchEmbed(nn.Module):
    def __init__(self, cin, dim, patch):
        super().__init__()
        self.proj = nn.Conv3d(cin, dim, patch, patch)


class FinalLayer(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.linear = nn.Linear(dim, out)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim ** 0.5)

    def forward(self, x, mod, mod0=None, x_mask=None):
        def modulate(x, t):
            shift, scale = (self.scale_shift_table + t[:, None]).unsqueeze(1).unbind(2)
            return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        out = modulate(x, mod)
        if x_mask is not None:       # upstream normalises the already modulated tokens a second time
            pick = x_mask.repeat_interleave(x.shape[1] // x_mask.shape[1], 1)[..., None]
            out = torch.where(pick, out, modulate(out, mod0))
        return self.linear(out)


class STDiT3(nn.Module):
    def __init__(self, hidden_size=144, depth=6, num_heads=2, caption_channels=128, model_max_length=64, in_channels=4,
                 patch_size=(1, 2, 2), input_sq_size=512, mlp_ratio=4.0, pred_sigma=True, qk_norm=True, **_):
        super().__init__()
        self.config = dict(hidden_size=hidden_size, depth=depth, num_heads=num_heads, caption_channels=caption_channels,
                           model_max_length=model_max_length, in_channels=in_channels, patch_size=list(patch_size),
                           input_sq_size=input_sq_size, mlp_ratio=mlp_ratio, pred_sigma=pred_sigma, qk_norm=qk_norm)
        dim, self.patch, self.sq = hidden_size, tuple(patch_size), input_sq_size
        self.in_channels, self.out_channels = in_channels, in_channels * (2 if pred_sigma else 1)
        self.rope = Rope(dim // num_heads)
        self.x_embedder = PatchEmbed(in_channels, dim, self.patch)
        self.t_embedder, self.fps_embedder = TimeEmbed(dim), TimeEmbed(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbed(caption_channels, dim, model_max_length)
        self.spatial_blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, qk_norm, False) for _ in range(depth))
        self.temporal_blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, qk_norm, True) for _ in range(depth))
        self.final_layer = FinalLayer(dim, math.prod(self.patch) * self.out_channels)

    def initialise(self):
        """Blocks start as the identity with open gates: short runs learn faster this way."""
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        for b in [*self.spatial_blocks, *self.temporal_blocks]:
            for last in (b.attn.proj, b.cross_attn.proj, b.mlp.fc2):
                nn.init.zeros_(last.weight)
            with torch.no_grad():
                b.scale_shift_table.zero_()[[2, 5]] = 1.0
        for m in (self.t_embedder.mlp, self.fps_embedder.mlp):
            nn.init.normal_(m[0].weight, std=0.02)
            nn.init.normal_(m[2].weight, std=0.02)
        nn.init.normal_(self.t_block[1].weight, std=0.02)
        nn.init.zeros_(self.final_layer.linear.weight)
        return self

    def position(self, h, w, scale):
        """Sine-cosine position table [1, 1, h*w, dim]: columns first, then rows."""
        half = self.x_embedder.proj.out_channels // 2
        inv = 10000.0 ** (-torch.arange(0, half, 2).float() / half)
        base = round((h * w) ** 0.5)
        enc = lambda n: (lambda a: torch.cat([a.sin(), a.cos()], -1))(torch.outer(torch.arange(n).float() / scale * base / n, inv))
        return torch.cat([enc(w)[None].expand(h, w, half), enc(h)[:, None].expand(h, w, half)], -1).view(1, 1, h * w, 2 * half)

    def forward(self, x, timestep, y, mask=None, fps=None, height=None, width=None, x_mask=None):
        """x [b,c,t,h,w]; timestep [b] in 0..1000; y [b,l,caption_channels]; mask [b,l], fps [b] and sizes in pixels."""
        b, _, *size = x.shape
        x = F.pad(x, [v for n, p in zip(reversed(size), reversed(self.patch)) for v in (0, -n % p)])
        t, h, w = (n // p for n, p in zip(x.shape[2:], self.patch))
        tokens = self.x_embedder.proj(x).flatten(3).permute(0, 2, 3, 1)                       # [b,t,s,c]
        tokens = (tokens + self.position(h, w, (height * width) ** 0.5 / self.sq)).flatten(1, 2)
        speed = self.fps_embedder(fps)
        cond, cond0 = self.t_embedder(timestep) + speed, None
        if x_mask is not None:
            cond0 = self.t_embedder(torch.zeros_like(timestep)) + speed
        mod = per_frame(self.t_block(cond), None if cond0 is None else self.t_block(cond0), x_mask, t * h * w)
        y = self.y_embedder.y_proj(y)
        bias = None if mask is None else torch.zeros(mask.shape).masked_fill(mask == 0, -1e9)[:, None, None, :]
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks):
            tokens = spatial(tokens, y, bias, mod, t, None)
            tokens = temporal(tokens, y, bias, mod, t, self.rope)
        out = self.final_layer(tokens, cond, cond0, x_mask)
        out = out.view(b, t, h, w, *self.patch, self.out_channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
        out = out.reshape(b, self.out_channels, *(n * p for n, p in zip((t, h, w), self.patch)))
        return out[:, :, :size[0], :size[1], :size[2]].float()
