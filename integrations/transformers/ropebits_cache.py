"""A packed KV cache for Hugging Face transformers (5.x) by a ropebits plan: README.md beside this file.

    cache = RopebitsCache("plan.rbp", model)
    model.generate(**inputs, past_key_values=cache)

Every layer keeps its keys and values in pages of libropebits_kv (ropebits_kv.py). What attention gets of them:

  any attention implementation   RopebitsLayer.update takes the new tokens and restores all, for this call only.
  attention "ropebits"           after set_attn_implementation("ropebits") update hands out PendingTokens, and
                                 ropebits_attention takes them: one new token a sequence attends over the pages as they
                                 are, more attend over restored ones.

A cache has columns: the tokens of every sequence of a batch, with padding on the left. Token t of sequence b is column
padding[b] + t; pages, exact areas and RoPE positions count tokens, so padding takes no memory there.

Exact tokens. A plan may keep the first n_sink and the last n_recent tokens in fp16. "ropebits" does so for each query
of a prompt by itself, as `ropebits evaluate` does. The other implementations see one set of keys for all queries of a
call: there the last n_recent tokens of the whole cache are exact. That differs in prompts only; new tokens come one by
one.
"""
import hashlib
from pathlib import Path

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin, get_layer_types_and_kwargs
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ropebits_kv import DTYPES, PAGE_TOKENS, aligned_bytes, open_plan

ATTENTION = "ropebits"
FIRST_PAGES = 4           # of a sequence, where max_tokens does not say how many
SCORES_AT_A_TIME = 1 << 27  # logits of a prompt that attend_recent holds


# ---- which tokens a batch has, the same for all layers ---------------------------------------------------------------
class Sequences:
    """The sequences of a batch: their padding, and where their tokens are. Page j of sequence b is page j * n + b of
    every layer's pool, n sequences in all: a pool grows at its end."""

    def __init__(self, attention_mask=None):
        self.padding = None if attention_mask is None else left_padding(attention_mask)
        self._last, self._has_begun = {}, False

    def begin(self, n):
        """Called with the number of sequences of every update."""
        if self._has_begun and n != len(self.padding):
            raise ValueError(f"{n} sequences in a batch, but RopebitsCache has {len(self.padding)}")
        if self.padding is None:
            if n > 1:
                raise ValueError(f"a batch of {n} sequences needs RopebitsCache(..., attention_mask=...), the mask of "
                                 "the prompts: it says how many tokens are padding")
            self.padding = [0]
        if n % len(self.padding):
            raise ValueError(f"{n} sequences in a batch, but the attention_mask given to RopebitsCache has "
                             f"{len(self.padding)}")
        # More than the mask has are beams, or several sequences returned of a prompt.
        self.padding = [p for p in self.padding for _ in range(n // len(self.padding))]
        self._has_begun = True

    def __len__(self):
        return len(self.padding)

    def select(self, indices):
        self.padding = [self.padding[i] for i in indices]
        self._last = {}

    def _remember(self, name, key, make):
        """What all layers ask for with the same arguments is made once."""
        if name not in self._last or self._last[name][0] != key:
            self._last[name] = key, make()
        return self._last[name][1]

    def length(self, b, n_columns):
        return max(n_columns - self.padding[b], 0)

    def lengths(self, n_columns, device):
        """[sequence] tokens in so many columns."""
        return self._remember("lengths", (n_columns, device), lambda: torch.tensor(
            [self.length(b, n_columns) for b in range(len(self))], dtype=torch.int32, device=device))

    def block_table(self, n_pages, device):
        """[sequence][page]"""
        return self._remember("table", (n_pages, device), lambda: torch.arange(
            n_pages * len(self), dtype=torch.int32, device=device).view(n_pages, len(self)).T.contiguous())

    def slots(self, b, first, n, device):
        """Slots and positions of tokens first to first + n - 1 of sequence b."""
        def make():
            token = torch.arange(first, first + n, device=device)
            page = token // PAGE_TOKENS * len(self) + b
            return page * PAGE_TOKENS + token % PAGE_TOKENS, token.int()
        return self._remember(f"slots {b}", (first, n, device), make)

    def new_tokens(self, first, n, device):
        """Of columns first to first + n - 1: sequence and token of all that are no padding, [sequence][column] in
        turn, and which those are; None: all."""
        def make():
            column = torch.arange(first, first + n, device=device)
            token = column - torch.tensor(self.padding, device=device)[:, None]
            sequence = torch.arange(len(self), device=device)[:, None].expand_as(token)
            if first >= max(self.padding):
                return sequence.flatten().int(), token.flatten().int(), None
            kept = (token.flatten() >= 0).nonzero().flatten()
            return sequence.flatten()[kept].int(), token.flatten()[kept].int(), kept
        return self._remember("new tokens", (first, n, device), make)


def left_padding(attention_mask):
    """How many columns of each row are 0. Refuses padding that is not on the left."""
    mask = attention_mask.to("cpu", torch.bool)
    if mask.dim() != 2:
        raise ValueError(f"attention_mask has {mask.dim()} dims, expected 2: [sequence][token]")
    if (mask.int().diff(dim=1) < 0).any() or not mask[:, -1].all():
        raise ValueError("attention_mask has padding after a token; expected padding on the left only "
                         "(tokenizer.padding_side = \"left\")")
    return (~mask).sum(1).tolist()


# ---- a layer ---------------------------------------------------------------------------------------------------------
class PendingTokens:
    """What update gives to ropebits_attention in place of keys and values: the layer, and tokens it has not taken."""

    def __init__(self, layer, keys, values):
        self.layer, self.keys, self.values = layer, keys, values


class RopebitsLayer(CacheLayerMixin):
    """Keys and values of one layer in pages."""

    is_sliding = False
    supports_early_init = False

    def __init__(self, cache, layer, window):
        super().__init__()
        self.cache, self.layer, self.window, self.n_columns = cache, layer, window, 0

    # ---- what transformers asks
    @property
    def is_croppable(self):
        return not self.is_initialized or self.kv.info.n_recent == 0

    def lazy_initialization(self, key_states, value_states=None):
        if key_states.dtype not in DTYPES:
            raise ValueError(f"keys are {key_states.dtype}, expected one of {', '.join(map(str, DTYPES))}")
        self.device = key_states.device
        self.kv = self.cache.open(self.device)
        self.pages, self.exact, self.n_pages = None, None, 0
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        if self.cache.config._attn_implementation == ATTENTION:
            pending = PendingTokens(self, key_states, value_states)
            return pending, pending
        self.append(key_states, value_states)
        return self.restore(key_states.dtype)

    def get_seq_length(self):
        return self.n_columns

    def get_max_length(self):
        return -1

    def get_mask_sizes(self, query_length):
        return self.n_columns + query_length, 0

    def reset(self):
        self.n_columns = 0

    def crop(self, tokens_to_remove):
        """Removes the last tokens: so many, given below 0; above 0 it is how many to leave."""
        tokens_to_remove = int(tokens_to_remove)  # assisted generation has it in a tensor
        n = -tokens_to_remove if tokens_to_remove <= 0 else max(self.n_columns - tokens_to_remove, 0)
        if n == 0:
            return
        if not self.is_croppable:
            raise NotImplementedError(f"a cache of a plan with recent = {self.kv.info.n_recent} cannot be cropped: the "
                                      "tokens that would be recent again are coded already")
        self.n_columns = max(self.n_columns - n, 0)

    def select(self, indices):
        """Makes sequence indices[i] the i-th."""
        if not self.is_initialized or self.pages is None:
            return
        indices = torch.tensor(indices, device=self.device)
        pages = self.pages.view(self.n_pages, -1, self.kv.page_bytes[self.layer])
        self.pages = aligned_bytes(self.n_pages * len(indices) * pages.shape[2], self.device)
        torch.index_select(pages, 1, indices, out=self.pages.view(self.n_pages, len(indices), -1))
        if self.exact is not None:
            self.exact = self.exact.index_select(0, indices)

    def reorder_cache(self, beam_idx):
        self.select(beam_idx.tolist())

    # ---- pages
    def begin(self, key_states):
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        self.cache.sequences.begin(key_states.shape[0])

    def n_bytes(self):
        """Bytes that the layer holds."""
        return sum(x.numel() for x in (self.pages, self.exact) if x is not None) if self.is_initialized else 0

    def reserve(self, n_columns):
        n_sequences = len(self.cache.sequences)
        if self.exact is None and self.kv.exact_bytes:
            self.exact = torch.zeros(n_sequences, self.kv.exact_bytes, dtype=torch.uint8, device=self.device)
        needed = -(-n_columns // PAGE_TOKENS)
        if needed <= self.n_pages:
            return
        at_first = -(-self.cache.max_tokens // PAGE_TOKENS) if self.cache.max_tokens else FIRST_PAGES
        n_pages = max(needed, 2 * self.n_pages, at_first)
        grown = aligned_bytes(n_pages * n_sequences * self.kv.page_bytes[self.layer], self.device)
        if self.pages is not None:
            grown[:self.pages.numel()] = self.pages
        self.pages, self.n_pages = grown, n_pages

    def storage(self):
        return self.pages, self.cache.sequences.block_table(self.n_pages, self.device), self.exact

    def append(self, key_states, value_states):
        """Takes keys and values [sequence][head][token][dim]."""
        self.begin(key_states)
        sequences, n = self.cache.sequences, key_states.shape[2]
        sequence, token, kept = sequences.new_tokens(self.n_columns, n, self.device)
        self.reserve(self.n_columns + n)
        keys, values = (as_vectors(x, kept) for x in (key_states, value_states))
        self.kv.append(self.layer, keys, values, sequence, token, self.storage())
        self.n_columns += n

    def exact_tokens(self, b, first, end, dtype):
        """Keys [token][head][dim] and values of tokens first to end - 1 of sequence b, which the exact area has now."""
        info = self.kv.info
        token = torch.arange(first, end, device=self.device)
        recent = info.n_sink + (token - info.n_sink) % max(info.n_recent, 1)
        rows = self.exact[b].view(torch.float16).view(-1, info.n_kv_heads * (info.head_dim + info.value_dim))
        rows = rows[torch.where(token < info.n_sink, token, recent)].to(dtype)
        keys, values = rows.split([info.n_kv_heads * info.head_dim, info.n_kv_heads * info.value_dim], 1)
        return [x.view(len(token), info.n_kv_heads, -1) for x in (keys, values)]

    def restore(self, dtype):
        """Keys and values [sequence][head][column][dim] of all tokens; those of padding are 0."""
        info, sequences = self.kv.info, self.cache.sequences
        shape = len(sequences), self.n_columns, info.n_kv_heads
        keys = torch.zeros(*shape, info.head_dim, dtype=dtype, device=self.device)
        values = torch.zeros(*shape, info.value_dim, dtype=dtype, device=self.device)
        for b, padding in enumerate(sequences.padding):
            length = sequences.length(b, self.n_columns)
            first, end = min(info.n_sink, length), max(length - info.n_recent, 0)
            if end > first:
                slots, positions = sequences.slots(b, first, end - first, self.device)
                self.kv.decode(self.layer, slots, self.pages, positions, keys[b, padding + first:padding + end],
                               values[b, padding + first:padding + end])
            for begin, stop in (0, first), (max(first, end), length):
                if stop > begin:
                    columns = slice(padding + begin, padding + stop)
                    keys[b, columns], values[b, columns] = self.exact_tokens(b, begin, stop, dtype)
        return keys.transpose(1, 2), values.transpose(1, 2)

    # ---- attention
    def attend(self, query, scale, softcap):
        """One query a sequence, [sequence][query head][1][dim], over the pages."""
        queries = query[:, :, 0] if query.stride(3) == 1 else query[:, :, 0].contiguous()
        lengths = self.cache.sequences.lengths(self.n_columns, self.device)
        out = torch.empty(*queries.shape[:2], self.kv.info.value_dim, dtype=query.dtype, device=self.device)
        longest = self.n_columns - min(self.cache.sequences.padding)
        self.kv.attend(self.layer, queries, out, lengths, longest, self.storage(), scale, softcap or 0.0, self.window)
        return out[:, None]

    def before(self, n_columns, dtype):
        """Keys and values [sequence][head][column][dim] of the last columns, exactly, of those n_columns at most that
        the exact area has."""
        info, sequences = self.kv.info, self.cache.sequences
        n = min(n_columns, self.n_columns)
        keys = torch.zeros(len(sequences), n, info.n_kv_heads, info.head_dim, dtype=dtype, device=self.device)
        values = torch.zeros(len(sequences), n, info.n_kv_heads, info.value_dim, dtype=dtype, device=self.device)
        for b in range(len(sequences)):
            length = sequences.length(b, self.n_columns)
            m = min(n, length)
            if m > 0:
                keys[b, n - m:], values[b, n - m:] = self.exact_tokens(b, length - m, length, dtype)
        return keys.transpose(1, 2), values.transpose(1, 2)


def as_vectors(states, kept):
    """[sequence][head][token][dim] as [vector][head][dim], only those kept."""
    x = states.transpose(1, 2).flatten(0, 1)
    x = x if kept is None else x[kept]
    return x if x.stride(2) == 1 and x.stride(0) % 8 == 0 and x.stride(1) % 8 == 0 else x.contiguous()


# ---- the cache -------------------------------------------------------------------------------------------------------
class RopebitsCache(Cache):
    """A cache by plan.rbp for model.generate(past_key_values=...) or model(past_key_values=...).

    plan            path of a plan.rbp
    model           the model, or its config. Geometry, and config.json where the model came from a folder, must be
                    those of the plan; check_config=False leaves config.json unchecked
    attention_mask  [sequence][token] of the prompts; needed for a batch. Padding is on the left
    max_tokens      of a sequence: pages for so many are taken at once. 0: they grow by doubling
    library         path of libropebits_kv.so; None: ropebits_kv.library_path()
    """

    def __init__(self, plan, model, attention_mask=None, max_tokens=0, library=None, check_config=True):
        config = getattr(model, "config", model)
        self.config = config.get_text_config(decoder=True)
        self.plan, self.library, self.max_tokens = str(plan), library, max_tokens
        self.sequences = Sequences(attention_mask)
        info = self.open(getattr(model, "device", torch.device("cpu"))).info
        check_geometry(info, self.config, self.plan)
        if check_config:
            check_config_file(info, config, self.plan)
        super().__init__(layers=[RopebitsLayer(self, layer, window)
                                 for layer, window in enumerate(layer_windows(self.config))])

    def open(self, device):
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        return open_plan(self.plan, str(device), self.library)

    def n_bytes(self):
        """Bytes of pages and exact tokens, as they are reserved."""
        return sum(layer.n_bytes() for layer in self.layers)

    def reset(self, attention_mask=None):
        """Forgets all tokens, and keeps the pages. attention_mask: of the prompts to come; None: padded as before."""
        super().reset()
        if attention_mask is not None:
            if self.sequences.padding is not None and len(attention_mask) != len(self.sequences):
                raise ValueError(f"attention_mask has {len(attention_mask)} sequences, but the cache was made for "
                                 f"{len(self.sequences)}")
            self.sequences = Sequences(attention_mask)

    def _select(self, indices):
        for layer in self.layers:
            layer.select(indices)
        if self.sequences.padding is not None:
            self.sequences.select(indices)

    def reorder_cache(self, beam_idx):
        self._select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats):
        self._select([b for b in range(len(self.sequences)) for _ in range(repeats)])

    def batch_select_indices(self, indices):
        self._select(torch.arange(len(self.sequences))[indices.cpu()].tolist())


def check_geometry(info, config, plan):
    n_q_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_q_heads
    found = {"n_layers": config.num_hidden_layers, "n_q_heads": n_q_heads,
             "n_kv_heads": getattr(config, "num_key_value_heads", None) or n_q_heads, "head_dim": head_dim}
    for name, value in found.items():
        if getattr(info, name) != value:
            raise ValueError(f"{plan} is for a model of {name} {getattr(info, name)}, but this model has {value}")


def check_config_file(info, config, plan):
    path = Path(config.name_or_path) / "config.json"
    if not config.name_or_path or not path.is_file():
        return
    expected, found = info.config_sha256.decode(), hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"{plan} is for a config.json of SHA-256 {expected[:12]}, but {path} has {found[:12]}; if "
                         "only its wording differs, pass check_config=False")


def layer_windows(config):
    """[layer] of how many tokens attention sees, 0: all."""
    types, arguments = get_layer_types_and_kwargs(config)
    for layer, kind in enumerate(types):
        if kind not in ("full_attention", "sliding_attention"):
            raise NotImplementedError(f"layer {layer} is of type {kind}, expected full_attention or sliding_attention")
    return [arguments["sliding_window"] if kind == "sliding_attention" else 0 for kind in types]


# ---- attention over pages --------------------------------------------------------------------------------------------
def ropebits_mask(batch_size, q_length, kv_length, **kwargs):
    """Attention over pages knows from lengths what one new token sees. More need a mask."""
    return None if q_length == 1 and kv_length > 1 else sdpa_mask(batch_size, q_length, kv_length, **kwargs)


def ropebits_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **kwargs):
    """query [sequence][query head][token][dim] -> [sequence][token][query head][dim]"""
    refused = {"dropout": dropout or None, **{name: kwargs.get(name) for name in ("s_aux", "position_bias")}}
    for name, given in refused.items():
        if given is not None:
            raise NotImplementedError(f"attention \"{ATTENTION}\" has no {name}")
    if scaling is None:
        scaling = query.shape[3] ** -0.5
    if not isinstance(key, PendingTokens):
        if query.shape[2] == 1 and key.shape[2] > 1:
            raise NotImplementedError(f"attention \"{ATTENTION}\" decodes with a RopebitsCache only, this is another "
                                      "cache")
        return attend_restored(module, query, key, value, attention_mask, scaling, softcap), None
    if query.shape[2] > 1 or key.layer.n_columns == 0:
        return attend_prompt(module, query, key, attention_mask, scaling, softcap), None
    if attention_mask is not None:
        raise NotImplementedError(f"attention \"{ATTENTION}\" takes no mask of the caller's own in decoding")
    key.layer.append(key.keys, key.values)
    return key.layer.attend(query, scaling, softcap), None


def attend_prompt(module, query, pending, mask, scaling, softcap):
    layer = pending.layer
    layer.begin(pending.keys)
    n_recent = layer.kv.info.n_recent
    if n_recent:
        exact = layer.before(n_recent - 1, query.dtype)
        exact = [torch.cat([old, new.half().to(query.dtype)], 2)
                 for old, new in zip(exact, (pending.keys, pending.values))]
    layer.append(pending.keys, pending.values)
    check_padding(mask, layer)
    keys, values = layer.restore(query.dtype)
    if n_recent:
        return attend_recent(query, (keys, values), exact, n_recent, mask, scaling, softcap)
    return attend_restored(module, query, keys, values, mask, scaling, softcap)


def check_padding(mask, layer):
    """The mask of a call must hide the padding that the cache was told of, and no more."""
    padding = layer.cache.sequences.padding
    if layer.window:
        return  # its mask hides more
    seen = [layer.n_columns] * len(padding) if mask is None else mask[:, 0, -1].sum(-1).tolist()
    for b, n in enumerate(seen):
        if n != layer.n_columns - padding[b]:
            raise ValueError(f"sequence {b} has {layer.n_columns - n} columns of padding, but RopebitsCache was told "
                             f"of {padding[b]}: pass attention_mask=... of the prompts")


def attend_restored(module, query, keys, values, mask, scaling, softcap):
    if not softcap:
        return sdpa_attention_forward(module, query, keys, values, mask, scaling=scaling)[0]
    return attend_recent(query, (keys, values), None, 0, mask, scaling, softcap)


def attend_recent(query, restored, exact, n_recent, mask, scaling, softcap):
    """Attention in float32 by its definition. A query sees keys and values of its last n_recent tokens, its own
    included, as they are in exact (the last columns only), of all others as they are in restored.

    query [sequence][query head][token][dim]; restored, exact: pairs of [sequence][head][column][dim]; mask bool
    [sequence or 1][1][token][column], or None: causal."""
    n_sequences, n_q_heads, n, dim = query.shape
    n_heads, n_columns = restored[0].shape[1:3]
    grouped = query.reshape(n_sequences, n_heads, n_q_heads // n_heads, n, dim).float()
    restored = [x[:, :, None].float() for x in restored]
    exact = None if exact is None else [x[:, :, None].float() for x in exact]
    column = torch.arange(n_columns, device=query.device)
    step = max(SCORES_AT_A_TIME // (n_sequences * n_q_heads * n_columns), 1)
    outs = []
    for first in range(0, n, step):
        q = grouped[..., first:first + step, :]
        of_query = column[n_columns - n + first:][:q.shape[3], None]
        seen = (column <= of_query)[None, None] if mask is None else mask[:, :, first:first + step, :n_columns]
        scores = q @ restored[0].transpose(-1, -2)
        if exact is not None:
            band = slice(n_columns - exact[0].shape[3], n_columns)
            is_exact = of_query - column[band] < n_recent
            scores[..., band] = torch.where(is_exact, q @ exact[0].transpose(-1, -2), scores[..., band])
        scores = scores * scaling
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.masked_fill(~seen[:, :, None], torch.finfo(torch.float32).min).softmax(-1)
        if exact is None:
            out = weights @ restored[1]
        else:
            near = weights[..., band] * is_exact
            weights[..., band] -= near
            out = weights @ restored[1] + near @ exact[1]
        outs.append(out.flatten(1, 2))
    return torch.cat(outs, 2).transpose(1, 2).to(query.dtype).contiguous()


AttentionInterface.register(ATTENTION, ropebits_attention)
AttentionMaskInterface.register(ATTENTION, ropebits_mask)
