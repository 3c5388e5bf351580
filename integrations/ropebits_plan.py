"""Reads plan.rbp, restores vectors from packed codes, turns keys by RoPE: numpy only, in this one file.

    plan = ropebits_plan.read("plan.rbp")
    keys = plan.key_head(layer, kv_head).restore(packed, norms)     # [n][head_dim] f32, as they enter RoPE
    keys = plan.turn(layer, keys, positions)                        # as they leave it
    values = plan.value_head(layer, kv_head).restore(packed, norms)

packed [n][bytes] u8 are the streams of the vectors, norms [n][groups] fp16 numbers or log8 bytes (none of families
block-codebook and trellis), as `ropebits encode` writes them. The format is docs/plan-rbp.md of ropebits, up to version
5; names here are those of that page. Numbers are computed in double, as the definition in C does.

    python3 ropebits_plan.py plan.rbp                                        what it is
    python3 ropebits_plan.py plan.rbp --restore codes.npz --layer 0 --kv-head 0 [--values] [-o restored.npy]

The payload is a zstd frame: Python 3.14 reads it, or the package zstandard (Debian: python3-zstandard), or the program
zstd.
"""
import argparse
import json
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np

NEWEST_VERSION = 5
GROUPS, BLOCK_CODEBOOK, TRELLIS, FP16 = "groups", "block-codebook", "trellis", "fp16"
FAMILIES = (GROUPS, BLOCK_CODEBOOK, TRELLIS)
ROPE_KINDS = ("default", "linear", "llama3", "dynamic", "yarn", "longrope", "proportional")
MAX_POINT_BITS, MAX_LEVEL_BITS, STATE_BITS = 10, 8, 8
NO_GROUP, VALUES_FP16, VALUES_OF_HEADS = 255, 16, 255


class PlanError(Exception):
    """The file is no plan that this can read; the message says why in one sentence."""


def check(holds, message):
    if not holds:
        raise PlanError(message)


# ---- the frame ---------------------------------------------------------------------------------------------------


def decompress(frame, size):
    try:
        from compression import zstd            # Python 3.14
        return zstd.decompress(frame)
    except ImportError:
        pass
    try:
        import zstandard
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except ImportError:
        pass
    program = shutil.which("zstd")
    check(program, "nothing here reads zstd: expected Python 3.14, or the package zstandard, or the program zstd")
    done = subprocess.run([program, "-dcq"], input=frame, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    check(done.returncode == 0, "the zstd frame is damaged: " + done.stderr.decode(errors="replace").strip())
    return done.stdout


def unwrap(data):
    """version and payload of the bytes of a file."""
    check(data[:8] == b"RBPLAN\r\n", "not a plan.rbp: wrong magic")
    check(len(data) >= 28, f"plan is cut off: {len(data)} bytes, expected at least 28")
    version, reserved, size, frame = struct.unpack("<4I", data[8:24])
    check(1 <= version <= NEWEST_VERSION, f"plan format version is {version}, expected 1 to {NEWEST_VERSION}")
    check(len(data) == 28 + frame, f"plan is {len(data)} bytes, expected {28 + frame} from its header")
    stored, = struct.unpack("<I", data[-4:])
    crc = zlib.crc32(data[:-4])
    check(crc == stored, f"plan is damaged: CRC-32 is {crc:08x}, expected {stored:08x}")
    check(reserved == 0, f"reserved header field is {reserved}, expected 0")
    check(size <= 1 << 30, f"plan announces {size} bytes, expected at most {1 << 30}")
    payload = decompress(data[24:-4], size)
    check(len(payload) == size, f"zstd frame holds {len(payload)} bytes, expected {size}")
    return version, payload


class Cursor:
    def __init__(self, payload):
        self.payload, self.at = payload, 0

    def take(self, n):
        check(n <= len(self.payload) - self.at, "plan payload ends early")
        self.at += n
        return self.payload[self.at - n:self.at]

    def number(self, fmt, least=None, most=None, what="a number"):
        value, = struct.unpack("<" + fmt, self.take(struct.calcsize(fmt)))
        check(least is None or least <= value <= most, f"{what} is {value}, expected {least} to {most}")
        return value

    def array(self, dtype, n):
        dtype = np.dtype(dtype)
        return np.frombuffer(self.take(n * dtype.itemsize), dtype)

    def small(self, n, least, most, what):
        values = self.array("u1", n)
        found = values.min(initial=least), values.max(initial=least)
        check(found[0] >= least and found[1] <= most,
              f"{what}: found {found[0]} to {found[1]}, expected {least} to {most}")
        return values

    def f16(self, n, what):
        """A column: all low bytes, then all high bytes."""
        low, high = self.array("u1", n).astype("u2"), self.array("u1", n).astype("u2")
        values = (low | high << 8).view("f2")
        check(np.isfinite(values).all(), f"{what}: not all numbers are finite")
        return values.astype("f8")

    def f64(self, n, what):
        values = self.array("<f8", n)
        check(np.isfinite(values).all(), f"{what}: not all numbers are finite")
        return values

    def name(self):
        text = self.take(self.number("B"))
        check(all(chr(c).isalnum() and c < 128 or c in b"._+-" for c in text), "a name is not plain")
        return text.decode()

    def sha256(self):
        return self.take(32).hex() if self.number("B", 0, 1, "flag of a hash") else ""


# ---- rotations ---------------------------------------------------------------------------------------------------


def haar(seed, m):
    rotation, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((m, m)))
    rotation = rotation * np.where(np.diag(r) < 0, -1.0, 1.0)
    if np.linalg.slogdet(rotation)[0] < 0:
        rotation[:, 0] *= -1
    return rotation


def sylvester(p):
    matrix = np.ones((1, 1))
    while len(matrix) < p:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(p)


def hadamard(seed, m):
    p = 1 << (m.bit_length() - 1)
    normals = np.random.default_rng(seed).standard_normal(m if p == m else 2 * m)
    signs = np.where(normals < 0, -1.0, 1.0)
    if p == m:
        return sylvester(p) * signs
    first, last = np.eye(m), np.eye(m)
    first[:p, :p] = last[m - p:, m - p:] = sylvester(p)
    return (last * signs[m:]) @ (first * signs[:m])


def rotation_of(kind, seed, m, made={}):
    key = kind, int(seed), m
    if key not in made:
        made[key] = (haar, hadamard)[kind](int(seed), m).astype("f4").astype("f8")
    return made[key]


# ---- heads -------------------------------------------------------------------------------------------------------


def split_stream(packed, widths):
    """codes [n][len(widths)] of streams [n][bytes], each code least significant bit first."""
    bits = np.unpackbits(np.ascontiguousarray(packed, "u1"), axis=1, bitorder="little").astype("i4")
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(int)
    codes = np.zeros((len(bits), len(widths)), "i4")
    for b in range(max(widths, default=0)):
        have = np.flatnonzero(np.asarray(widths) > b)
        codes[:, have] |= bits[:, starts[have] + b] << b
    return codes


class Head:
    """How vectors of `dims` are coded. packed_bytes and n_norms are what a vector stores."""
    family, n_norms, norm_bits, center = None, 0, 0, None

    def restore(self, packed, norms=None):
        """[n][dims] f32 of packed [n][packed_bytes] and norms [n][n_norms]."""
        packed = np.atleast_2d(packed)
        check(packed.shape[1] == self.packed_bytes, f"{packed.shape[1]} bytes of codes, expected {self.packed_bytes}")
        if self.n_norms:
            check(norms is not None and np.atleast_2d(norms).shape == (len(packed), self.n_norms),
                  f"expected norms [{len(packed)}][{self.n_norms}]")
            norms = np.atleast_2d(norms)
        x = self.decode(packed, norms)
        return (x if self.center is None else x + self.center).astype("f4")

    @property
    def stored_bits(self):
        return 8 * self.packed_bytes + self.norm_bits * self.n_norms


class GroupsHead(Head):
    """groups: list of dict(width, dims, kind, seed, centroids, norm_exponent)."""
    family = GROUPS

    def __init__(self, dims, groups, is_log8=False):
        self.dims, self.groups, self.is_log8, self.scales = dims, groups, is_log8, None    # scales [dims]
        self.widths = [g["width"] for g in groups for _ in g["dims"]]
        self.packed_bytes = (sum(self.widths) + 7) // 8
        self.n_norms, self.norm_bits = len(groups), 8 if is_log8 else 16

    def norm(self, stored, exponent):
        """stored [n] as numbers: fp16, or of log8 the byte."""
        if not self.is_log8:
            stored = np.asarray(stored)
            return (stored.view("f2") if stored.dtype == np.uint16 else stored).astype("f8")
        code = np.asarray(stored).astype("f8")
        return np.where(code == 0, 0.0, np.exp2(exponent - (255 - code) / 16).astype("f4").astype("f8"))

    def decode(self, packed, norms):
        x, codes, at = np.zeros((len(packed), self.dims)), split_stream(packed, self.widths), 0
        for g, group in enumerate(self.groups):
            m = len(group["dims"])
            y = group["centroids"][codes[:, at:at + m]]
            y = y / np.sqrt((y * y).sum(1, keepdims=True))
            unit = y @ rotation_of(group["kind"], group["seed"], m)
            x[:, group["dims"]] = self.norm(norms[:, g], group["norm_exponent"])[:, None] * unit
            at += m
        return x if self.scales is None else x / self.scales


class BlockCodebookHead(Head):
    """bits [blocks], maps [blocks][3], pairs [blocks][2]: the dims of each block."""
    family = BLOCK_CODEBOOK

    def __init__(self, dims, gain_bits, bits, maps, pairs, points, levels):
        self.dims, self.gain_bits, self.bits, self.maps, self.pairs = dims, gain_bits, bits, maps, pairs
        self.points, self.levels = points, levels
        self.packed_bytes = (gain_bits + int(bits.sum()) + 7) // 8

    def first_bits(self, block):
        bits, (m0, _, m2) = int(self.bits[block]), self.maps[block]
        return min(range(bits - MAX_LEVEL_BITS, MAX_LEVEL_BITS + 1),
                   key=lambda f: m0 * m0 * 4.0 ** -f + m2 * m2 * 4.0 ** -(bits - f))

    def decode(self, packed, norms):
        codes = split_stream(packed, [self.gain_bits, *self.bits])
        zero = (1 << self.gain_bits) // 4 if self.gain_bits else 0
        gain = np.exp2((codes[:, 0] - zero) / 2).astype("f4").astype("f8")
        x = np.zeros((len(packed), self.dims))
        for block in np.flatnonzero(self.bits):
            code, bits, (m0, m1, m2) = codes[:, 1 + block], int(self.bits[block]), self.maps[block]
            if bits <= MAX_POINT_BITS:
                a, b = self.points[bits][0, code], self.points[bits][1, code]
            else:
                f = self.first_bits(block)
                a, b = self.levels[f][code & ((1 << f) - 1)], self.levels[bits - f][code >> f]
            x[:, self.pairs[block, 0]] = gain * (m0 * a)
            x[:, self.pairs[block, 1]] = gain * (m1 * a + m2 * b)
        return x


class TrellisHead(Head):
    """widths [dims], basis [dims][dims], tables: [256] by width."""
    family = TRELLIS

    def __init__(self, dims, gain_bits, gain_zero, widths, basis, tables):
        self.dims, self.gain_bits, self.gain_zero, self.widths = dims, gain_bits, gain_zero, widths
        self.basis, self.tables = basis, tables
        self.packed_bytes = (int(widths.sum()) + gain_bits + 7) // 8

    def decode(self, packed, norms):
        n = int(np.count_nonzero(self.widths))
        ends = np.cumsum(self.widths[:n])
        bits = np.unpackbits(np.ascontiguousarray(packed, "u1"), axis=1, bitorder="little").astype("i4")
        states = sum(bits[:, ends - STATE_BITS + b] << b for b in range(STATE_BITS))
        level = sum(bits[:, ends[-1] + b] << b for b in range(self.gain_bits)) if self.gain_bits else 0
        y = np.stack([self.tables[self.widths[i]][states[:, i]] for i in range(n)], 1)
        gain = np.exp2((np.broadcast_to(level, len(bits)) - self.gain_zero) / 2).astype("f4").astype("f8")
        return gain[:, None] * (y @ self.basis[:n])


class Fp16Head(Head):
    """A value that is not coded: its numbers in fp16."""
    family = FP16

    def __init__(self, dims):
        self.dims, self.packed_bytes = dims, 2 * dims

    def decode(self, packed, norms):
        return np.ascontiguousarray(packed, "u1").view("<f2").astype("f8")


# ---- the plan ----------------------------------------------------------------------------------------------------


class Plan:
    """keys and values [layer][kv_head] are Heads. The facts have the names of docs/plan-rbp.md."""

    def key_head(self, layer, kv_head):
        return self.keys[layer][kv_head]

    def value_head(self, layer, kv_head):
        return self.values[layer][kv_head]

    def block_pairs(self, dims=None):
        """The two dims of each block."""
        dims, n = dims or self.head_dim, self.rotary_dim // 2
        pairs = np.arange(dims).reshape(-1, 2)
        if self.pairing == 0:
            pairs[:n] = np.stack([np.arange(n), np.arange(n) + n], 1)
        return pairs

    def turn(self, layer, x, positions, back=False):
        """RoPE of x [n][head_dim] by positions [n], its attention factor included. back=True undoes it."""
        local = bool(self.layer_is_local[layer])
        freq, factor = (self.local_inv_freq, self.local_attention_factor) if local else \
            (self.inv_freq, self.attention_factor)
        x = np.array(x, "f8")
        angle = np.outer(positions, freq) * (-1 if back else 1)
        turned = x[:, self.block_pairs()[:len(freq)]]
        turned = (turned[..., 0] + 1j * turned[..., 1]) * np.exp(1j * angle) * (1 / factor if back else factor)
        x[:, self.block_pairs()[:len(freq)]] = np.stack([turned.real, turned.imag], -1)
        return x.astype("f4")

    @property
    def bytes_per_token(self):
        return sum(head.stored_bits for rows in (self.keys, self.values) for row in rows for head in row) / 8


class Reader(Cursor):
    """The sections of the payload, in the order of the file."""

    def __init__(self, version, payload):
        super().__init__(payload)
        self.version, self.plan = version, Plan()
        self.plan.version = version

    def read_identity(self):
        p = self.plan
        p.tool_version, p.method = self.name(), self.name()
        p.avg_bits, p.model_type = self.number("d"), self.name()
        p.config_sha256, p.weights_sha256, p.calibration_sha256 = self.sha256(), self.sha256(), self.sha256()
        p.calibration_n_tokens, p.calibration_context = self.number("Q"), self.number("Q")

    def read_rope(self):
        kind = self.number("B", 0, len(ROPE_KINDS) - 1 if self.version >= 4 else 2, "rope kind")
        return ROPE_KINDS[kind]

    def read_geometry(self):
        p = self.plan
        p.n_layers, p.n_q_heads, p.n_kv_heads = (self.number("I", 1, 1 << 16, "a number of layers or heads")
                                                 for _ in range(3))
        p.head_dim = self.number("I", 2, 1024, "head_dim")
        p.rotary_dim = self.number("I", 0, p.head_dim, "rotary_dim")
        check(p.head_dim % 2 == 0 and p.rotary_dim % 2 == 0 and p.n_q_heads % p.n_kv_heads == 0,
              f"{p.n_q_heads} query heads, {p.n_kv_heads} KV heads, head_dim {p.head_dim}, rotary_dim {p.rotary_dim} "
              "do not fit together")
        p.attention_scale, p.rope_kind = self.number("d"), self.read_rope()
        p.pairing = self.number("B", 0, 1, "pairing")
        p.theta, p.factor, p.low_freq_factor, p.high_freq_factor = self.f64(4, "RoPE parameters")
        p.original_max_position = self.number("Q")
        p.inv_freq = self.f64(p.rotary_dim // 2, "inv_freq")
        p.value_dim, p.attention_factor, p.layer_is_local = p.head_dim, 1.0, np.zeros(p.n_layers, "u1")
        if self.version >= 4:
            self.read_model()
        p.sink, p.recent = (self.number("I", 0, 1 << 24, "sink or recent") for _ in range(2)) if self.version >= 5 \
            else (0, 0)
        self.n_heads, self.n_blocks = p.n_layers * p.n_kv_heads, p.head_dim // 2

    def read_model(self):
        p = self.plan
        p.value_dim = self.number("I", 2, 1024, "value_dim")
        check(p.value_dim % 2 == 0, f"value_dim is {p.value_dim}, expected an even number")
        p.attention_factor = self.number("d")
        if self.number("B", 0, 1, "flag of a local rope"):
            p.local_rope_kind = self.read_rope()
            p.local_theta, p.local_factor, p.local_low_freq_factor, p.local_high_freq_factor = self.f64(4, "RoPE")
            p.local_original_max_position, p.local_attention_factor = self.number("Q"), self.number("d")
            p.local_inv_freq = self.f64(p.rotary_dim // 2, "local_inv_freq")
            p.layer_is_local = self.small(p.n_layers, 0, 1, "layer_is_local")

    def read_tables(self):
        self.books = {}
        for _ in range(self.number("H")):
            kind, width, dims = self.number("B", 0, 1, "codebook kind"), self.number("B", 1, 8, "codebook width"), \
                self.number("H", 0, 1024, "codebook dims")
            half = 1 << (width - 1)
            self.books[kind, width, dims] = self.f64(half, "codebook") if dims == 0 else self.array("<f4", half)
        self.points, self.levels, self.trellis = {}, {}, {}
        if self.version >= 3:
            for _ in range(self.number("B", 0, MAX_POINT_BITS, "number of tables of points")):
                bits = self.number("B", 1, MAX_POINT_BITS, "bits of a table of points")
                self.points[bits] = self.f16(2 << bits, "points").reshape(2, -1)
        if self.version >= 5:
            for tables, size in (self.levels, lambda bits: 1 << bits), (self.trellis, lambda width: 256):
                for _ in range(self.number("B", 0, 8, "number of tables")):
                    bits = self.number("B", 1, 8, "bits of a table")
                    tables[bits] = self.f16(size(bits), "a table")

    def centroids(self, kind, width, dims):
        upper = self.books.get((kind, width, dims))
        if upper is None:
            unit = self.books.get((kind, width, 0))
            check(unit is not None, f"no codebook of kind {kind}, width {width} for {dims} dims in the plan")
            with np.errstate(over="ignore"):
                upper = (unit / np.sqrt(float(dims))).astype("f4")
        check(np.isfinite(upper).all() and upper[0] > 0 and (np.diff(upper) > 0).all(),
              f"codebook of width {width} for {dims} dims does not ascend")
        return np.concatenate([-upper[::-1], upper]).astype("f8")

    def read_values(self):
        self.value_width = self.number("B")
        self.value_codebook = self.number("B", 0, 1, "value codebook")
        if self.value_width == 0 and self.version >= 2:
            self.value_widths = self.small(self.n_heads, 1, 8, "value widths")
        elif self.value_width == VALUES_OF_HEADS and self.version >= 5 or self.value_width == VALUES_FP16:
            self.value_widths = None
        else:
            check(1 <= self.value_width <= 8, f"value width is {self.value_width}, expected 1 to 8, or 16")
            self.value_widths = np.full(self.n_heads, self.value_width)

    def coded_value(self, h):
        p, dims = self.plan, self.plan.value_dim
        if self.value_widths is None:
            return Fp16Head(dims)
        width = int(self.value_widths[h])
        return GroupsHead(dims, [dict(width=width, dims=np.arange(dims), kind=0, seed=1000 + h % p.n_kv_heads,
                                      centroids=self.centroids(self.value_codebook, width, dims), norm_exponent=0)])

    def of_family(self, family):
        return [h for h in range(self.n_heads) if self.family[h] == FAMILIES.index(family)]

    def read_keys(self):
        newest = 0 if self.version < 3 else 1 if self.version < 5 else 2
        self.family = self.small(self.n_heads, 0, newest, "family") if self.version >= 3 else \
            np.zeros(self.n_heads, "u1")
        mixed = np.flatnonzero(self.family != np.repeat(self.family[::self.plan.n_kv_heads], self.plan.n_kv_heads))
        check(len(mixed) == 0, f"head {mixed[:1]}: its family is not that of its layer's first head")
        self.heads = [None] * self.n_heads
        self.read_groups()
        if self.version >= 2:
            centers = self.flagged("center", self.plan.head_dim)
        if self.version >= 3:
            self.read_block_codebooks()
        if self.version >= 5:
            for h, head in self.read_trellis(self.of_family(TRELLIS), self.plan.head_dim):
                self.heads[h] = head
        if self.version >= 2:
            for h, center in centers.items():
                self.heads[h].center = center

    def flagged(self, what, n):
        """{head: [n] numbers} of the heads whose flag is 1."""
        having = np.flatnonzero(self.small(self.n_heads, 0, 1, "flags of a " + what))
        return dict(zip(having, self.f16(len(having) * n, what).reshape(-1, n)))

    def read_groups(self):
        p, later = self.plan, self.version >= 2
        n_groups = self.small(self.n_heads, 0, self.n_blocks, "groups of a head")
        norm = self.small(self.n_heads, 0, 1, "norm") if later else np.zeros(self.n_heads, "u1")
        if later:
            self.small(self.n_heads, 0, 1, "encoder")
        total = int(n_groups.astype(int).sum())
        width, order = self.small(total, 1, 8, "width"), self.small(total, 0, 1, "order")
        rotation, codebook = self.small(total, 0, 1, "rotation"), self.small(total, 0, 1, "codebook")
        seed = self.array("<u8", total)
        exponent = self.array("i1", total) if later else np.zeros(total, "i1")
        if later:
            self.f16(total, "coherence")
        pairs, g = p.block_pairs(), 0
        for h in self.of_family(GROUPS):
            block_group = self.array("u1", self.n_blocks)
            check(((block_group < n_groups[h]) | (later & (block_group == NO_GROUP))).all(),
                  f"head {h}: a block is in a group that the head has not")
            groups = []
            for k in range(n_groups[h]):
                dims = pairs[block_group == k].ravel()
                check(len(dims) > 0, f"head {h}: group {k} has no blocks")
                groups.append(dict(width=int(width[g]), dims=np.sort(dims) if order[g] else dims, kind=int(rotation[g]),
                                   seed=seed[g], norm_exponent=int(exponent[g]),
                                   centroids=self.centroids(codebook[g], width[g], len(dims))))
                g += 1
            self.heads[h] = GroupsHead(p.head_dim, groups, norm[h] == 1)
        for h, scales in self.flagged("scale", self.n_blocks).items() if later else ():
            self.heads[h].scales = np.ones(p.head_dim)
            self.heads[h].scales[pairs] = scales[:, None]

    def read_block_codebooks(self):
        p, heads, n = self.plan, self.of_family(BLOCK_CODEBOOK), self.n_blocks
        gain_bits = self.small(len(heads), 0, 4, "gain bits")
        bits = self.small(len(heads) * n, 0, 16 if self.version >= 5 else MAX_POINT_BITS, "bits of a block")
        maps = self.f16(len(heads) * 3 * n, "maps").reshape(-1, n, 3)
        self.f16(len(heads) * n, "weights")
        for i, h in enumerate(heads):
            head = BlockCodebookHead(p.head_dim, int(gain_bits[i]), bits[i * n:(i + 1) * n].astype(int), maps[i],
                                     p.block_pairs(), self.points, self.levels)
            for block in np.flatnonzero(head.bits):
                b = int(head.bits[block])
                f = b if b <= MAX_POINT_BITS else head.first_bits(block)
                found = b in self.points if b <= MAX_POINT_BITS else f in self.levels and b - f in self.levels
                check(found, f"head {h}: block {block} has {b} bits, and the plan no table of so many")
            self.heads[h] = head

    def read_trellis(self, heads, dims):
        n = len(heads)
        gain_bits, gain_zero = self.small(n, 0, 4, "gain bits"), self.small(n, 0, 15, "gain zero")
        widths = self.small(n * dims, 0, 8, "widths").reshape(n, dims).astype(int)
        self.f16(n * dims, "weights")
        basis = self.f16(n * dims * dims, "basis").reshape(n, dims, dims)
        for i, h in enumerate(heads):
            check(widths[i, 0] == STATE_BITS and (np.diff(np.minimum(widths[i], 1)) <= 0).all(),
                  f"head {h}: widths of the trellis do not begin with 8, or have bits after a 0")
            check(all(int(w) in self.trellis for w in widths[i] if w), f"head {h}: a width has no trellis table")
            yield h, TrellisHead(dims, int(gain_bits[i]), int(gain_zero[i]), widths[i], basis[i], self.trellis)

    def read_value_heads(self):
        p = self.plan
        if self.value_width != VALUES_OF_HEADS or self.version < 5:
            return [self.coded_value(h) for h in range(self.n_heads)]
        values = [head for _, head in self.read_trellis(range(self.n_heads), p.value_dim)]
        for h, center in self.flagged("center of values", p.value_dim).items():
            values[h].center = center
        return values

    def read(self):
        p = self.plan
        self.read_identity()
        self.read_geometry()
        self.read_tables()
        self.read_values()
        self.read_keys()
        values = self.read_value_heads()
        check(self.at == len(self.payload), f"{len(self.payload) - self.at} bytes too many at the end of the plan")
        rows = range(0, self.n_heads, p.n_kv_heads)
        p.keys = [self.heads[h:h + p.n_kv_heads] for h in rows]
        p.values = [values[h:h + p.n_kv_heads] for h in rows]
        return p


def parse(data):
    """A Plan of the bytes of a plan.rbp."""
    version, payload = unwrap(data)
    try:
        return Reader(version, payload).read()
    except (OverflowError, UnicodeDecodeError, struct.error) as error:
        raise PlanError(f"plan payload is damaged: {error}") from None


def read(path):
    with open(path, "rb") as file:
        return parse(file.read())


# ---- the command line --------------------------------------------------------------------------------------------


def show(plan):
    print(f"plan.rbp of version {plan.version}, written by ropebits {plan.tool_version}")
    print(f"model      {plan.model_type}, {plan.n_layers} layers, {plan.n_q_heads} query heads, {plan.n_kv_heads} KV "
          f"heads, head_dim {plan.head_dim}, rotary_dim {plan.rotary_dim}, value_dim {plan.value_dim}")
    print(f"config     {plan.config_sha256}")
    print(f"rope       {plan.rope_kind}, {'interleaved' if plan.pairing else 'split-half'}, theta {plan.theta:g}")
    print(f"method     {plan.method}, {plan.avg_bits:g} bits")
    fp16 = 2 * plan.n_layers * plan.n_kv_heads * (plan.head_dim + plan.value_dim)
    print(f"cache      {plan.bytes_per_token:g} bytes a token, fp16 takes {fp16}; exact tokens: the first {plan.sink}, "
          f"the last {plan.recent}")
    for layer in range(plan.n_layers):
        keys, values = plan.keys[layer], plan.values[layer]
        print(f"layer {layer:3d}  keys {keys[0].family} {' '.join(f'{k.stored_bits / k.dims:.3f}' for k in keys)}  "
              f"values {values[0].family} {' '.join(f'{v.stored_bits / v.dims:.3f}' for v in values)}  bits a dim")


def read_codes(path):
    """The arrays of an .npz, or of a .safetensors."""
    if not str(path).endswith(".safetensors"):
        return dict(np.load(path))
    with open(path, "rb") as file:
        data = file.read()
    length, = struct.unpack("<Q", data[:8])
    header, at, dtypes = json.loads(data[8:8 + length]), 8 + length, {"U8": "u1", "F16": "<f2", "F32": "<f4"}
    return {name: np.frombuffer(data[at + t["data_offsets"][0]:at + t["data_offsets"][1]],
                                dtypes[t["dtype"]]).reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def restore_file(plan, options):
    what = "values" if options.values else "keys"
    check(options.layer < plan.n_layers and options.kv_head < plan.n_kv_heads,
          f"layer {options.layer}, KV head {options.kv_head}: the plan has {plan.n_layers} layers of {plan.n_kv_heads}")
    head = (plan.value_head if options.values else plan.key_head)(options.layer, options.kv_head)
    codes = read_codes(options.restore)
    check("packed" in codes, f"{options.restore}: no array packed in it")
    x = head.restore(codes["packed"], codes.get("norms"))
    text = f"{len(x)} {what} of layer {options.layer}, KV head {options.kv_head}"
    if "restored" in codes:
        largest = max(float(np.abs(codes["restored"]).max(initial=0)), 1e-30)
        off = float(np.abs(x.astype("f8") - codes["restored"]).max(initial=0)) / largest
        text += f": largest difference from `restored` {off:.1e} of the largest number"
    if options.output:
        np.save(options.output, x)
    print(text)


def main():
    parser = argparse.ArgumentParser(description="Reads plan.rbp of ropebits: numpy only.")
    parser.add_argument("plan", help="plan.rbp")
    parser.add_argument("--restore", metavar="CODES", help="restore the arrays packed and norms of an .npz or "
                        ".safetensors of `ropebits encode`")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--kv-head", type=int, default=0)
    parser.add_argument("--values", action="store_true", help="values, not keys")
    parser.add_argument("-o", "--output", metavar="FILE", help="restored vectors as .npy")
    options = parser.parse_args()
    try:
        plan = read(options.plan)
        if options.restore:
            restore_file(plan, options)
        else:
            show(plan)
    except (OSError, PlanError, ValueError) as error:
        sys.exit(f"ropebits_plan: error: {options.plan}: {error}")


if __name__ == "__main__":
    main()
