"""check_refusals.py LIBRARY MODEL PLAN RECENT_PLAN OTHER_MODEL: what RopebitsCache refuses, each with its sentence."""
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "integrations" / "transformers"))
from ropebits_cache import ATTENTION, RopebitsCache, Sequences
from ropebits_kv import RopebitsError

library, folder, plan, recent_plan, other_folder = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
other = AutoModelForCausalLM.from_pretrained(other_folder, dtype=torch.float32)
ids = torch.arange(1, 9)[None].repeat(2, 1)
n_bad = 0


def refuses(name, kind, sentence, call):
    global n_bad
    try:
        with torch.no_grad():
            call()
        found = "nothing was refused"
    except kind as error:
        found = str(error)
    is_good = sentence in found
    n_bad += not is_good
    print(f"{'ok' if is_good else 'not ok'}: {name}{'' if is_good else f' (said: {found})'}")


def cache(of=plan, **kwargs):
    return RopebitsCache(of, model, library=library, **kwargs)


def run(tokens, attention="sdpa", **kwargs):
    model.set_attn_implementation(attention)
    return model(tokens, **kwargs)


def changed_config():
    with tempfile.TemporaryDirectory() as copy:
        copy = shutil.copytree(folder, Path(copy) / "model")
        (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
        changed = AutoModelForCausalLM.from_pretrained(copy)
        RopebitsCache(plan, changed, library=library, check_config=False)
        RopebitsCache(plan, changed, library=library)


def wrong_mask(attention_mask, told):
    run(ids, ATTENTION, attention_mask=attention_mask, past_key_values=cache(attention_mask=told))


def crop(of, n):
    kept = cache(of)
    run(ids[:1], ATTENTION, past_key_values=kept)
    kept.crop(n)
    return kept.get_seq_length()


def caller_mask():
    kept = cache()
    run(ids[:1], ATTENTION, past_key_values=kept)
    run(ids[:1, :1], ATTENTION, past_key_values=kept, attention_mask=torch.zeros(1, 1, 1, 9))


def other_cache():
    kept = DynamicCache()
    run(ids[:1], ATTENTION, past_key_values=kept)
    run(ids[:1, :1], ATTENTION, past_key_values=kept)


def double(kept):
    x = torch.zeros(1, 2, 1, 64, dtype=torch.float64)
    kept.layers[0].append(x, x)


def more_sequences():
    kept = cache()
    run(ids[:1], past_key_values=kept)
    run(ids, past_key_values=kept)


def infinite():
    kept = cache()
    kept.layers[0].append(torch.full((1, 2, 1, 64), torch.inf), torch.zeros(1, 2, 1, 64))


ones, padded = torch.ones(2, 8), torch.ones(2, 8).index_fill_(1, torch.tensor([0, 1]), 0)
refuses("no library", RopebitsError, "cannot be loaded", lambda: RopebitsCache(plan, model, library="/nowhere/lib.so"))
refuses("no plan", RopebitsError, "nowhere.rbp", lambda: cache("nowhere.rbp"))
refuses("another model", ValueError, "is for a model of n_q_heads 6, but this model has 4",
        lambda: RopebitsCache(plan, other, library=library))
refuses("another config.json", ValueError, "pass check_config=False", changed_config)
refuses("a batch without a mask", ValueError, "a batch of 2 sequences needs", lambda: run(ids, past_key_values=cache()))
refuses("a mask of another batch", ValueError, "has 3",
        lambda: run(ids, past_key_values=cache(attention_mask=torch.ones(3, 8))))
refuses("padding on the right", ValueError, "padding on the left only",
        lambda: Sequences(torch.tensor([[1, 1, 0], [1, 1, 1]])))
refuses("a mask of 4 dims", ValueError, "has 4 dims", lambda: Sequences(torch.ones(1, 1, 2, 2)))
refuses("padding that the cache was not told of", ValueError, "was told of 0", lambda: wrong_mask(padded, ones))
refuses("padding that the mask does not have", ValueError, "was told of 2", lambda: wrong_mask(ones, padded))
refuses("crop of recent tokens", NotImplementedError, "recent = 20 cannot be cropped", lambda: crop(recent_plan, -3))
refuses("a mask of the caller's own", NotImplementedError, "no mask of the caller's own", caller_mask)
refuses("another cache", NotImplementedError, "decodes with a RopebitsCache only", other_cache)
refuses("a key that is not finite", RopebitsError, "finite", infinite)
refuses("a model in float64", ValueError, "keys are torch.float64", lambda: double(cache()))
refuses("another number of sequences", ValueError, "2 sequences in a batch, but RopebitsCache has 1", more_sequences)
refuses("attention sinks", NotImplementedError, "has no s_aux",
        lambda: run(ids[:1], ATTENTION, past_key_values=cache(), s_aux=torch.zeros(6)))
with torch.no_grad():
    plain, packed = (run(ids, name, use_cache=False).logits for name in ("eager", ATTENTION))
if (plain - packed).abs().max() > 1e-4:
    n_bad += 1
    print("not ok: without a cache attention is another than eager")
if crop(plan, -3) != 5 or crop(plan, 6) != 6 or crop(plan, 20) != 8:
    n_bad += 1
    print("not ok: crop leaves another number of tokens")
sys.exit(1 if n_bad else 0)
