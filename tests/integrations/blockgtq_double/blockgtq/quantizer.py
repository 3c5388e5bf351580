from types import SimpleNamespace

import torch

from blockgtq.block_gtq_pipeline import BlockGTQPipeline


class BlockGTQQuantizer:
    def __init__(self, head_dim, avg_bits=3.0, rotation_threshold=2, min_bits=1, max_bits=8, device=None):
        self.head_dim, self.avg_bits, self.rotation_threshold = head_dim, avg_bits, rotation_threshold
        self.min_bits, self.max_bits, self.device = min_bits, max_bits, device

    def calibrate(self, q_data, k_data):
        ref = BlockGTQPipeline(head_dim=self.head_dim, avg_bits=self.avg_bits, device=self.device,
                               rotation_threshold=self.rotation_threshold)
        ref.calibrate(q_data, k_data)
        self.bit_allocation, self._head_perm, self._n_groups = ref.bit_allocation, ref._head_perm, ref._n_groups

    def init_v_quantizer(self, v_bits=3, seed=42):
        drawn = torch.zeros(1 << v_bits)
        self._v_quantizer = SimpleNamespace(seed=seed, bit_width=v_bits, centroids=drawn, boundaries=drawn[1:])
        self._v_bits, self._v_centroids_f32, self._v_boundaries = v_bits, drawn, drawn[1:]

    def build_kernel_args(self):
        return {"of": self}


def build_batched_encode_args(quantizers, device="cuda"):
    return {"v_bits": quantizers[0]._v_bits, "v_cent_stack": torch.stack([q._v_centroids_f32 for q in quantizers])}
