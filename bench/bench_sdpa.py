"""The mark of bench_attend: one decode token's attention in fp16 by cuDNN, through PyTorch, one JSON line a row with the
names of bench_attend. python3 bench_sdpa.py [N_Q_HEADS N_KV_HEADS HEAD_DIM]. Calls are recorded in a graph, so that the
host does not count, over caches that together are larger than the GPU's second-level cache."""
import json
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

CHAIN, REPEATS, L2_BYTES = 8, 9, 128 << 20


def attention_us(batch, length, n_q_heads, n_kv_heads, dim):
    def halves(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.float16)

    n_bytes = batch * n_kv_heads * length * dim * 4
    caches = [(halves(batch, n_kv_heads, length, dim), halves(batch, n_kv_heads, length, dim))
              for _ in range(min(CHAIN, -(-L2_BYTES // n_bytes)))]
    queries = halves(batch, n_q_heads, 1, dim)

    def chain():
        for i in range(CHAIN):
            scaled_dot_product_attention(queries, *caches[i % len(caches)], enable_gqa=True)

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        chain()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chain()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / CHAIN)
    return sorted(times)[REPEATS // 2]


def main():
    heads = [int(a) for a in sys.argv[1:4]] or [32, 8, 128]
    for batch, length in ((1, 8192), (1, 32768), (1, 131072), (8, 32768)):
        us = attention_us(batch, length, *heads)
        gb = batch * length * heads[1] * heads[2] * 4e-9
        print(json.dumps({"plan": "fp16 by cuDNN", "batch": batch, "length": length, "n_q_heads": heads[0],
                          "n_kv_heads": heads[1], "head_dim": heads[2], "true_bits": 16.0, "us": round(us, 2),
                          "packed_gb": round(gb, 5), "gb_per_s": round(gb / us * 1e6, 1)}))


main()
