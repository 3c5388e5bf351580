"""Checks RopebitsCache on a model: python3 check_cache.py --library LIB --model FOLDER --plan PLAN.rbp [--device cuda]

The judge is a restored pass, as of `ropebits evaluate`: the whole sequence at once without a cache, keys and values of
every layer coded and restored, each query seeing its own exact tokens. Its attention is written here by its
definition and shares nothing with ropebits_cache.py. What is checked, with greedy tokens and their logits:

  restored      the cache under any attention implementation (here eager), against the pass
  packed        attention "ropebits", against the pass with a horizon of every query's own
  batch         sequences of different lengths with padding, each against itself
  chunks        a prompt in several calls
  reset, crop   a cache that is used again
  lookup        tokens that are guessed from the prompt, and taken back
  beams         two beams
  generate      tokens of `ropebits generate` (with --generate)

A logit may differ by --tolerance: codes are decided by comparisons, and a key that lies beside a boundary may fall on
the other side when it was computed in another order. A token may differ where the logits of both are within it: a tie.
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
from transformers.masking_utils import AttentionMaskInterface

from ropebits_cache import ATTENTION, RopebitsCache
from ropebits_kv import PAGE_TOKENS, aligned_bytes, open_plan

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCES = {"float32": 0.02, "float16": 0.5, "bfloat16": 1.0}
CUDA_TOLERANCE = 0.1  # at least: kernels hold a query in fp16, whatever the model's numbers are
REFERENCE = "ropebits-restored-pass"
RESTORED = "eager"  # the implementation that knows soft caps; sdpa leaves them out


# ---- the judge -------------------------------------------------------------------------------------------------------
class RestoredPass:
    """Attention of a pass without a cache. horizon[i]: a query at token i sees token t exactly when t is one of the
    first n_sink, or of the last n_recent before token horizon[i]."""

    def __init__(self, kv):
        self.kv, self.horizon = kv, None

    def restore(self, layer, x):
        """[head][token][dim] keys and values, coded and restored."""
        n, device = x[0].shape[1], x[0].device
        pages = aligned_bytes(-(-n // PAGE_TOKENS) * self.kv.page_bytes[layer], device)
        slots, positions = torch.arange(n, device=device), torch.arange(n, dtype=torch.int32, device=device)
        # A token that leaves the ring of recent ones is coded as the ring has it: in fp16.
        vectors = [(y.half() if self.kv.info.n_recent else y).transpose(0, 1).contiguous() for y in x]
        restored = [torch.empty_like(y) for y in vectors]
        self.kv.encode(layer, *vectors, positions, slots, pages)
        self.kv.decode(layer, slots, pages, positions, *restored)
        return [y.transpose(0, 1) for y in restored]

    def __call__(self, module, query, key, value, mask, scaling=None, sliding_window=None, softcap=None, **kwargs):
        info, n = self.kv.info, query.shape[2]
        token = torch.arange(n, device=query.device)
        end = self.horizon.to(query.device)[:, None]
        is_exact = (token < info.n_sink) | (token >= end - info.n_recent)
        seen = token <= token[:, None]
        if sliding_window:
            seen &= token > token[:, None] - sliding_window
        exact = [x[0].half() for x in (key, value)]
        restored = self.restore(module.layer_idx, (key[0], value[0]))
        repeat = query.shape[1] // key.shape[1]
        (ek, ev), (rk, rv) = ([x.float().repeat_interleave(repeat, 0) for x in pair] for pair in (exact, restored))
        q = query[0].float()
        scores = torch.where(is_exact, q @ ek.transpose(1, 2), q @ rk.transpose(1, 2)) * scaling
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out = (weights * is_exact) @ ev + (weights * ~is_exact) @ rv
        return out.transpose(0, 1)[None].to(query.dtype), None


class Judge:
    def __init__(self, model, kv):
        self.model, self.kv, self.attend = model, kv, RestoredPass(kv)
        AttentionInterface.register(REFERENCE, self.attend)
        AttentionMaskInterface.register(REFERENCE, lambda **kwargs: None)

    def logits(self, ids, calls):
        """[token] logits of a restored pass over ids [token]. calls: numbers of tokens that see one horizon."""
        ends = torch.tensor(calls).cumsum(0)
        self.attend.horizon = ends.repeat_interleave(torch.tensor(calls))
        self.model.set_attn_implementation(REFERENCE)
        return self.forward(ids)

    def forward(self, ids):
        with torch.no_grad():
            return self.model(ids[None].to(self.model.device), use_cache=False).logits[0].float().cpu()

    def unquantized(self, ids):
        self.model.set_attn_implementation(RESTORED)
        return self.forward(ids)


# ---- the cache -------------------------------------------------------------------------------------------------------
class Runner:
    def __init__(self, options, plan):
        self.options, self.plan = options, plan
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype])
        self.model = model.to(options.device).eval()
        self.kv = open_plan(str(plan), str(self.model.device), options.library)
        self.judge = Judge(self.model, self.kv)
        self.bad = 0

    def cache(self, attention_mask=None):
        """One that grows from a page."""
        return RopebitsCache(self.plan, self.model, attention_mask=attention_mask, max_tokens=1,
                             library=self.options.library)

    def generate(self, implementation, ids, mask=None, cache=None, **kwargs):
        """Token ids and logits [sequence][new token] after ids [sequence][token]."""
        self.model.set_attn_implementation(implementation)
        mask = torch.ones_like(ids) if mask is None else mask
        cache = self.cache(mask) if cache is None else cache
        device = self.model.device
        result = self.model.generate(
            ids.to(device), attention_mask=mask.to(device), past_key_values=cache, do_sample=False, pad_token_id=0,
            max_new_tokens=self.options.new_tokens, min_new_tokens=self.options.new_tokens,
            return_dict_in_generate=True, output_logits=True, **kwargs)
        return result.sequences[:, ids.shape[1]:].cpu(), torch.stack(result.logits, 1).float().cpu()

    def tell(self, name, error, effect, n_ties, is_good, note=""):
        self.bad += not is_good
        print(f"{Path(self.plan).stem:14} {name:22} {error:11.2e} {effect:9.2e} {n_ties:5}  "
              f"{'ok' if is_good else 'BAD'}{note}", flush=True)

    def compare(self, name, tokens, logits, reference, effect=0.0):
        """tokens [new], logits [new][vocabulary] against those of the reference for the same tokens before."""
        error = (logits - reference).abs().max().item()
        best = reference.argmax(-1)
        gap = (reference.gather(1, best[:, None]) - reference.gather(1, tokens[:, None]))[:, 0]
        n_ties = int((best != tokens).sum())
        self.tell(name, error, effect, n_ties, max(error, gap.max().item()) <= self.options.tolerance)

    def against_pass(self, name, ids, tokens, logits, calls):
        whole = torch.cat([ids, tokens])
        reference = self.judge.logits(whole, calls)[len(ids) - 1:-1]
        effect = (reference - self.judge.unquantized(whole)[len(ids) - 1:-1]).abs().max().item()
        self.compare(name, tokens, logits, reference, effect)

    def same(self, name, first, second):
        """Two results of the same prompt, up to the first token that differs, which must be a tie."""
        (a, x), (b, y) = first, second
        differ = (a != b).nonzero()
        n = int(differ[0]) + 1 if len(differ) else len(a)
        self.compare(name, b[:n], y[:n], x[:n])


def check_single(run, ids):
    n, new = len(ids), run.options.new_tokens
    results = {}
    for name, implementation in ("restored", RESTORED), ("packed", ATTENTION):
        tokens, logits = run.generate(implementation, ids[None])
        results[implementation] = tokens[0], logits[0]
        # restored: one horizon for all queries of a call; packed: each query its own
        calls = [n] + [1] * new if implementation == RESTORED else [1] * (n + new)
        run.against_pass(name, ids, tokens[0], logits[0], calls)
    if run.kv.info.n_recent == 0:
        run.same("restored = packed", results[RESTORED], results[ATTENTION])
    return results


def check_reuse(run, ids, results):
    """Chunks, reset and crop, with one cache."""
    cache, n = run.cache(), len(ids)
    run.model.set_attn_implementation(ATTENTION)
    with torch.no_grad():
        for part in ids[:n - 1].split(7):
            run.model(part[None].to(run.model.device), past_key_values=cache)
    again = lambda: tuple(x[0] for x in run.generate(ATTENTION, ids[None], cache=cache))
    run.same("chunks", results[ATTENTION], again())
    cache.reset()
    run.same("reset", results[ATTENTION], again())
    if run.kv.info.n_recent:
        return
    cache.crop(-(cache.get_seq_length() - n // 2))
    run.same("crop", results[ATTENTION], again())
    for implementation in RESTORED, ATTENTION:
        guessed = run.generate(implementation, ids[None], prompt_lookup_num_tokens=3)
        run.same(f"lookup, {implementation}", results[implementation], tuple(x[0] for x in guessed))


def check_batch(run, ids):
    n = len(ids)
    lengths = [n, n - n // 3, n // 5]
    batch, mask = torch.zeros(len(lengths), n, dtype=torch.long), torch.zeros(len(lengths), n, dtype=torch.long)
    for b, length in enumerate(lengths):
        batch[b, n - length:], mask[b, n - length:] = ids[:length], 1
    for implementation in RESTORED, ATTENTION:
        tokens, logits = run.generate(implementation, batch, mask)
        for b, length in enumerate(lengths):
            alone = run.generate(implementation, ids[None, :length])
            run.same(f"batch, {implementation} {b}", (alone[0][0], alone[1][0]), (tokens[b], logits[b]))


def check_beams(run, ids):
    """The score of the best of two beams is that of its tokens in a restored pass."""
    ids, new, device = ids[:40], 12, run.model.device
    for implementation in RESTORED, ATTENTION:
        run.model.set_attn_implementation(implementation)
        result = run.model.generate(
            ids[None].to(device), attention_mask=torch.ones(1, len(ids), device=device), num_beams=2, do_sample=False,
            past_key_values=run.cache(torch.ones(1, len(ids))), pad_token_id=0, max_new_tokens=new, min_new_tokens=new,
            length_penalty=0.0, return_dict_in_generate=True, output_scores=True)
        whole = result.sequences[0].cpu()
        calls = [len(ids)] + [1] * new if implementation == RESTORED else [1] * (len(ids) + new)
        likely = run.judge.logits(whole, calls)[len(ids) - 1:-1].log_softmax(-1)
        score = likely.gather(1, whole[len(ids):, None]).sum().item()
        error = abs(score - result.sequences_scores[0].item())
        run.tell(f"beams, {implementation}", error, 0.0, 0, error <= run.options.tolerance)


def check_generate(run, ids, results):
    """`ropebits generate` on the CPU or the same GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.json"
        path.write_text(json.dumps(ids.tolist()))
        command = [run.options.generate, "--model", run.options.model, "--plan", str(run.plan), "--tokens", str(path),
                   "--max-tokens", str(run.options.new_tokens), "--ignore-eos", "--temperature", "0", "--json", "-q",
                   "--device", run.options.device]
        if run.options.device != "cpu":
            command += ["--precision", "f32" if run.options.dtype == "float32" else "bf16"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        run.tell("generate", 0.0, 0.0, 0, False, ": " + done.stderr.strip())
        return
    theirs = torch.tensor(json.loads(done.stdout)["token_ids"])
    tokens, logits = results[ATTENTION]
    differ = (theirs != tokens).nonzero()
    first = int(differ[0]) if len(differ) else None
    gap = 0.0 if first is None else (logits[first, tokens[first]] - logits[first, theirs[first]]).item()
    run.tell("generate", gap, 0.0, int(first is not None), gap <= run.options.tolerance)


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
    parser.add_argument("--tolerance", type=float,
                        help=f"of a logit; by default {TOLERANCES}, on a GPU {CUDA_TOLERANCE} at least")
    parser.add_argument("--text", help="whose tokens the prompt is; otherwise tokens are drawn")
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--generate", help="ropebits-generate, to compare with")
    options = parser.parse_args(arguments)
    if options.tolerance is None:
        options.tolerance = TOLERANCES[options.dtype]
        if options.device != "cpu":
            options.tolerance = max(options.tolerance, CUDA_TOLERANCE)
    return options


def main(arguments=None):
    options = parse(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"torch {torch.__version__}, {options.device}, {options.dtype}, tolerance {options.tolerance}")
    print(f"{'plan':14} {'check':22} {'logit error':>11} {'effect':>9} {'ties':>5}")
    n_bad = 0
    for plan in options.plan:
        run = Runner(options, plan)
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
