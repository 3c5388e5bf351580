"""Checks RopebitsCache on a model: python3 check_cache.py --library LIB --model FOLDER --plan PLAN.rbp [--device cuda]

Two judges, both of attention as written here by its definition, which shares nothing with ropebits_cache.py. Keys and
values are coded and restored at once, each query seeing its own exact tokens, as in `ropebits evaluate`.

  attention   the queries, keys and values that a layer really had, all calls of a run put together, against what the
              layer gave. The codes are the same, so this is exact up to rounding (--attention-tolerance, relative)
  logits      a restored pass: the whole sequence at once, without a cache. Here codes differ now and then: a key beside
              the boundary of two codes falls on the other side when it was computed in another order, and layers after
              it follow. So a logit may differ by --tolerance, and a token where both its logits are that close: a tie.
              This finds only what is grossly wrong, such as tokens of another sequence

What is run, greedily:

  restored      the cache under any attention implementation (here eager)
  packed        attention "ropebits"
  batch         sequences of different lengths with padding, each against itself
  chunks        a prompt in several calls
  reset, crop   a cache that is used again
  lookup        tokens that are guessed from the prompt, and taken back
  beams         two beams: the score of the best is that of its tokens in a restored pass
  generate      tokens of `ropebits generate` (with --generate)

The column "effect" is what the plan itself does to the logits, as a measure. Exit code 0: all hold; 3: some do not.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from ropebits_cache import ATTENTION, RopebitsCache, RopebitsLayer, ropebits_attention
from ropebits_kv import PAGE_TOKENS, aligned_bytes, open_plan

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ATTENTION_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
CUDA_ATTENTION_TOLERANCE = 5e-3  # at least: kernels hold a query in fp16, whatever the model's numbers are
PASS, RESTORED = "ropebits-check-pass", "ropebits-check-eager"


# ---- attention by its definition -------------------------------------------------------------------------------------
def restored_tokens(kv, layer, x, end):
    """[head][token][dim] keys and values, coded and restored. end [token]: of the call that brought a token. One that
    was recent then was put into fp16 first."""
    n, device = x[0].shape[1], x[0].device
    pages = aligned_bytes(-(-n // PAGE_TOKENS) * kv.page_bytes[layer], device)
    slots, positions = torch.arange(n, device=device), torch.arange(n, dtype=torch.int32, device=device)
    was_recent = (slots >= end - kv.info.n_recent)[:, None]
    vectors = [torch.where(was_recent, y.half().to(y.dtype), y).transpose(0, 1).contiguous() for y in x]
    restored = [torch.empty_like(y) for y in vectors]
    kv.encode(layer, *vectors, positions, slots, pages)
    kv.decode(layer, slots, pages, positions, *restored)
    return [y.transpose(0, 1) for y in restored]


def attention(kv, layer, query, key, value, end, horizon, scaling, sliding_window=None, softcap=None):
    """query, key, value [head][token][dim] of a whole sequence -> [token][query head][dim] float32. A query at token i
    sees token t exactly when it is one of the first n_sink, or of the last n_recent before token horizon[i]."""
    info, n = kv.info, query.shape[1]
    token = torch.arange(n, device=query.device)
    is_exact = (token < info.n_sink) | (token >= horizon[:, None] - info.n_recent)
    seen = token <= token[:, None]
    if sliding_window:
        seen &= token > token[:, None] - sliding_window
    repeat = query.shape[0] // key.shape[0]
    (ek, ev), (rk, rv) = ([x.float().repeat_interleave(repeat, 0) for x in pair] for pair in (
        (key.half(), value.half()), restored_tokens(kv, layer, (key, value), end)))
    q = query.float()
    scores = torch.where(is_exact, q @ ek.transpose(1, 2), q @ rk.transpose(1, 2)) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return ((weights * is_exact) @ ev + (weights * ~is_exact) @ rv).transpose(0, 1)


ARGUMENTS = "scaling", "sliding_window", "softcap"


def own_horizon(end):
    return torch.arange(1, len(end) + 1, device=end.device)


class Pass:
    """Attention of a pass without a cache, as the model calls it."""

    def __init__(self, kv):
        self.kv = kv

    def __call__(self, module, query, key, value, mask, **kwargs):
        arguments = {name: kwargs[name] for name in ARGUMENTS if name in kwargs}
        out = attention(self.kv, module.layer_idx, query[0], key[0], value[0], self.end, self.horizon, **arguments)
        return out[None].to(query.dtype), None


class Recorder:
    """What every layer's attention was given and gave, call by call."""

    def __init__(self):
        self.start()
        AttentionInterface.register(ATTENTION, self.recorded(ropebits_attention))
        AttentionInterface.register(RESTORED, self.recorded(eager))
        AttentionMaskInterface.register(RESTORED, eager_mask)
        update = RopebitsLayer.update

        def recording_update(layer, keys, values, *args, **kwargs):
            self.new[layer.layer] = keys, values
            return update(layer, keys, values, *args, **kwargs)
        RopebitsLayer.update = recording_update

    def start(self):
        self.calls, self.new, self.arguments = {}, {}, {}

    def recorded(self, function):
        def recording(module, query, key, value, mask, **kwargs):
            out = function(module, query, key, value, mask, **kwargs)
            layer = module.layer_idx
            self.calls.setdefault(layer, []).append((query, *self.new[layer], out[0].transpose(1, 2)))
            self.arguments[layer] = {name: kwargs[name] for name in ARGUMENTS if name in kwargs}
            return out
        return recording

    def error(self, kv, padding, is_packed):
        """Of all layers and sequences, relative to the largest number of the layer."""
        return max(self.layer_error(kv, layer, b, skipped, is_packed)
                   for layer in self.calls for b, skipped in enumerate(padding))

    def layer_error(self, kv, layer, b, skipped, is_packed):
        query, key, value, out = (torch.cat([call[i][b] for call in self.calls[layer]], 1)[:, skipped:]
                                  for i in range(4))
        n = torch.tensor([call[1].shape[2] for call in self.calls[layer]], device=query.device)
        end = n.cumsum(0).repeat_interleave(n)[skipped:] - skipped
        expected = attention(kv, layer, query, key, value, end, own_horizon(end) if is_packed else end,
                             **self.arguments[layer])
        return ((out.transpose(0, 1).float() - expected).abs().max() / expected.abs().max()).item()


def eager(module, *args, **kwargs):
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


# ---- a model and a plan ----------------------------------------------------------------------------------------------
class Runner:
    def __init__(self, options, recorder, plan):
        self.options, self.recorder, self.plan, self.bad = options, recorder, plan, 0
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype])
        self.model = model.to(options.device).eval()
        self.kv = open_plan(str(plan), str(self.model.device), options.library)
        self.attend = Pass(self.kv)
        AttentionInterface.register(PASS, self.attend)
        AttentionMaskInterface.register(PASS, lambda **kwargs: None)

    def cache(self, attention_mask=None):
        """One that grows from a page."""
        return RopebitsCache(self.plan, self.model, attention_mask=attention_mask, max_tokens=1,
                             library=self.options.library)

    def generate(self, implementation, ids, mask=None, cache=None, **kwargs):
        """Token ids and logits [sequence][new token] after ids [sequence][token]."""
        self.model.set_attn_implementation(implementation)
        mask = torch.ones_like(ids) if mask is None else mask
        cache = self.cache(mask) if cache is None else cache
        device, new = self.model.device, self.options.new_tokens
        result = self.model.generate(
            ids.to(device), attention_mask=mask.to(device), past_key_values=cache, do_sample=False, pad_token_id=0,
            max_new_tokens=new, min_new_tokens=new, return_dict_in_generate=True, output_logits=True, **kwargs)
        return result.sequences[:, ids.shape[1]:].cpu(), torch.stack(result.logits, 1).float().cpu()

    def pass_logits(self, ids, implementation, n_prompt):
        """[token] logits of a pass over ids [token]: restored as in a run of that prompt, or (PASS) as they are."""
        end = torch.arange(1, len(ids) + 1, device=self.model.device).clamp(min=n_prompt)
        self.attend.end, self.attend.horizon = end, own_horizon(end) if implementation == ATTENTION else end
        self.model.set_attn_implementation("eager" if implementation is None else PASS)
        with torch.no_grad():
            return self.model(ids[None].to(self.model.device), use_cache=False).logits[0].float().cpu()

    def tell(self, name, error, n_ties, is_good, attention_error=None, effect=None, note=""):
        if attention_error is not None:
            is_good = is_good and attention_error <= self.options.attention_tolerance
        self.bad += not is_good
        numbers = "".join(f"{'' if x is None else format(x, '.1e'):>11}" for x in (attention_error, error, effect))
        verdict = "ok" if is_good else "BAD"
        print(f"{Path(self.plan).stem:14} {name:18}{numbers} {n_ties:5}  {verdict}{note}", flush=True)

    def compare(self, name, tokens, logits, reference, **columns):
        """tokens [new], logits [new][vocabulary] against those of the reference for the same tokens before."""
        error = (logits - reference).abs().max().item()
        best = reference.argmax(-1)
        gap = (reference.gather(1, best[:, None]) - reference.gather(1, tokens[:, None])).max().item()
        self.tell(name, error, int((best != tokens).sum()), max(error, gap) <= self.options.tolerance, **columns)

    def same(self, name, first, second, **columns):
        """Two results of the same prompt, up to the first token that differs, which must be a tie."""
        (a, x), (b, y) = first, second
        differ = (a != b).nonzero()
        n = int(differ[0]) + 1 if len(differ) else len(a)
        self.compare(name, b[:n], y[:n], x[:n], **columns)


# ---- what is run -----------------------------------------------------------------------------------------------------
def check_single(run, ids):
    """{implementation: (tokens, logits)}"""
    results = {}
    for name, implementation in ("restored", RESTORED), ("packed", ATTENTION):
        run.recorder.start()
        tokens, logits = (x[0] for x in run.generate(implementation, ids[None]))
        results[implementation] = tokens, logits
        attention_error = run.recorder.error(run.kv, [0], implementation == ATTENTION)
        whole, new = torch.cat([ids, tokens]), slice(len(ids) - 1, -1)
        reference = run.pass_logits(whole, implementation, len(ids))[new]
        effect = (reference - run.pass_logits(whole, None, 0)[new]).abs().max().item()
        run.compare(name, tokens, logits, reference, attention_error=attention_error, effect=effect)
    if run.kv.info.n_recent == 0:
        run.same("restored = packed", results[RESTORED], results[ATTENTION])
    return results


def check_reuse(run, ids, results):
    """Chunks, reset and crop, with one cache."""
    cache, n = run.cache(), len(ids)
    run.recorder.start()
    run.model.set_attn_implementation(ATTENTION)
    with torch.no_grad():
        for part in ids[:n - 1].split(7):
            run.model(part[None].to(run.model.device), past_key_values=cache)
    again = lambda: tuple(x[0] for x in run.generate(ATTENTION, ids[None], cache=cache))
    in_chunks = again()
    run.same("chunks", results[ATTENTION], in_chunks, attention_error=run.recorder.error(run.kv, [0], True))
    cache.reset()
    run.same("reset", results[ATTENTION], again())
    if run.kv.info.n_recent:
        return
    cache.crop(-(cache.get_seq_length() - n // 2))
    run.same("crop", results[ATTENTION], again())
    for name, implementation in ("restored", RESTORED), ("packed", ATTENTION):
        guessed = run.generate(implementation, ids[None], prompt_lookup_num_tokens=3)
        run.same(f"lookup, {name}", results[implementation], tuple(x[0] for x in guessed))


def check_batch(run, ids):
    n = len(ids)
    lengths = [n, n - n // 3, n // 5]
    batch, mask = torch.zeros(len(lengths), n, dtype=torch.long), torch.zeros(len(lengths), n, dtype=torch.long)
    for b, length in enumerate(lengths):
        batch[b, n - length:], mask[b, n - length:] = ids[:length], 1
    for name, implementation in ("restored", RESTORED), ("packed", ATTENTION):
        run.recorder.start()
        tokens, logits = run.generate(implementation, batch, mask)
        error = run.recorder.error(run.kv, [n - length for length in lengths], implementation == ATTENTION)
        for b, length in enumerate(lengths):
            alone = run.generate(implementation, ids[None, :length])
            run.same(f"batch, {name} {b}", (alone[0][0], alone[1][0]), (tokens[b], logits[b]), attention_error=error)


def check_beams(run, ids):
    ids, new, device = ids[:40], 12, run.model.device
    for name, implementation in ("restored", RESTORED), ("packed", ATTENTION):
        run.model.set_attn_implementation(implementation)
        result = run.model.generate(
            ids[None].to(device), attention_mask=torch.ones(1, len(ids), device=device), num_beams=2, do_sample=False,
            past_key_values=run.cache(torch.ones(1, len(ids))), pad_token_id=0, max_new_tokens=new, min_new_tokens=new,
            length_penalty=0.0, return_dict_in_generate=True, output_scores=True)
        whole = result.sequences[0].cpu()
        likely = run.pass_logits(whole, implementation, len(ids))[len(ids) - 1:-1].log_softmax(-1)
        score = likely.gather(1, whole[len(ids):, None]).sum().item()
        error = abs(score - result.sequences_scores[0].item())
        run.tell(f"beams, {name}", error, 0, error <= run.options.tolerance)


def generate_command(run, path):
    options = run.options
    command = [options.generate, "--model", options.model, "--plan", str(run.plan), "--tokens", str(path), "--json",
               "-q", "--max-tokens", str(options.new_tokens), "--ignore-eos", "--temperature", "0", "--device",
               options.device]
    if options.device != "cpu":
        command += ["--precision", "f32" if options.dtype == "float32" else "bf16"]
    return command


def check_generate(run, ids, results):
    """`ropebits generate` on the CPU or the same GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.json"
        path.write_text(json.dumps(ids.tolist()))
        done = subprocess.run(generate_command(run, path), capture_output=True, text=True)
    if done.returncode:
        run.tell("generate", None, 0, False, note=": " + done.stderr.strip())
        return
    theirs = torch.tensor(json.loads(done.stdout)["token_ids"])
    tokens, logits = results[ATTENTION]
    differ = (theirs != tokens).nonzero()
    first = int(differ[0]) if len(differ) else 0
    gap = (logits[first, tokens[first]] - logits[first, theirs[first]]).item()
    run.tell("generate", gap, int(len(differ) > 0), gap <= run.options.tolerance)


# ---- the command line ------------------------------------------------------------------------------------------------
def prompt_ids(options, vocabulary):
    if options.text:
        from transformers import AutoTokenizer
        ids = AutoTokenizer.from_pretrained(options.model)(Path(options.text).read_text())["input_ids"]
        return torch.tensor(ids[:options.prompt_tokens])
    return torch.randint(vocabulary, (options.prompt_tokens,), generator=torch.Generator().manual_seed(5))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", help="libropebits_kv.so")
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--plan", required=True, action="append", help="plan.rbp for it; may be given several times")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--attention-tolerance", type=float, help=f"by default {ATTENTION_TOLERANCES}, on a GPU at "
                        f"least {CUDA_ATTENTION_TOLERANCE}")
    parser.add_argument("--tolerance", type=float, default=2.0, help="of a logit (default %(default)s)")
    parser.add_argument("--text", help="whose tokens the prompt is; otherwise tokens are drawn")
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--generate", help="ropebits-generate, to compare with")
    options = parser.parse_args(arguments)
    if options.attention_tolerance is None:
        options.attention_tolerance = ATTENTION_TOLERANCES[options.dtype]
        if options.device != "cpu":
            options.attention_tolerance = max(options.attention_tolerance, CUDA_ATTENTION_TOLERANCE)
    return options


def main(arguments=None):
    options = parse(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"torch {torch.__version__}, {options.device}, {options.dtype}, attention within "
          f"{options.attention_tolerance}, logits within {options.tolerance}")
    print(f"{'plan':14} {'check':18}{'attention':>11}{'logits':>11}{'effect':>11} {'ties':>5}")
    recorder, n_bad = Recorder(), 0
    for plan in options.plan:
        run = Runner(options, recorder, plan)
        ids = prompt_ids(options, run.model.config.get_text_config().vocab_size)
        results = check_single(run, ids)
        check_reuse(run, ids, results)
        check_batch(run, ids)
        check_beams(run, ids)
        if options.generate:
            check_generate(run, ids, results)
        n_bad += run.bad
    print(f"{n_bad} of the checks do not hold" if n_bad else "all hold")
    return 3 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
