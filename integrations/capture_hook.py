"""Captures what enters RoPE in a Hugging Face transformers model, for `ropebits import` (docs/import.md).

    from capture_hook import write_capture
    write_capture(model, calibration_ids, test_ids, context=2048, path="capture.safetensors")

ids are lists of token ids. It works for models whose module has apply_rotary_pos_emb(q, k, cos, sin) with q and k as
[batch][heads][tokens][dims], which is most of them. Another engine needs only to write tensors of the same names.
"""
import importlib
import torch
from safetensors.torch import save_file


def capture(model, ids):
    """[(q, k)] of every layer for one sequence, [heads][tokens][dims]."""
    module, calls = importlib.import_module(type(model).__module__), []
    rope = module.apply_rotary_pos_emb
    module.apply_rotary_pos_emb = lambda q, k, *a, **kw: calls.append((q[0].cpu(), k[0].cpu())) or rope(q, k, *a, **kw)
    try:
        with torch.no_grad():
            model(torch.tensor([ids], device=model.device), use_cache=False)
    finally:
        module.apply_rotary_pos_emb = rope
    return calls


def write_capture(model, calibration_ids, test_ids, context, path):
    tensors = {"inv_freq": model.model.rotary_emb.inv_freq.float().cpu().contiguous()}
    for name, ids in ("calibration", calibration_ids), ("test", test_ids):
        sequences = [capture(model, ids[at:at + context]) for at in range(0, len(ids), context)]
        for layer, parts in enumerate(zip(*sequences)):
            for what, x in zip("qk", zip(*parts)):
                tensors[f"{name}.layer_{layer:03d}.{what}"] = torch.cat(x, dim=1).contiguous()
        tensors[f"{name}.tokens"] = torch.tensor(ids, dtype=torch.int32)
    save_file(tensors, path, metadata={"model_type": model.config.model_type})
