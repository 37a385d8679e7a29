"""T5 v1.1 encoder with the tensor names of `T5EncoderModel`, and the SentencePiece tokenizer around it."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Norm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        f = x.float()
        return self.weight * (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, cfg, has_bias):
        super().__init__()
        dim, inner = cfg["d_model"], cfg["num_heads"] * cfg["d_kv"]
        self.heads, self.buckets, self.distance = cfg["num_heads"], cfg["relative_attention_num_buckets"], cfg["relative_attention_max_distance"]
        self.q, self.k, self.v = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, dim, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(self.buckets, self.heads)

    def position_bias(self, n):
        rel = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        half, exact = self.buckets // 2, self.buckets // 4
        dist = rel.abs()
        far = exact + (torch.log(dist.clamp(min=1).float() / exact) / math.log(self.distance / exact) * (half - exact)).long()
        bucket = (rel > 0).long() * half + torch.where(dist < exact, dist, far.clamp(max=half - 1))
        return self.relative_attention_bias(bucket).permute(2, 0, 1)[None]

    def forward(self, x, bias):
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        p = ((q @ k.transpose(-1, -2)).float() + bias).softmax(-1)          # no 1/sqrt(d) in T5
        return self.o((p.to(v.dtype) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(cfg["d_model"], cfg["d_ff"], bias=False) for _ in range(2))
        self.wo = nn.Linear(cfg["d_ff"], cfg["d_model"], bias=False)

    def forward(self, x):
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class Sub(nn.Module):
    def __init__(self, cfg, name, module):
        super().__init__()
        self.layer_norm = Norm(cfg["d_model"], cfg["layer_norm_epsilon"])
        setattr(self, name, module)


class Layers(nn.Module):
    def __init__(self, cfg, first):
        super().__init__()
        self.layer = nn.ModuleList([Sub(cfg, "SelfAttention", Attention(cfg, first)), Sub(cfg, "DenseReluDense", FeedForward(cfg))])

    def forward(self, x, bias):
        x = x + self.layer[0].SelfAttention(self.layer[0].layer_norm(x), bias)
        return x + self.layer[1].DenseReluDense(self.layer[1].layer_norm(x))


class Stack(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.block = nn.ModuleList(Layers(cfg, i == 0) for i in range(cfg["num_layers"]))
        self.final_layer_norm = Norm(cfg["d_model"], cfg["layer_norm_epsilon"])


class T5Encoder(nn.Module):
    def __init__(self, vocab_size=128, d_model=128, d_kv=32, num_heads=4, d_ff=256, num_layers=2, relative_attention_num_buckets=32,
                 relative_attention_max_distance=128, layer_norm_epsilon=1e-6, **_):
        super().__init__()
        self.config = dict(vocab_size=vocab_size, d_model=d_model, d_kv=d_kv, num_heads=num_heads, d_ff=d_ff, num_layers=num_layers,
                           relative_attention_num_buckets=relative_attention_num_buckets,
                           relative_attention_max_distance=relative_attention_max_distance, layer_norm_epsilon=layer_norm_epsilon)
        self.shared = nn.Embedding(vocab_size, d_model)
        self.encoder = Stack(self.config)

    def initialise(self):
        for name, p in self.named_parameters():
            if p.ndim == 2 and "shared" not in name and "bias" not in name:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
            if ".q." in name:                                        # logits are not divided by sqrt(d_kv)
                nn.init.normal_(p, std=(p.shape[1] * self.config["d_kv"]) ** -0.5)
            if "relative_attention_bias" in name:
                nn.init.normal_(p, std=0.1)
        return self

    def forward(self, ids, mask):
        x = self.shared(ids)
        bias = self.encoder.block[0].layer[0].SelfAttention.position_bias(ids.shape[1])
        bias = bias + torch.zeros(mask.shape).masked_fill(mask == 0, torch.finfo(torch.float32).min)[:, None, None, :]
        for b in self.encoder.block:
            x = b(x, bias)
        return self.encoder.final_layer_norm(x)


class Tokenizer:
    """Captions to padded ids and mask; `</s>` (1) is appended, padding is 0."""

    def __init__(self, path, max_length=64):
        import sentencepiece
        self.model, self.max_length = sentencepiece.SentencePieceProcessor(model_file=str(path)), max_length

    def ids(self, text):
        return self.model.encode(text)[: self.max_length - 1] + [1]

    def __call__(self, texts):
        rows = [self.ids(t) for t in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, r in enumerate(rows):
            ids[i, : len(r)] = torch.tensor(r)
        return ids, (ids != 0).long()


def train_tokenizer(captions, folder):
    """Unigram SentencePiece model over the captions, with every lowercase letter, digit and common sign as fallback.

    The trainer only considers strings seen with different continuations, so each word is also listed
    with a few endings; otherwise words with a fixed neighbour would be split into fragments.
    """
    import sentencepiece
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({w for c in captions for w in c.split()})
    lines = captions + [w + end for w in words for end in ("", ".", ",", "s", "!") for _ in range(20)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), model_type="unigram", vocab_size=160,
        hard_vocab_limit=False, character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>",
        normalization_rule_name="nmt_nfkc", required_chars="abcdefghijklmnopqrstuvwxyz0123456789.,:;'-!?", minloglevel=1)
    return folder / "spiece.model"
