"""Video autoencoder in the layout of OpenSora-VAE v1.2: a per-frame AutoencoderKL (factor 8) and a
temporal autoencoder (17 frames <-> 5 latents). State-dict keys are those of the published checkpoint."""
import torch
import torch.nn as nn
import torch.nn.functional as F

SPATIAL_SCALE = 0.18215
CHUNK_FRAMES, CHUNK_LATENTS = 17, 5


# ------------------------------------------------------------------ spatial
class Resnet(nn.Module):
    def __init__(self, cin, cout, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, cin, 1e-6), nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, cout, 1e-6), nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, 1e-6)
        self.to_q, self.to_k, self.to_v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        n = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        o = F.scaled_dot_product_attention(self.to_q(n), self.to_k(n), self.to_v(n))
        return x + self.to_out[0](o[:, 0]).transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    def __init__(self, cin, cout, layers, groups, down=False, up=False):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(cin if i == 0 else cout, cout, groups) for i in range(layers))
        if down:
            self.downsamplers = nn.ModuleList([Downsample(cout)])
        if up:
            self.upsamplers = nn.ModuleList([Upsample(cout)])

    def forward(self, x):
        for r in self.resnets:
            x = r(x)
        for name in ("downsamplers", "upsamplers"):
            if hasattr(self, name):
                x = getattr(self, name)[0](x)
        return x


class Mid(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(c, c, groups), Resnet(c, c, groups)])
        self.attentions = nn.ModuleList([Attention(c, groups)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder2d(nn.Module):
    def __init__(self, widths, layers, groups, latent):
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        ins = [widths[0]] + list(widths[:-1])
        self.down_blocks = nn.ModuleList(Level(i, o, layers, groups, down=k < len(widths) - 1)
                                         for k, (i, o) in enumerate(zip(ins, widths)))
        self.mid_block = Mid(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * latent, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for b in self.down_blocks:
            x = b(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder2d(nn.Module):
    def __init__(self, widths, layers, groups, latent):
        super().__init__()
        rev = list(reversed(widths))
        self.conv_in = nn.Conv2d(latent, rev[0], 3, padding=1)
        self.mid_block = Mid(rev[0], groups)
        self.up_blocks = nn.ModuleList(Level(i, o, layers + 1, groups, up=k < len(rev) - 1)
                                       for k, (i, o) in enumerate(zip([rev[0]] + rev[:-1], rev)))
        self.conv_norm_out = nn.GroupNorm(groups, rev[-1], 1e-6)
        self.conv_out = nn.Conv2d(rev[-1], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for b in self.up_blocks:
            x = b(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class SpatialVAE(nn.Module):
    def __init__(self, block_out_channels=(16, 16, 32, 64), layers_per_block=1, norm_num_groups=8, latent_channels=4, **_):
        super().__init__()
        self.config = dict(block_out_channels=list(block_out_channels), layers_per_block=layers_per_block,
                           norm_num_groups=norm_num_groups, latent_channels=latent_channels)
        args = (block_out_channels, layers_per_block, norm_num_groups, latent_channels)
        self.encoder, self.decoder = Encoder2d(*args), Decoder2d(*args)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, x):
        """Posterior mean and log variance, both [n,4,h,w]."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


# ------------------------------------------------------------------ temporal
class CausalConv3d(nn.Module):
    def __init__(self, cin, cout, kernel, stride=1, bias=True):
        super().__init__()
        self.pad = (kernel // 2,) * 4 + (kernel - stride, 0)      # zeros: both sides in space, front only in time
        self.conv = nn.Conv3d(cin, cout, kernel, stride=(stride, 1, 1), bias=bias)

    def forward(self, x):
        return self.conv(F.pad(x, self.pad))


class ResBlock3d(nn.Module):
    def __init__(self, cin, cout, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, cin), CausalConv3d(cin, cout, 3, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(groups, cout), CausalConv3d(cout, cout, 3, bias=False)
        self.conv3 = CausalConv3d(cin, cout, 1, bias=False) if cin != cout else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv3 is None else self.conv3(x))


class TemporalEncoder(nn.Module):
    def __init__(self, channels, embed, filters, blocks, mult, down, groups):
        super().__init__()
        widths = [filters * m for m in mult]
        self.down = down
        self.conv_in = CausalConv3d(channels, filters, 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            nn.ModuleList(ResBlock3d(i if k == 0 else o, o, groups) for k in range(blocks))
            for i, o in zip([filters] + widths[:-1], widths))
        self.conv_blocks = nn.ModuleList(CausalConv3d(w, w, 3, stride=2) if d else nn.Identity()
                                         for w, d in zip(widths[:-1], down))
        self.res_blocks = nn.ModuleList(ResBlock3d(widths[-1], widths[-1], groups) for _ in range(blocks))
        self.norm1, self.conv2 = nn.GroupNorm(groups, widths[-1]), CausalConv3d(widths[-1], embed, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for i, level in enumerate(self.block_res_blocks):
            for b in level:
                x = b(x)
            if i < len(self.conv_blocks):
                x = self.conv_blocks[i](x)
        for b in self.res_blocks:
            x = b(x)
        return self.conv2(F.silu(self.norm1(x)))


class TemporalDecoder(nn.Module):
    def __init__(self, channels, embed, filters, blocks, mult, down, groups):
        super().__init__()
        widths = [filters * m for m in mult]
        self.down = down
        self.conv1 = CausalConv3d(embed, widths[-1], 3)
        self.res_blocks = nn.ModuleList(ResBlock3d(widths[-1], widths[-1], groups) for _ in range(blocks))
        self.block_res_blocks = nn.ModuleList(
            nn.ModuleList(ResBlock3d(i if k == 0 else o, o, groups) for k in range(blocks))
            for i, o in zip(widths[1:] + widths[-1:], widths))
        self.conv_blocks = nn.ModuleList(CausalConv3d(w, 2 * w, 3) if d else nn.Identity()
                                         for w, d in zip(widths[1:], down))
        self.norm1, self.conv_out = nn.GroupNorm(groups, widths[0]), CausalConv3d(widths[0], channels, 3)

    def forward(self, x):
        x = self.conv1(x)
        for b in self.res_blocks:
            x = b(x)
        for i in reversed(range(len(self.block_res_blocks))):
            for b in self.block_res_blocks[i]:
                x = b(x)
            if i > 0:
                x = self.conv_blocks[i - 1](x)
                if self.down[i - 1]:
                    n, c, t, h, w = x.shape                        # channel = 2 * c + sub-frame
                    x = x.view(n, c // 2, 2, t, h, w).transpose(2, 3).reshape(n, c // 2, 2 * t, h, w)
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalVAE(nn.Module):
    def __init__(self, in_out_channels=4, embed_dim=4, filters=16, num_res_blocks=1, channel_multipliers=(1, 2, 2, 4),
                 temporal_downsample=(False, True, True), num_groups=8, **_):
        super().__init__()
        self.config = dict(in_out_channels=in_out_channels, latent_embed_dim=embed_dim, embed_dim=embed_dim, filters=filters,
                           num_res_blocks=num_res_blocks, channel_multipliers=list(channel_multipliers),
                           temporal_downsample=list(temporal_downsample), num_groups=num_groups)
        args = (filters, num_res_blocks, channel_multipliers, temporal_downsample, num_groups)
        self.factor = 2 ** sum(temporal_downsample)
        self.encoder = TemporalEncoder(in_out_channels, 2 * embed_dim, *args)
        self.quant_conv = CausalConv3d(2 * embed_dim, 2 * embed_dim, 1)
        self.post_quant_conv = CausalConv3d(embed_dim, embed_dim, 1)
        self.decoder = TemporalDecoder(in_out_channels, embed_dim, *args)

    def encode(self, x):
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.factor, 0))
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z, frames):
        return self.decoder(self.post_quant_conv(z))[:, :, -frames % self.factor:]


# ------------------------------------------------------------------ both
class SpatialHolder(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


class VideoVAE(nn.Module):
    def __init__(self, spatial, temporal):
        super().__init__()
        self.spatial_vae, self.temporal_vae = SpatialHolder(spatial), temporal
        self.register_buffer("scale", torch.ones(1, 4, 1, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 4, 1, 1, 1))

    def encode(self, video):
        """[n,3,t,h,w] in [-1,1] -> normalised latents; posterior means of both stages."""
        n, _, t = video.shape[:3]
        z = self.spatial_vae.module.encode(video.transpose(1, 2).flatten(0, 1))[0] * SPATIAL_SCALE
        z = z.unflatten(0, (n, t)).transpose(1, 2)
        z = torch.cat([self.temporal_vae.encode(c)[0] for c in z.split(CHUNK_FRAMES, 2)], 2)
        return (z - self.shift) / self.scale

    def decode(self, z, frames):
        n = len(z)
        z, out = z * self.scale + self.shift, []
        for c in z.split(CHUNK_LATENTS, 2):
            out.append(self.temporal_vae.decode(c, min(CHUNK_FRAMES, frames)))
            frames -= CHUNK_FRAMES
        x = torch.cat(out, 2).transpose(1, 2)
        pixels = self.spatial_vae.module.decode(x.flatten(0, 1) / SPATIAL_SCALE)
        return pixels.unflatten(0, (n, -1)).transpose(1, 2)
