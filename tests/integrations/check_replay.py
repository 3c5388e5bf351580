"""check_replay.py PLAN.json [CHECKOUT]: replay.py puts a plan into blockgtq's objects and refuses what they cannot say.

Without CHECKOUT, the folder of the published code, blockgtq is the double beside this file. One line a case."""
import copy
import json
import sys
import tempfile
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parents[1] / "integrations" / "blockgtq"))
sys.path.insert(0, sys.argv[2] if len(sys.argv) > 2 else str(here / "blockgtq_double"))
import replay

n_bad = 0


def tell(name, is_good):
    global n_bad
    n_bad += not is_good
    print(f"{'ok' if is_good else 'not ok'}: {name}")


# ---- what it refuses -------------------------------------------------------------------------------------------------
def set_in(path, value):
    """A change of a plan: the member at path, given as names and numbers."""
    def change(plan):
        for name in path[:-1]:
            plan = plan[name]
        plan[path[-1]] = value
    return change


HEAD = ("layers", 1, "kv_heads", 1)
GROUP = (*HEAD, "groups", 0)
REFUSED = [
    (set_in(("sink",), 4), "sink is 4"),
    (set_in(("recent",), 128), "recent is 128"),
    (set_in(("model", "rope", "pairing"), "interleaved"), "pairing is interleaved"),
    (set_in(("model", "rotary_dim"), 32), "RoPE turns 32 of 64 dims"),
    (set_in(("model", "value_dim"), 512), "latent"),
    (set_in(("value_heads",), []), "values are of family trellis"),
    (set_in(("values", "codebook"), "sphere"), "codebook is sphere"),
    (set_in((*HEAD, "family"), "block-codebook"), "layer 1 kv_head 1: family is block-codebook"),
    (set_in((*HEAD, "norm"), "log8"), "norm is log8"),
    (set_in((*HEAD, "encoder"), "search"), "encoder is search"),
    (set_in((*HEAD, "scales"), [1] * 32), "keys have scales"),
    (set_in((*HEAD, "center"), [0] * 64), "keys have center"),
    (set_in((*HEAD, "bits", 3), 0), "a block has width 0"),
    (set_in((*GROUP, "order"), "natural"), "order natural"),
    (set_in((*GROUP, "codebook"), "sphere"), "codebook sphere"),
    (set_in((*GROUP, "rotation", "kind"), "hadamard"), "rotation hadamard"),
    (set_in((*GROUP, "rotation", "seed"), 7), "seed 7"),
    (lambda plan: plan["layers"][1]["kv_heads"][1]["groups"].append(plan["layers"][1]["kv_heads"][1]["groups"][0]),
     "two groups have one width"),
    (set_in(("schema",), "ropebits-capture"), "is not a plan.json"),
    (lambda plan: plan.pop("layers"), "has no 'layers'"),
]


def refusal(plan):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        try:
            replay.read_plan(file.name)
        except replay.CannotReplay as error:
            return str(error)
    return ""


def check_refusals(plan):
    for change, sentence in REFUSED:
        changed = copy.deepcopy(plan)
        change(changed)
        found = refusal(changed)
        tell(f"refuses: {sentence}{'' if sentence in found else f' (said: {found})'}", sentence in found)


def check_value_widths(plan):
    cases = ({"width": 16}, "width 16"), ({"width": 5}, "width 5"), ({"widths": [[2, 3]] * 4}, "[2, 3]")
    for values, sentence in cases:
        plan["values"] = {"codebook": "block-gtq", **values}
        try:
            replay.production_value_width(plan)
            found = ""
        except replay.CannotReplay as error:
            found = str(error)
        tell(f"the production cache refuses values of {sentence}", sentence in found)


# ---- what it makes ---------------------------------------------------------------------------------------------------
def plan_order(head):
    """Dims in coding order, from the groups of the plan."""
    half = len(head["bits"])
    groups = sorted(head["groups"], key=lambda group: group["width"])
    return [dim for group in groups for block in group["blocks"] for dim in (block, block + half)]


def check_unaccelerated(plan):
    keys, values = replay.unaccelerated_quantizers(plan, "cpu")
    theirs = [(q, head) for layer, heads in zip(keys, replay.heads(plan)) for q, head in zip(layer, heads)]
    tell("keys: a quantizer a head", len(theirs) == plan["model"]["n_layers"] * plan["model"]["n_kv_heads"])
    tell("  with the widths of the plan", all(q.bit_allocation.tolist() == head["bits"] for q, head in theirs))
    tell("  and its order of dims", all(q._head_perm.tolist() == plan_order(head) for q, head in theirs))
    tell("  and rotation of groups of 1 bit", all(q.rotation_threshold == 1 for q, _ in theirs))
    if len(sys.argv) == 2:
        tell("values: width and seed", all((v.d, v.bit_width, v.seed) == (64, 3, 1000 + h)
                                           for layer in values for h, v in enumerate(layer)))
    plan["values"]["width"] = 16
    x = object()
    tell("values that stay fp16 are left as they are",
         replay.unaccelerated_quantizers(plan, "cpu")[1][0][0].compress_decompress(x) is x)


def check_production(plan):
    import blockgtq.block_gtq_pipeline as pipeline
    theirs = pipeline.greedy_bit_allocation
    quantizers, batched, kernels = replay.production_quantizers(plan, "cpu")
    pairs = [(q, head) for layer, heads in zip(quantizers, replay.heads(plan)) for q, head in zip(layer, heads)]
    tell("production: the widths of the plan", all(q.bit_allocation.tolist() == head["bits"] for q, head in pairs))
    tell("  and its order of dims", all(q._head_perm.tolist() == plan_order(head) for q, head in pairs))
    tell("  and rotation of groups of 1 bit", all(q.rotation_threshold == 1 for q, _ in pairs))
    tell("  the seed of values", all(q._v_quantizer.seed == 1000 + head["kv_head"] for q, head in pairs))
    expected = pipeline._optimal_centroids_torch(3, 64, "cpu")
    tell("  the codebook of values", all(q._v_quantizer.centroids.equal(expected) and q._v_centroids_f32.equal(expected)
                                         and len(q._v_boundaries) == 7 for q, _ in pairs))
    tell("  arguments a layer and a head, with that codebook",
         len(batched) == len(kernels) == 4 and batched[3]["v_cent_stack"][1].equal(expected)
         and kernels[1][1]["of"] is quantizers[1][1])
    tell("their allocator is back", pipeline.greedy_bit_allocation is theirs)


def check_other_version(plan):
    """A pipeline that sorts otherwise, as another commit might."""
    import blockgtq.block_gtq_pipeline as pipeline
    theirs, pipeline.unstable_argsort = pipeline.unstable_argsort, lambda bits: bits.argsort().flip(0)
    try:
        replay.unaccelerated_quantizers(plan, "cpu")
        found = ""
    except replay.CannotReplay as error:
        found = str(error)
    pipeline.unstable_argsort = theirs
    tell("another order of dims is found out", "written for its commit" in found)


def main():
    plan = replay.read_plan(sys.argv[1])
    load = lambda: copy.deepcopy(plan)
    check_refusals(load())
    check_value_widths(load())
    try:
        import torch  # noqa: F401, what follows needs it
    except ImportError:
        print("no torch")
        return 77
    check_unaccelerated(load())
    if len(sys.argv) == 2:
        check_production(load())
        check_other_version(load())
    return 1 if n_bad else 0


if __name__ == "__main__":
    code = main()
    sys.exit(1 if n_bad else code)
