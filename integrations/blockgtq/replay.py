"""Puts a plan of ropebits into the objects of the published Block-GTQ code: README.md beside this file.

    from replay import read_plan, unaccelerated_quantizers, production_quantizers
    plan = read_plan("plan.json")
    keys, values = unaccelerated_quantizers(plan, "cpu")
    patch_model_kv(model, keys, values, plan["model"]["head_dim"], plan["model"]["n_kv_heads"])

Written for github.com/JIA-Lab-research/blockgtq at commit 3fe14e7. It must be importable as blockgtq where quantizers
are made; reading a plan and saying whether it can be replayed needs Python only:

    python3 replay.py plan.json
"""
import argparse
import contextlib
import json
import sys

COMMIT = "3fe14e7"
FP16 = 16           # width of values that are not quantized
KEY_SEED, VALUE_SEED = 42, 1000
PRODUCTION_VALUE_WIDTHS = range(1, 5)  # a value's code is half a byte there


class CannotReplay(ValueError):
    """The plan says something that the published code has no place for."""


# ---- the plan --------------------------------------------------------------------------------------------------------
def read_plan(path):
    """The JSON of a plan that the published code can express."""
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    if not isinstance(plan, dict) or plan.get("schema") != "ropebits-plan":
        raise CannotReplay(f"{path} is not a plan.json: it has no schema ropebits-plan")
    try:
        refuse_plan(plan)
    except CannotReplay as error:
        raise CannotReplay(f"{path}: {error}") from None
    except KeyError as error:
        raise CannotReplay(f"{path} is no whole plan.json: it has no {error}") from None
    return plan


def refuse(condition, sentence):
    if condition:
        raise CannotReplay(sentence)


def refuse_plan(plan):
    model = plan["model"]
    for name in "sink", "recent":
        refuse(plan.get(name), f"{name} is {plan.get(name)}, but the published code keeps no exact tokens")
    pairing = model["rope"]["pairing"]
    refuse(pairing != "split-half", f"RoPE pairing is {pairing}, but the published code has split-half only")
    refuse(model["rotary_dim"] != model["head_dim"],
           f"RoPE turns {model['rotary_dim']} of {model['head_dim']} dims, but the published code turns all")
    refuse("value_dim" in model, "the cache is latent (value_dim), which the published code does not do")
    refuse("value_heads" in plan, "values are of family trellis, but the published code has groups only")
    codebook = plan["values"]["codebook"]
    refuse(codebook != "block-gtq", f"the values' codebook is {codebook}, but the published code has block-gtq")
    for layer in plan["layers"]:
        for head in layer["kv_heads"]:
            try:
                refuse_head(head, model["head_dim"])
            except CannotReplay as error:
                raise CannotReplay(f"layer {layer['layer']} kv_head {head['kv_head']}: {error}") from None


def refuse_head(head, head_dim):
    refuse("family" in head, f"family is {head.get('family')}, but the published code has groups only")
    for name, published in ("norm", "fp16"), ("encoder", "nearest"):
        found = head.get(name, published)
        refuse(found != published, f"{name} is {found}, but the published code has {published}")
    for name in "scales", "center":
        refuse(name in head, f"keys have {name}, but the published code codes them as they are")
    refuse(0 in head["bits"], "a block has width 0, but the published code gives every block a bit")
    widths = [group["width"] for group in head["groups"]]
    refuse(len(set(widths)) != len(widths),
           "two groups have one width, but the published code makes a group of a width")
    for group in head["groups"]:
        refuse_group(group)


def refuse_group(group):
    width, rotation = group["width"], group["rotation"]
    found = [("order", group["order"], "block"), ("codebook", group["codebook"], "block-gtq"),
             ("rotation", rotation["kind"], "haar"), ("seed", rotation["seed"], KEY_SEED + width)]
    for name, value, published in found:
        refuse(value != published, f"the group of width {width} has {name} {value}, but the published code {published}")


def coding_order(bits):
    """Dims of a head in the order in which the plan codes them: blocks by width, those of one width ascending."""
    blocks = sorted(range(len(bits)), key=lambda block: bits[block])    # sorted is stable
    return [dim for block in blocks for dim in (block, block + len(bits))]


def value_width(plan, layer, head):
    values = plan["values"]
    return values["widths"][layer][head] if "widths" in values else values["width"]


def heads(plan):
    """[layer][KV head] of plan.json"""
    return [layer["kv_heads"] for layer in plan["layers"]]


# ---- their objects ---------------------------------------------------------------------------------------------------
def stable_bits(bits):
    """[block] widths whose argsort() is stable. The published code sorts blocks by width with torch's argsort, which
    may order equals as it likes, and that order is a part of the rotation."""
    import torch

    class StableBits(torch.Tensor):
        def argsort(self, *args, **kwargs):
            return torch.argsort(self.as_subclass(torch.Tensor), stable=True)

    return torch.tensor(bits, dtype=torch.long).as_subclass(StableBits)


def check_order(quantizer, head):
    """What was made must code the dims of a head in the plan's order, in as many groups."""
    order, expected = quantizer._head_perm.tolist(), coding_order(head["bits"])
    if order != expected:
        at = next(i for i, (a, b) in enumerate(zip(order, expected)) if a != b)
        raise CannotReplay(f"blockgtq codes dim {order[at]} in place {at}, where the plan has dim {expected[at]}: this "
                           f"was written for its commit {COMMIT}")
    if quantizer._n_groups != len(head["groups"]):
        raise CannotReplay(f"blockgtq makes {quantizer._n_groups} groups, the plan has {len(head['groups'])}: this was "
                           f"written for its commit {COMMIT}")


def key_pipeline(head, head_dim, device):
    """A BlockGTQPipeline that codes as the head of the plan says. rotation_threshold 1: groups of 1 bit are rotated."""
    from blockgtq.block_gtq_pipeline import BlockGTQPipeline
    pipeline = BlockGTQPipeline(head_dim=head_dim, avg_bits=average(head["bits"]), rotation_threshold=1, device=device)
    pipeline.bit_allocation = stable_bits(head["bits"])
    pipeline._post_allocation_setup(summary="plan")
    check_order(pipeline, head)
    return pipeline


def average(bits):
    return sum(bits) / len(bits)


class Unchanged:
    """Stands where a quantizer of values would, where the plan leaves values in fp16."""

    def compress_decompress(self, x):
        return x


def unaccelerated_quantizers(plan, device):
    """([layer][KV head] of keys, the same of values) for blockgtq.unaccelerated.patch_model_kv: keys before RoPE, as
    the plan has them."""
    import torch
    from blockgtq.tq import TurboQuantMSE
    device, head_dim = torch.device(device), plan["model"]["head_dim"]

    def values(layer, h):
        width = value_width(plan, layer, h)
        return Unchanged() if width == FP16 else TurboQuantMSE(d=head_dim, bit_width=width, seed=VALUE_SEED + h,
                                                               device=device)

    keys = [[key_pipeline(head, head_dim, device) for head in layer] for layer in heads(plan)]
    return keys, [[values(l, h) for h in range(len(layer))] for l, layer in enumerate(keys)]


@contextlib.contextmanager
def allocation_of(head):
    """While it lasts, the allocator that BlockGTQPipeline.calibrate calls answers with the plan's widths."""
    from blockgtq import block_gtq_pipeline
    theirs = block_gtq_pipeline.greedy_bit_allocation
    block_gtq_pipeline.greedy_bit_allocation = lambda *args, **kwargs: stable_bits(head["bits"])
    try:
        yield
    finally:
        block_gtq_pipeline.greedy_bit_allocation = theirs


def put_value_codebook(quantizer, width, head_dim, device):
    """The production quantizer makes its codebook of values from drawn samples; the plan's is that of the keys."""
    from blockgtq.block_gtq_pipeline import _optimal_centroids_torch
    centroids = _optimal_centroids_torch(width, head_dim, device)
    quantizer._v_quantizer.centroids = quantizer._v_centroids_f32 = centroids
    quantizer._v_quantizer.boundaries = quantizer._v_boundaries = (centroids[:-1] + centroids[1:]) / 2


def production_quantizer(head, head_dim, width, device):
    """A BlockGTQQuantizer of keys and values of one KV head."""
    import torch
    from blockgtq.quantizer import BlockGTQQuantizer
    quantizer = BlockGTQQuantizer(head_dim=head_dim, avg_bits=average(head["bits"]), rotation_threshold=1,
                                  device=device)
    nothing = torch.zeros(1, head_dim, device=device)
    with allocation_of(head):
        quantizer.calibrate(nothing, nothing)
    check_order(quantizer, head)
    quantizer.init_v_quantizer(v_bits=width, seed=VALUE_SEED + head["kv_head"])
    put_value_codebook(quantizer, width, head_dim, device)
    return quantizer


def production_value_width(plan):
    """The one width of all values."""
    widths = {value_width(plan, l, h) for l, layer in enumerate(heads(plan)) for h in range(len(layer))}
    refuse(len(widths) > 1, f"values have widths {sorted(widths)}, but the production cache has one for all heads")
    width = widths.pop()
    refuse(width not in PRODUCTION_VALUE_WIDTHS, f"values have width {width}, but the production cache packs "
           f"{PRODUCTION_VALUE_WIDTHS[0]} to {PRODUCTION_VALUE_WIDTHS[-1]}")
    return width


def production_quantizers(plan, device="cuda"):
    """(quantizers, batched_args, kernel_args) as blockgtq.calibration.build_quantizers returns them, for
    BlockGTQProductionCache(..., v_bits=production_value_width(plan)). It codes keys after RoPE: see README.md."""
    import torch
    from blockgtq.quantizer import build_batched_encode_args
    width, device, head_dim = production_value_width(plan), torch.device(device), plan["model"]["head_dim"]
    quantizers = [[production_quantizer(head, head_dim, width, device) for head in layer] for layer in heads(plan)]
    return (quantizers, [build_batched_encode_args(layer, device=device) for layer in quantizers],
            [[quantizer.build_kernel_args() for quantizer in layer] for layer in quantizers])


def main():
    parser = argparse.ArgumentParser(description="Says whether the published Block-GTQ code can replay a plan.")
    parser.add_argument("plan", help="plan.json")
    path = parser.parse_args().plan
    try:
        plan = read_plan(path)
    except (OSError, ValueError) as error:
        print(f"replay: error: {error}", file=sys.stderr)
        return 1
    try:
        print(f"{path}: the unaccelerated path and the production cache, values of {production_value_width(plan)} bits")
    except CannotReplay as error:
        print(f"{path}: the unaccelerated path only: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
