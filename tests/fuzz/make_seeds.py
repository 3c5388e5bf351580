#!/usr/bin/env python3
"""make_seeds.py BUILD: writes the seeds of the fuzz targets, from the fixtures and by hand, with the standard library
only. The seeds are committed; this says where they come from. BUILD has ropebits-export, for plan.rbp. It leaves alone
evaluation.json and the plans heads, optimal-center and trellis: those were cut from what `run` and `allocate` made of
the demo, to one layer of one KV head."""
import json, pathlib, struct, subprocess, sys

build = pathlib.Path(sys.argv[1])
tests = pathlib.Path(__file__).resolve().parent.parent
seeds = tests / "fuzz" / "seeds"


def write(target, name, content):
    path = seeds / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_json(target, name, document, tail=b""):
    write(target, name, json.dumps(document, ensure_ascii=False).encode() + tail)


# ---- configs, plans, documents: fixtures -----------------------------------------------------------------------------
for config in sorted((tests / "fixtures" / "models").glob("*/config.json")):
    write("config", config.parent.name + ".json", config.read_bytes())
(seeds / "plan_rbp").mkdir(parents=True, exist_ok=True)
for plan in ["plan-block-codebook"]:
    source = tests / "fixtures" / (plan + ".json")
    write("plan_json", plan + ".json", source.read_bytes())
    subprocess.run([build / "bin" / "ropebits-export", "-q", "--format", "rbp", source, "-o", seeds / "plan_rbp"],
                   stdout=subprocess.DEVNULL, check=True)
write("plan_rbp", "mixed-fixture.rbp", (tests / "fixtures" / "plan-mixed-layer.rbp").read_bytes())
for template in sorted((tests.parent / "configs" / "needles").glob("*.json")):
    write("needles", template.name, template.read_bytes())
write("pipeline", "demo.json", (tests.parent / "configs" / "demo.json").read_bytes())
write("results", "summary.json", json.dumps(json.loads((tests / "fixtures" / "demo-baseline.json").read_text())))
write_json("documents", "two.json", {"schema": "ropebits-documents", "version": 1, "documents": [
    {"task": "multikey", "depth": 0.5, "tokens": [17, 4, 9, 9, 8], "answers": [[2, 2], [4, 1]]},
    {"task": "copy", "depth": None, "tokens": [1, 2, 3], "answers": [[1, 2]]}]})

# ---- ids -------------------------------------------------------------------------------------------------------------
write("ids", "list.json", "[1, 2, 3, 16777215]")
write("ids", "lines.txt", "1\n22\n333 4\n")
write("ids", "int32.bin", struct.pack("<8i", 91, 5, 9, 70000, 3, 2, 1, 0))
write("ids", "int64.bin", struct.pack("<4q", 91, 5, 9, 70000))
write("ids", "array.npy", b"\x93NUMPY\x01\x00" + bytes(8))

# ---- tensors ---------------------------------------------------------------------------------------------------------
def safetensors(tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


write("safetensors", "three.safetensors", safetensors(
    [("a.weight", "F32", [2, 3], struct.pack("<6f", *range(6))), ("b", "F16", [4], bytes(8)),
     ("c", "BF16", [2, 2], bytes(8)), ("d", "I64", [1], bytes(8)), ("none", "F32", [0, 3], b"")], {"format": "pt"}))
write("safetensors", "none.safetensors", safetensors([], {}))


def npy(descr, shape, data, version=1):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * 8 + b"\n"
    length = struct.pack("<H", len(header)) if version == 1 else struct.pack("<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


write("npz", "f4.npy", npy("<f4", (2, 3), struct.pack("<6f", *range(6))))
write("npz", "f2.npy", npy("<f2", (4,), bytes(8), version=2))
write("npz", "i4.npy", npy("<i4", (), bytes(4), version=3))
import io, zipfile
for name, kind in [("stored.npz", zipfile.ZIP_STORED), ("deflated.npz", zipfile.ZIP_DEFLATED)]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for array in ["k", "q"]:
            archive.writestr(zipfile.ZipInfo(array + ".npy"), npy("<f4", (2, 8), struct.pack("<16f", *range(16))), kind)
    write("npz", name, out.getvalue())

# ---- tokenizers ------------------------------------------------------------------------------------------------------
ALPHABET = [chr(c) for c in list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))]
ALPHABET += [chr(256 + i) for i in range(68)]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def byte_level(pre_tokenizer, merges, **more):
    vocabulary = {s: i for i, s in enumerate(ALPHABET + [a + b for a, b in merges])}
    return {"version": "1.0", "added_tokens": [
        {"id": len(vocabulary), "content": "<s>", "special": True, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": True}],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": pre_tokenizer, "decoder": {"type": "ByteLevel"},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [len(vocabulary)], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [a + " " + b for a, b in merges], **more}}


split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
merges = [("a", "a"), ("aa", "aa"), ("t", "h"), ("th", "e"), ("\u0120", "f")]
write_json("tokenizer", "gpt2.json", byte_level({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                                                 merges), b"\0the fox  aaaaaaa 12 'll")
write_json("tokenizer", "llama3.json", byte_level({"type": "Sequence", "pretokenizers": [split, plain]}, merges,
                                                   ignore_merges=True), b"\0A fox's 1234\r\n\r\n  x")
write_json("tokenizer", "digits.json", byte_level({"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"}, plain]}, merges))
sign = "\u2581"
pieces = {p: i for i, p in enumerate(["<unk>", "<s>"] + [f"<0x{b:02X}>" for b in range(256)]
                                     + [sign, "a", "b", "aa", sign + "a", "e", "t", "h", "th", "the"])}
write_json("tokenizer", "sentencepiece.json", {
    "version": "1.0", "added_tokens": [{"id": 1, "content": "<s>", "special": True, "normalized": True}],
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": sign}, {"type": "Replace", "pattern": {"String": " "}, "content": sign}]},
    "pre_tokenizer": None, "post_processor": None,
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True, "vocab": pieces,
              "merges": [["a", "a"], [sign, "a"], ["t", "h"], ["th", "e"]]}}, b"\0a aab the \xe4\xb8\xad")
write_json("tokenizer", "metaspace.json", {
    "added_tokens": [], "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Metaspace", "replacement": sign, "prepend_scheme": "always", "split": True},
    "model": {"type": "BPE", "unk_token": "<unk>", "vocab": pieces, "merges": ["a a"]}}, b"\0A the aa")

# ---- GGUF ------------------------------------------------------------------------------------------------------------
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def item(kind, value):
    return {U32: lambda: struct.pack("<I", value), F32: lambda: struct.pack("<f", value),
            BOOL: lambda: bytes([value]), STRING: lambda: text(value), 5: lambda: struct.pack("<i", value)}[kind]()


def entry(key, kind, value, of=None):
    if kind != ARRAY:
        return text(key) + struct.pack("<I", kind) + item(kind, value)
    return text(key) + struct.pack("<IIQ", kind, of, len(value)) + b"".join(item(of, v) for v in value)


def gguf(metadata, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
    data = b""
    for name, shape, kind, content in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        out += struct.pack("<IQ", kind, len(data))
        data += content + bytes(-len(content) % 32)
    return out + bytes(-len(out) % 32) + data


def model(arch, tokenizer):
    return [entry("general.architecture", STRING, arch), entry("general.name", STRING, "toy"),
            entry(arch + ".block_count", U32, 1), entry(arch + ".context_length", U32, 64),
            entry(arch + ".embedding_length", U32, 8), entry(arch + ".feed_forward_length", U32, 8),
            entry(arch + ".attention.head_count", U32, 2), entry(arch + ".attention.head_count_kv", U32, 1),
            entry(arch + ".attention.layer_norm_rms_epsilon", F32, 1e-5), entry(arch + ".rope.freq_base", F32, 1e4),
            entry(arch + ".vocab_size", U32, 6)] + tokenizer


def weights(arch):
    f32 = lambda *shape: (list(shape), 0, bytes(4 * int(__import__("math").prod(shape))))
    found = {"token_embd.weight": f32(6, 8), "output_norm.weight": f32(8), "output.weight": f32(6, 8)}
    for name, shape in {"attn_norm": (8,), "ffn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8),
                        "attn_output": (8, 8), "ffn_gate": (8, 8), "ffn_up": (8, 8), "ffn_down": (8, 8)}.items():
        found["blk.0." + name + ".weight"] = f32(*shape)
    return [(name, *rest) for name, rest in found.items()]


bpe = [entry("tokenizer.ggml.model", STRING, "gpt2"), entry("tokenizer.ggml.pre", STRING, "llama-bpe"),
       entry("tokenizer.ggml.tokens", ARRAY, ["<s>", "a", "b", "\u0120", "ab", "T"], STRING),
       entry("tokenizer.ggml.token_type", ARRAY, [3, 1, 1, 1, 1, 1], 5),
       entry("tokenizer.ggml.merges", ARRAY, ["a b"], STRING), entry("tokenizer.ggml.bos_token_id", U32, 0),
       entry("tokenizer.ggml.add_bos_token", BOOL, True)]
spm = [entry("tokenizer.ggml.model", STRING, "llama"),
       entry("tokenizer.ggml.tokens", ARRAY, ["<unk>", "<s>", sign, "a", "aa", "<0x0A>"], STRING),
       entry("tokenizer.ggml.token_type", ARRAY, [2, 3, 1, 1, 1, 6], 5),
       entry("tokenizer.ggml.scores", ARRAY, [0.0, 0.0, -1.0, -2.0, -3.0, 0.0], F32)]
write("gguf", "llama-bpe.gguf", gguf(model("llama", bpe), weights("llama")))
write("gguf", "llama-spm.gguf", gguf(model("llama", spm), weights("llama")))
write("gguf", "qwen2.gguf", gguf(model("qwen2", bpe), weights("qwen2")))
blocks = [("q%d" % kind, [256], kind, bytes(range(256))[:n] * 1) for kind, n in
          [(2, 144), (8, 0), (12, 144), (14, 210)]]
write("gguf", "blocks.gguf", gguf(model("llama", bpe), [b for b in blocks if b[3]]))
