#!/usr/bin/env python3
"""Perplexity of an unquantized checkpoint by numpy alone, what `ropebits evaluate` is held to.

    numpy_perplexity.py STUDY MODEL TEXT N_TOKENS CONTEXT

STUDY is the folder of lab.py (forward pass) and bpe.py (tokenizer), ../shared/study here. Prints one JSON object: the first N_TOKENS ids of the text (their SHA-256 as
little-endian int32), cut into whole sequences of CONTEXT, and the mean negative log-likelihood in nats of all tokens that have one before them in their sequence. The
logits are f32, as the study's forward pass makes them; the sums over them are f64. Needs numpy and scipy.

tests/fixtures/demo-llama-perplexity.json is what it prints for
    ../shared/study configs/demo-llama configs/demo-text/heldout.txt 2048 1024
"""
import hashlib, json, math, sys

study, model, text, n_tokens, context = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
sys.path.insert(0, study)
import numpy as np
from bpe import BPE
from lab import forward

ids = np.array(BPE(f"{model}/tokenizer.json").encode(open(text, encoding="utf-8").read())[:n_tokens], dtype="<i4")
if ids.size != n_tokens or n_tokens % context:
    sys.exit(f"{text}: {ids.size} tokens, expected {n_tokens}, whole sequences of {context}")
sequences = ids.reshape(-1, context)
logits = forward(model, sequences, want_logits=True)["logits"]
logits = logits.astype(np.float64).reshape(*sequences.shape, logits.shape[-1])[:, :-1]
largest = logits.max(-1)
log_sum = np.log(np.exp(logits - largest[..., None]).sum(-1)) + largest
of_targets = np.take_along_axis(logits, sequences[:, 1:, None].astype(np.int64), 2)[..., 0]
nll = float((log_sum - of_targets).mean())
print(json.dumps({"text": text, "tokens_sha256": hashlib.sha256(ids.tobytes()).hexdigest(), "n_tokens": n_tokens, "context": context, "nll": nll, "perplexity": math.exp(nll)}))
