#!/bin/sh
# The CUDA architectures to compile for on this host, as "90" or "80 90": those of its GPUs. Where there is none, an old
# one and a new one: together they take every branch of the kernels, those for sm_80 and later and those for before.
capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
    tr -d '. ' | grep -xE '[0-9]+' | sort -nu | tr '\n' ' ')
capabilities=${capabilities:-75 90}
echo "${capabilities% }"
