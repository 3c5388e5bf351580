"""libropebits_kv by ctypes, on torch tensors. What pages, slots, exact areas and block tables are: ropebits_kv.h.

PackedKv is a plan that is open on one device. It holds tables only: every tensor is the caller's, on that device.
"""
import ctypes
import functools
import os
import threading
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64
from ctypes import c_void_p
from pathlib import Path

import torch

PAGE_TOKENS = 64
ALIGNMENT = 128  # of pages and workspaces, in bytes
DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
STATUS_UNSUPPORTED = 4


class RopebitsError(RuntimeError):
    """What the library refused, in its own sentence."""


class PlanInfo(ctypes.Structure):
    """ropebits_plan_info of ropebits_plan.h."""

    _fields_ = [
        ("method", c_char_p), ("tool_version", c_char_p),
        ("avg_bits", c_double), ("key_true_bits", c_double), ("bytes_per_token", c_double),
        ("value_codebook", c_uint8),
        ("model_type", c_char_p), ("config_sha256", c_char_p), ("weights_sha256", c_char_p),
        ("n_layers", c_uint32), ("n_q_heads", c_uint32), ("n_kv_heads", c_uint32),
        ("head_dim", c_uint32), ("rotary_dim", c_uint32),
        ("attention_scale", c_double), ("pairing", c_uint8), ("rope_kind", c_uint8),
        ("rope_theta", c_double), ("rope_factor", c_double),
        ("rope_low_freq_factor", c_double), ("rope_high_freq_factor", c_double),
        ("rope_original_max_position", c_uint64), ("inv_freq", POINTER(c_double)),
        ("calibration_sha256", c_char_p), ("calibration_n_tokens", c_uint64), ("calibration_context", c_uint64),
        ("value_dim", c_uint32), ("rope_attention_factor", c_double),
        ("layer_is_local", POINTER(c_uint8)), ("local_rope_kind", c_uint8),
        ("local_rope_theta", c_double), ("local_rope_factor", c_double),
        ("local_rope_low_freq_factor", c_double), ("local_rope_high_freq_factor", c_double),
        ("local_rope_original_max_position", c_uint64), ("local_rope_attention_factor", c_double),
        ("local_inv_freq", POINTER(c_double)),
        ("n_sink", c_uint32), ("n_recent", c_uint32),
    ]


class _Vectors(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int32), ("token_stride", c_int64), ("head_stride", c_int64)]


class _Pages(ctypes.Structure):
    _fields_ = [("pages", c_void_p), ("block_table", c_void_p), ("block_stride", c_int64),
                ("exact", c_void_p), ("exact_stride_bytes", c_int64)]


class _Tokens(ctypes.Structure):
    _fields_ = [("n", c_int64), ("sequence", c_void_p), ("token", c_void_p),
                ("keys", _Vectors), ("values", _Vectors), ("keys_are_turned", c_int32)]


class _Queries(ctypes.Structure):
    _fields_ = [("n_sequences", c_int64), ("length", c_void_p), ("max_length", c_int32),
                ("queries", _Vectors), ("out", _Vectors), ("log_sum_exp", c_void_p),
                ("scale", c_double), ("softcap", c_double), ("window", c_int32), ("workspace", c_void_p)]


_ERROR = [c_char_p, c_size_t]
_ABI_VERSION = 1  # ROPEBITS_KV_ABI_VERSION of the header that the structures above follow
_PROTOTYPES = {
    "ropebits_kv_abi_version": (ctypes.c_int, []),
    "ropebits_kv_open": (ctypes.c_int, [POINTER(c_void_p), c_char_p, c_char_p, *_ERROR]),
    "ropebits_kv_close": (None, [c_void_p]),
    "ropebits_kv_plan": (c_void_p, [c_void_p]),
    "ropebits_plan_get_info": (POINTER(PlanInfo), [c_void_p]),
    "ropebits_kv_token_bytes": (c_size_t, [c_void_p, c_uint32, c_uint32]),
    "ropebits_kv_page_bytes": (c_size_t, [c_void_p, c_uint32]),
    "ropebits_kv_exact_bytes": (c_size_t, [c_void_p]),
    "ropebits_kv_workspace_bytes": (c_size_t, [c_void_p, c_uint32, c_int64, c_int32]),
    "ropebits_kv_coding_bytes": (c_size_t, [c_void_p, c_uint32, c_int64]),
    "ropebits_kv_encode": (ctypes.c_int, [c_void_p, c_uint32, c_int64, POINTER(_Vectors), POINTER(_Vectors), c_void_p,
                                          c_void_p, c_void_p, c_void_p, c_void_p, *_ERROR]),
    "ropebits_kv_decode": (ctypes.c_int, [c_void_p, c_uint32, c_int64, c_void_p, c_void_p, c_void_p, POINTER(_Vectors),
                                          POINTER(_Vectors), c_void_p, c_void_p, *_ERROR]),
    "ropebits_kv_append": (ctypes.c_int, [c_void_p, c_uint32, POINTER(_Tokens), POINTER(_Pages), c_void_p, c_void_p,
                                          *_ERROR]),
    "ropebits_kv_attend": (ctypes.c_int, [c_void_p, c_uint32, POINTER(_Queries), POINTER(_Pages), c_void_p, *_ERROR]),
}


def library_path():
    """$ROPEBITS_KV_LIBRARY, or the library of the installation that this file belongs to, or whatever the loader finds.

    An installation has this file as share/ropebits/integrations/transformers/ropebits_kv.py beside lib/.
    """
    if "ROPEBITS_KV_LIBRARY" in os.environ:
        return os.environ["ROPEBITS_KV_LIBRARY"]
    for folder in Path(__file__).resolve().parents[4:5]:
        if (folder / "lib" / "libropebits_kv.so").exists():
            return str(folder / "lib" / "libropebits_kv.so")
    return "libropebits_kv.so"


@functools.lru_cache(maxsize=None)
def _load(path):
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise RopebitsError(f"{path} cannot be loaded: {error}; give its path as library=...") from None
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise RopebitsError(f"{path} has no {name}, expected libropebits_kv of ABI {_ABI_VERSION}") from None
        function.restype, function.argtypes = result, arguments
    if library.ropebits_kv_abi_version() != _ABI_VERSION:
        raise RopebitsError(f"{path} has ABI {library.ropebits_kv_abi_version()}, expected {_ABI_VERSION}")
    return library


@functools.lru_cache(maxsize=8)
def open_plan(plan, device, library=None):
    """A PackedKv; caches of one plan share it. device: "cpu" or "cuda:N"."""
    return PackedKv(plan, device, library)


def aligned_bytes(n_bytes, device):
    """A uint8 tensor of n_bytes that starts at a multiple of ALIGNMENT: torch itself promises less on the CPU."""
    block = torch.empty(n_bytes + ALIGNMENT, dtype=torch.uint8, device=device)
    start = -block.data_ptr() % ALIGNMENT
    return block[start:start + n_bytes]


def _pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


def _vectors(x):
    """x [token][head][dim], dims beside each other."""
    if x.stride(2) != 1:
        raise ValueError(f"vectors have a stride of {x.stride(2)} between dims, expected 1")
    return _Vectors(x.data_ptr(), DTYPES[x.dtype], x.stride(0), x.stride(1))


class PackedKv:
    """A plan that is open on a device. Tensors of vectors are [token][KV or query head][dim] in float16, bfloat16 or
    float32; tokens, sequences, positions, lengths and block tables are int32, slots int64. A cache of a layer is
    (pages, block_table [sequence][page], exact [sequence][exact_bytes] or None). Work is queued on torch's current
    stream."""

    def __init__(self, plan, device, library=None):
        self.device = torch.device(device)
        self._library = _load(str(library or library_path()))
        self._handle = c_void_p()
        self._workspaces = {}  # of a thread and stream, whose calls follow each other
        error = ctypes.create_string_buffer(1024)
        status = self._library.ropebits_kv_open(byref(self._handle), os.fsencode(plan), str(device).encode(), error,
                                                len(error))
        self._raise(status, error)
        self.info = self._library.ropebits_plan_get_info(self._library.ropebits_kv_plan(self._handle)).contents
        self.exact_bytes = self._library.ropebits_kv_exact_bytes(self._handle)
        self.page_bytes = [self._library.ropebits_kv_page_bytes(self._handle, layer)
                           for layer in range(self.info.n_layers)]

    def __del__(self):
        if getattr(self, "_handle", None):
            self._library.ropebits_kv_close(self._handle)

    @staticmethod
    def _raise(status, error):
        if status:
            kind = NotImplementedError if status == STATUS_UNSUPPORTED else RopebitsError
            raise kind(error.value.decode(errors="replace"))

    def _stream(self):
        return None if self.device.type == "cpu" else torch.cuda.current_stream(self.device).cuda_stream

    def _call(self, name, *arguments):
        error = ctypes.create_string_buffer(1024)
        function = getattr(self._library, name)
        if self.device.type == "cpu":
            status = function(self._handle, *arguments, None, error, len(error))
        else:
            with torch.cuda.device(self.device):
                status = function(self._handle, *arguments, self._stream(), error, len(error))
        self._raise(status, error)

    def _work(self, n_bytes):
        if n_bytes == 0:
            return None
        key = threading.get_ident(), self._stream()
        if key not in self._workspaces or self._workspaces[key].numel() < n_bytes:
            self._workspaces[key] = aligned_bytes(n_bytes, self.device)
        return self._workspaces[key].data_ptr()

    def _coding_work(self, layer, n):
        return self._work(self._library.ropebits_kv_coding_bytes(self._handle, layer, n))

    @staticmethod
    def _cache(cache):
        pages, block_table, exact = cache
        return _Pages(pages.data_ptr(), block_table.data_ptr(), block_table.stride(0), _pointer(exact),
                      0 if exact is None else exact.stride(0))

    def token_bytes(self, layer, kv_head):
        return self._library.ropebits_kv_token_bytes(self._handle, layer, kv_head)

    def encode(self, layer, keys, values, positions, slots, pages):
        """Codes keys and values into slots. positions None: keys are as they enter RoPE."""
        self._call("ropebits_kv_encode", layer, len(slots), byref(_vectors(keys)), byref(_vectors(values)),
                   _pointer(positions), slots.data_ptr(), pages.data_ptr(), self._coding_work(layer, len(slots)))

    def decode(self, layer, slots, pages, positions, keys, values):
        """Restores into keys and values. positions None: keys come as they enter RoPE."""
        self._call("ropebits_kv_decode", layer, len(slots), slots.data_ptr(), pages.data_ptr(), _pointer(positions),
                   byref(_vectors(keys)), byref(_vectors(values)), self._coding_work(layer, len(slots)))

    def append(self, layer, keys, values, sequence, token, cache):
        """Takes new tokens, keys as they leave RoPE."""
        tokens = _Tokens(len(token), _pointer(sequence), token.data_ptr(), _vectors(keys), _vectors(values), 1)
        self._call("ropebits_kv_append", layer, byref(tokens), byref(self._cache(cache)),
                   self._coding_work(layer, len(token)))

    def attend(self, layer, queries, out, lengths, max_length, cache, scale, softcap=0.0, window=0, log_sum_exp=None):
        """out [sequence][query head][value dim] = attention of one query a sequence over its cache."""
        n_bytes = self._library.ropebits_kv_workspace_bytes(self._handle, layer, len(lengths), max_length)
        request = _Queries(len(lengths), lengths.data_ptr(), max_length, _vectors(queries), _vectors(out),
                           _pointer(log_sum_exp), scale, softcap, window, self._work(n_bytes))
        self._call("ropebits_kv_attend", layer, byref(request), byref(self._cache(cache)))
