"""make_tiny_model.py FAMILY TOKENIZER FOLDER: a model of drawn weights, with the tokenizer of another folder.

gemma2: a window in every other layer, soft caps, a scale of its own; gemma3: a window, and a RoPE of its own there."""
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig

SHAPE = dict(vocab_size=4096, hidden_size=96, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, bos_token_id=0, eos_token_id=0)
LAYERS = ["sliding_attention", "full_attention"] * 2
CONFIGS = {
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=32, sliding_window=40, query_pre_attn_scalar=24,
                                   layer_types=LAYERS, attn_logit_softcapping=20.0, final_logit_softcapping=30.0),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, head_dim=32, sliding_window=40, query_pre_attn_scalar=24,
                                       layer_types=LAYERS),
}


def main():
    family, tokenizer, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(CONFIGS[family]()).save_pretrained(folder)
    for name in "tokenizer.json", "tokenizer_config.json":
        shutil.copy(tokenizer / name, folder)


if __name__ == "__main__":
    main()
