import torch


def greedy_bit_allocation(scores, total_budget, min_bits=1, max_bits=8):
    return torch.full((len(scores),), total_budget // len(scores))


def _optimal_centroids_torch(bit_width, d, device):
    return torch.arange(1 << bit_width, device=device) / (1 << bit_width) - d


def unstable_argsort(bits):
    """What torch may do with a plain tensor: equals in any order, here the last first."""
    if type(bits) is not torch.Tensor:
        return bits.argsort()
    return len(bits) - 1 - bits.flip(0).argsort(stable=True)


class BlockGTQPipeline:
    def __init__(self, head_dim, avg_bits=3.0, rotation_threshold=3, min_bits=1, max_bits=8, device=None):
        self.head_dim, self.n_freqs, self.avg_bits = head_dim, head_dim // 2, avg_bits
        self.rotation_threshold, self.min_bits, self.max_bits = rotation_threshold, min_bits, max_bits
        self.device, self.bit_allocation = device, None

    def calibrate(self, q_data, k_data):
        scores = (q_data.square() + k_data.square()).mean(0)[:self.n_freqs]
        budget = int(self.n_freqs * self.avg_bits)
        self.bit_allocation = greedy_bit_allocation(scores, budget, self.min_bits, self.max_bits)
        self._post_allocation_setup()

    def _post_allocation_setup(self, summary="BlockGTQ"):
        order = unstable_argsort(self.bit_allocation)
        self._head_perm = torch.stack([order, order + self.n_freqs], 1).flatten()
        self._n_groups = len(self.bit_allocation.unique().tolist())
        self.summary = summary, self.bit_allocation.numpy().tolist()
