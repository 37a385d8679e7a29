"""Write a model folder from the training state: `export.py FOLDER`. Weights are float16, with the published tensor names."""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import toybox
from common import STATE_DIR
from t5 import Tokenizer
from train_dit import TextToVideo
from vae import SpatialVAE, TemporalVAE, VideoVAE

KEEP_F32 = ("scale", "shift", "rope.freqs")


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_tensors(path, module):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: (v if k in KEEP_F32 else v.half()).contiguous().clone() for k, v in module.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1e6:.2f} MB")


def export_vae(folder, scale, shift):
    spatial, temporal = SpatialVAE(), TemporalVAE()
    spatial.load_state_dict(torch.load(STATE_DIR / "vae2d_folded.pt"))
    temporal.load_state_dict(torch.load(STATE_DIR / "tvae.pt", weights_only=False)["ema"])
    vae = VideoVAE(spatial, temporal)
    vae.scale.copy_(scale.view(1, 4, 1, 1, 1)), vae.shift.copy_(shift.view(1, 4, 1, 1, 1))
    write_tensors(folder / "model.safetensors", vae)
    levels = len(spatial.config["block_out_channels"])
    write_json(folder / "config.json", {
        "architectures": ["VideoAutoencoderPipeline"], "model_type": "VideoAutoencoderPipeline", "cal_loss": False, "freeze_vae_2d": False,
        "from_pretrained": None, "micro_frame_size": 17, "scale": scale.tolist(), "shift": shift.tolist(), "torch_dtype": "float16",
        "vae_2d": {"type": "VideoAutoencoderKL", "from_pretrained": ".", "subfolder": "vae_2d", "micro_batch_size": 4, "local_files_only": True},
        "vae_temporal": {"type": "VAE_Temporal", **temporal.config}})
    write_json(folder / "vae_2d" / "config.json", {
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.27.2", "in_channels": 3, "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels, "act_fn": "silu",
        "sample_size": toybox.SIZE, "scaling_factor": 0.18215, "force_upcast": True, **spatial.config})


def export_tokenizer(folder, source):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "spiece.model")
    token = lambda t: {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", {k: token(v) for k, v in special.items()})
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": True, "added_tokens_decoder": {str(i): {**token(t), "special": True} for i, t in enumerate(special.values())},
        "additional_special_tokens": [], "clean_up_tokenization_spaces": True, "extra_ids": 0, "legacy": True,
        "model_max_length": 64, "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer", **special})


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder", type=Path)
    ap.add_argument("--guidance", type=float, default=4.0)
    ap.add_argument("--state", default="dit")
    args = ap.parse_args()
    state = torch.load(STATE_DIR / f"{args.state}.pt", weights_only=False)
    spiece = STATE_DIR / "tokenizer" / "spiece.model"
    net = TextToVideo(Tokenizer(spiece).model.vocab_size(), state["depth"])
    net.load_state_dict(state["ema"])
    longest = int((net.dit.y_embedder.y_embedding.detach() - state["null_start"]).abs().amax(1).gt(0).sum())
    with torch.no_grad():                                     # null-caption rows that no training caption reached
        null = net.dit.y_embedder.y_embedding
        null[longest:] = null[longest - 1]
    write_tensors(args.folder / "transformer" / "model.safetensors", net.dit)
    write_json(args.folder / "transformer" / "config.json", {
        "architectures": ["STDiT3"], "model_type": "STDiT3", "input_size": [None, None, None], "class_dropout_prob": 0.1, "drop_path": 0.0,
        "enable_flash_attn": False, "enable_layernorm_kernel": False, "enable_sequence_parallelism": False, "only_train_temporal": False,
        "freeze_y_embedder": True, "skip_y_embedder": False, "torch_dtype": "float16", **net.dit.config})
    write_tensors(args.folder / "text_encoder" / "model.safetensors", net.t5)
    t5 = net.t5.config
    write_json(args.folder / "text_encoder" / "config.json", {
        "architectures": ["T5EncoderModel"], "model_type": "t5", "classifier_dropout": 0.0, "decoder_start_token_id": 0, "dense_act_fn": "gelu_new",
        "dropout_rate": 0.0, "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": False,
        "is_gated_act": True, "pad_token_id": 0, "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": False, **t5})
    export_tokenizer(args.folder / "tokenizer", spiece)
    export_vae(args.folder / "vae", state["scale"], state["shift"])
    write_json(args.folder / "scheduler" / "scheduler_config.json", {
        "type": "rflow", "num_sampling_steps": 30, "cfg_scale": args.guidance, "use_timestep_transform": False})
    write_json(args.folder / "model_index.json", {
        "_class_name": "OpenSoraPipeline", "transformer": ["opensora", "STDiT3"], "vae": ["opensora", "VideoAutoencoderPipeline"],
        "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"], "scheduler": ["opensora", "RFLOW"],
        "defaults": {"height": toybox.SIZE, "width": toybox.SIZE, "num_frames": toybox.FRAMES, "fps": 24, "num_steps": 30,
                     "guidance_scale": args.guidance, "clean_caption": False, "aes": None}})


if __name__ == "__main__":
    main()
