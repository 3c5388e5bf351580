"""Rewrites what of CUDA is no C++ for cuda_runtime.h beside this: launches, and shared memory of a size that the launch
gives.

    python3 rewrite.py FOLDER     every .cu and .cuh there, in place; .cu becomes .cpp
"""
import pathlib
import re
import sys

LAUNCH = re.compile(r"([\w:]+(?:<\w+>)?)\s*<<<(.*?)>>>\s*\((.*?)\);", re.S)


def split(text):
    """At commas that stand in no brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]


def launch(match):
    grid, block, size, stream = split(match.group(2))
    return f"CPU_LAUNCH(({grid}), {block}, {size}, {stream}, {match.group(1)}({match.group(3)}));"


for path in list(pathlib.Path(sys.argv[1]).glob("*.cu*")):
    text = LAUNCH.sub(launch, path.read_text())
    text = re.sub(r"extern __shared__ (__align__\(\d+\) )?(\w+) (\w+)\[\];",
                  r"\2 *const \3 = reinterpret_cast<\2 *>(cpu_shared);", text)
    path.with_suffix(".cpp" if path.suffix == ".cu" else path.suffix).write_text(text)
